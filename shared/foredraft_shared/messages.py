"""What edge and cloud say to each other: one frozen dataclass a message.

The life of a request, in order: the edge says :class:`Hello` and learns from :class:`Welcome` what the server runs; it
:class:`Open`\\ s a session with the prompt, sends :class:`Draft`\\ s, perhaps reads :class:`Hint`\\ s, and commits what each
:class:`Verdict` says; at last it :class:`Close`\\ s. ``docs/protocol.md`` tells the rules; :mod:`foredraft_shared.wire`
the bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

from .errors import InvalidSampling

__all__ = [
    "PROTOCOL_VERSION",
    "Close",
    "CloudMessage",
    "Decode",
    "Draft",
    "EdgeMessage",
    "Failure",
    "FinishReason",
    "GoAway",
    "Hello",
    "Hint",
    "Message",
    "NeedResume",
    "Open",
    "Ping",
    "Pong",
    "Position",
    "Resume",
    "Resync",
    "SamplingParams",
    "SessionId",
    "Timing",
    "TokenId",
    "Verdict",
    "Welcome",
]

PROTOCOL_VERSION = 1

TokenId: TypeAlias = int
"""Index into the target's vocabulary."""
Position: TypeAlias = int
"""Absolute index in the session, prompt included."""
SessionId: TypeAlias = bytes
"""Sixteen random bytes, made by the edge."""
FinishReason: TypeAlias = str
"""``""`` (goes on), ``"stop"`` (a stop token was written) or ``"length"`` (the limit was reached)."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the target's distribution becomes a token; applied in the order of the fields.

    Raises:
        InvalidSampling: a value is outside its range.
    """

    temperature: float = 0.0
    """0 is greedy: the most probable token, whatever the other fields say."""
    top_k: int = 0
    """Keep the ``top_k`` most probable tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of most probable tokens whose mass reaches ``top_p``, in (0, 1]."""
    min_p: float = 0.0
    """Drop tokens less probable than ``min_p`` times the most probable one, in [0, 1)."""
    seed: int = 0
    """Names the noise: the same seed, prompt and target give the same text. 64 bits."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and 0.0 <= self.temperature <= 100.0):
            raise InvalidSampling(f"temperature is {self.temperature}; give a number from 0 (greedy) to 100.")
        if not 0 <= self.top_k < 2**31:
            raise InvalidSampling(f"top_k is {self.top_k}; give 0 (keep all) or a positive number of tokens.")
        if not 0.0 < self.top_p <= 1.0:
            raise InvalidSampling(f"top_p is {self.top_p}; give a number above 0 and at most 1 (keep all).")
        if not 0.0 <= self.min_p < 1.0:
            raise InvalidSampling(f"min_p is {self.min_p}; give a number from 0 (keep all) to below 1.")
        if not 0 <= self.seed < 2**64:
            raise InvalidSampling(f"seed is {self.seed}; give a whole number from 0 to 2**64 - 1.")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0


# --- from the edge ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hello:
    """First words of a connection; answered by :class:`Welcome` or :class:`Failure`."""

    protocol: int
    fingerprint: str
    """Of the tokenizer the edge drafts with; empty if it has none (cloud mode only)."""
    device: str = ""


@dataclass(frozen=True, slots=True)
class Open:
    """Begin a session. The server reads the prompt at once, before the first draft asks for a verdict."""

    session: SessionId
    prompt: tuple[TokenId, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_tokens: int = 256
    """The session ends with ``"length"`` once this many tokens follow the prompt."""
    stop_tokens: tuple[TokenId, ...] = ()
    """The session ends with ``"stop"`` after any of these; the stop token itself is committed."""
    epoch: int = 1
    hints: bool = True
    """Whether the edge acts on hints; without it the server spends nothing on its exits."""
    traceparent: str = ""
    """W3C trace context of the caller, or empty."""
    lossy_exit: int = 0
    """The layer whose exit the caller lets the server take as final (lossy); 0: full depth only."""


@dataclass(frozen=True, slots=True)
class Draft:
    """Tokens the edge expects to follow the first ``base`` ones; may be empty.

    ``base`` and ``digest`` name the text the draft continues. A draft may be sent before that text is committed (a
    *chained* round): the server starts it when its own verdicts reach exactly that text, and drops it otherwise.
    """

    session: SessionId
    epoch: int
    round: int
    """Counts up within an epoch; names the round in every answer to it."""
    base: Position
    digest: int
    """64-bit hash of the ``base`` tokens before the draft (see :mod:`foredraft_shared.ledger`)."""
    tokens: tuple[TokenId, ...]
    forced: int = 0
    """This many leading tokens are to be taken as given (lossy); the rest are verified."""
    round_trip_us: int = 0
    """What the link takes, both ways, by the device's own measure; said now and then, for operators. 0: not said."""
    deadline_ms: int = 0
    """How soon the device needs the verdict, counted from when it sent this; rounds with less time left are verified
    first. 0: it does not say."""


@dataclass(frozen=True, slots=True)
class Decode:
    """Let the cloud write the next ``count`` tokens alone: one :class:`Verdict` a token, streamed."""

    session: SessionId
    epoch: int
    round: int
    base: Position
    digest: int
    count: int
    round_trip_us: int = 0
    """See :class:`Draft`."""
    deadline_ms: int = 0
    """Of the first token. See :class:`Draft`."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Take up a session again, with its whole text; the server prefills what it no longer holds."""

    session: SessionId
    epoch: int
    """One more than before: everything of a lower epoch is void on both sides."""
    tokens: tuple[TokenId, ...]
    """Prompt and committed tokens."""
    prompt_length: int
    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_tokens: int = 256
    stop_tokens: tuple[TokenId, ...] = ()
    hints: bool = True
    traceparent: str = ""
    lossy_exit: int = 0
    """See :class:`Open`: a text goes on as it was begun."""


@dataclass(frozen=True, slots=True)
class Close:
    """The session is over; the server frees what it holds for it. Not answered."""

    session: SessionId
    epoch: int = 1


@dataclass(frozen=True, slots=True)
class Ping:
    """Answered by :class:`Pong` with the same ``nonce`` as soon as the server's own code runs."""

    nonce: int


# --- from the cloud --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Welcome:
    """What the server is."""

    protocol: int
    server_epoch: int
    """Random, new with every start of the server: sessions of another server epoch are gone."""
    model: str
    fingerprint: str
    vocabulary: int
    context: int
    """Longest session in tokens, prompt included."""
    exits: tuple[int, ...]
    """Layers after which the server can hint, ascending; full depth last."""
    dtype: str = ""
    max_draft: int = 64
    """Longest draft the server verifies in one round."""
    lossy_exit: int = 0
    """The layer whose exit the server takes as final (lossy): its tokens are not the model's own. 0: full depth."""
    pass_us: int = 0
    """A pass over one token, as lately measured, in microseconds. 0: the server does not know yet."""
    row_us: int = 0
    """What each further token of a draft adds to it."""


@dataclass(frozen=True, slots=True)
class Hint:
    """What the verdict of a round will probably be. May be lost, is never repeated, commits nothing."""

    session: SessionId
    epoch: int
    round: int
    exit_layer: int
    accepted: int
    token: TokenId
    confidence: float
    """Calibrated probability that the verdict will have the same ``accepted`` and ``token``."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the server's time for a round went, in microseconds."""

    queued_us: int = 0
    computed_us: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of a round: ``accepted`` draft tokens and the target's own ``token`` are committed. Final."""

    session: SessionId
    epoch: int
    round: int
    base: Position
    accepted: int
    token: TokenId
    finish: FinishReason = ""
    timing: Timing = field(default_factory=Timing)

    FINISH_REASONS: ClassVar[tuple[str, ...]] = ("", "stop", "length")


@dataclass(frozen=True, slots=True)
class Resync:
    """The server's text is not what a draft builds on: it holds ``length`` tokens with this digest."""

    session: SessionId
    epoch: int
    length: Position
    digest: int
    tail: tuple[TokenId, ...] = ()
    """The last tokens the server committed."""


@dataclass(frozen=True, slots=True)
class NeedResume:
    """The server does not hold this session (any more): send :class:`Resume`."""

    session: SessionId
    epoch: int = 1
    """Of the message it answers: one about an older epoch asks for a resume that is already under way."""


@dataclass(frozen=True, slots=True)
class GoAway:
    """The server is about to stop: finish what is in flight, come back after ``retry_after_ms`` or go elsewhere.

    The edge answers with one of its own, which says that it has read this one and all that came before it.
    """

    retry_after_ms: int = 0
    endpoints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pong:
    nonce: int


@dataclass(frozen=True, slots=True)
class Failure:
    """An error, as a message. ``code`` is that of an error class in :mod:`foredraft_shared.errors`."""

    code: str
    message: str
    """One sentence for a person, telling what to do."""
    retryable: bool = False
    session: SessionId = b""
    """Empty when the failure concerns the connection rather than one session."""
    retry_after_ms: int = 0
    """How long to wait before trying again; 0: the server does not say."""


EdgeMessage: TypeAlias = Hello | Open | Draft | Decode | Resume | Close | Ping | GoAway
CloudMessage: TypeAlias = Welcome | Hint | Verdict | Resync | NeedResume | GoAway | Pong | Failure
Message: TypeAlias = EdgeMessage | CloudMessage
