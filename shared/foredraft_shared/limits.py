"""What a message may contain: the ranges that both sides hold each other to.

Checked before bytes are sent and after they are read, by the same function, so that nothing leaves here that the other
side would refuse, and nothing gets in that later code would have to doubt. What only one side can know (is the token in
*this* vocabulary, does the prompt fit *this* context) is checked there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .messages import (
    Close,
    Decode,
    Draft,
    Failure,
    GoAway,
    Hello,
    Hint,
    Message,
    NeedResume,
    Open,
    Ping,
    Pong,
    Resume,
    Resync,
    Verdict,
    Welcome,
)

__all__ = [
    "MAX_DRAFT_TOKENS",
    "MAX_FAILURE_CHARACTERS",
    "MAX_MESSAGE_BYTES",
    "MAX_SEQUENCE_TOKENS",
    "MAX_TOKEN_ID",
    "SESSION_BYTES",
    "check",
]

SESSION_BYTES = 16
MAX_MESSAGE_BYTES = 4 * 2**20
"""Longest message in bytes; ZeroMQ drops the connection of a peer that sends a longer one."""
MAX_TOKEN_ID = 2**31 - 1
MAX_SEQUENCE_TOKENS = 800_000
"""Longest prompt or resumed text: at five bytes a token it still fits one message."""
MAX_DRAFT_TOKENS = 1024
"""Longest draft, and the longest tail of a :class:`Resync`."""
MAX_STOP_TOKENS = 256
MAX_EXITS = 1024
MAX_ENDPOINTS = 64
MAX_NAME_CHARACTERS = 512
MAX_FAILURE_CHARACTERS = 1024

_U32 = 2**32 - 1
_U64 = 2**64 - 1


def check(message: Message) -> None:
    """Hold a message to the ranges of the protocol.

    Raises:
        ValueError: a field is outside its range; the text names it.
    """
    _CHECKS[type(message)](message)


def _within(what: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{what} is {value}, not from {low} to {high}")


def _tokens(what: str, tokens: Sequence[int], fewest: int, most: int) -> None:
    _within(f"number of {what}", len(tokens), fewest, most)
    if tokens and not (min(tokens) >= 0 and max(tokens) <= MAX_TOKEN_ID):
        raise ValueError(f"a token id among the {what} is not from 0 to {MAX_TOKEN_ID}")


def _text(what: str, text: str, longest: int = MAX_NAME_CHARACTERS) -> None:
    if len(text) > longest:
        raise ValueError(f"{what} has {len(text)} characters, more than {longest}")


def _session(session: bytes, epoch: int = 1) -> None:
    if len(session) != SESSION_BYTES:
        raise ValueError(f"session id has {len(session)} bytes, not {SESSION_BYTES}")
    _within("epoch", epoch, 1, _U32)


def _opening(message: Open | Resume) -> None:
    _session(message.session, message.epoch)
    _within("max_tokens", message.max_tokens, 1, _U32)
    _tokens("stop tokens", message.stop_tokens, 0, MAX_STOP_TOKENS)
    _text("traceparent", message.traceparent)
    _within("lossy_exit", message.lossy_exit, 0, _U32)


def _open(message: Open) -> None:
    _opening(message)
    _tokens("prompt tokens", message.prompt, 1, MAX_SEQUENCE_TOKENS)


def _resume(message: Resume) -> None:
    _opening(message)
    _tokens("tokens", message.tokens, 1, MAX_SEQUENCE_TOKENS)
    _within("prompt_length", message.prompt_length, 1, len(message.tokens))


def _round(message: Draft | Decode | Verdict) -> None:
    _session(message.session, message.epoch)
    _within("round", message.round, 0, _U32)
    _within("base", message.base, 1, _U32)
    if not isinstance(message, Verdict):
        _within("round_trip_us", message.round_trip_us, 0, 100 * _U32)
        _within("deadline_ms", message.deadline_ms, 0, _U32)


def _draft(message: Draft) -> None:
    _round(message)
    _within("digest", message.digest, 0, _U64)
    _tokens("draft tokens", message.tokens, 0, MAX_DRAFT_TOKENS)
    _within("forced", message.forced, 0, len(message.tokens))


def _decode(message: Decode) -> None:
    _round(message)
    _within("digest", message.digest, 0, _U64)
    _within("count", message.count, 1, _U32)


def _verdict(message: Verdict) -> None:
    _round(message)
    _within("accepted", message.accepted, 0, MAX_DRAFT_TOKENS)
    _within("token", message.token, 0, MAX_TOKEN_ID)
    if message.finish not in Verdict.FINISH_REASONS:
        raise ValueError(f"finish is {message.finish!r}, not one of {', '.join(map(repr, Verdict.FINISH_REASONS))}")
    _within("queued_us", message.timing.queued_us, 0, 100 * _U32)
    _within("computed_us", message.timing.computed_us, 0, 100 * _U32)


def _hint(message: Hint) -> None:
    _session(message.session, message.epoch)
    _within("round", message.round, 0, _U32)
    _within("exit_layer", message.exit_layer, 0, _U32)
    _within("accepted", message.accepted, 0, MAX_DRAFT_TOKENS)
    _within("token", message.token, 0, MAX_TOKEN_ID)
    if not 0.0 <= message.confidence <= 1.0:  # also refuses nan
        raise ValueError(f"confidence is {message.confidence}, not from 0 to 1")


def _resync(message: Resync) -> None:
    _session(message.session, message.epoch)
    _within("length", message.length, 1, _U32)
    _within("digest", message.digest, 0, _U64)
    _tokens("tail tokens", message.tail, 0, min(MAX_DRAFT_TOKENS, message.length))


def _hello(message: Hello) -> None:
    _within("protocol", message.protocol, 0, _U32)
    _text("fingerprint", message.fingerprint)
    _text("device", message.device)


def _welcome(message: Welcome) -> None:
    _within("protocol", message.protocol, 0, _U32)
    _within("server_epoch", message.server_epoch, 0, _U64)
    for what in ("model", "fingerprint", "dtype"):
        _text(what, getattr(message, what))
    _within("vocabulary", message.vocabulary, 1, MAX_TOKEN_ID + 1)
    _within("context", message.context, 1, _U32)
    _within("number of exits", len(message.exits), 0, MAX_EXITS)
    if any(not 1 <= layer <= _U32 for layer in message.exits) or list(message.exits) != sorted(set(message.exits)):
        raise ValueError("exits are not layers in ascending order")
    _within("max_draft", message.max_draft, 0, MAX_DRAFT_TOKENS)
    _within("lossy_exit", message.lossy_exit, 0, _U32)


def _failure(message: Failure) -> None:
    _text("code", message.code, 64)
    _text("message", message.message, MAX_FAILURE_CHARACTERS)
    _within("retry_after_ms", message.retry_after_ms, 0, _U32)
    if message.session:
        _session(message.session)


def _go_away(message: GoAway) -> None:
    _within("retry_after_ms", message.retry_after_ms, 0, _U32)
    _within("number of endpoints", len(message.endpoints), 0, MAX_ENDPOINTS)
    for endpoint in message.endpoints:
        _text("endpoint", endpoint)


def _close(message: Close) -> None:
    _session(message.session, message.epoch)


def _need_resume(message: NeedResume) -> None:
    _session(message.session, message.epoch)


def _ping(message: Ping | Pong) -> None:
    _within("nonce", message.nonce, 0, _U64)


_CHECKS: dict[type, Callable[[Any], None]] = {
    Hello: _hello,
    Open: _open,
    Draft: _draft,
    Decode: _decode,
    Resume: _resume,
    Close: _close,
    Ping: _ping,
    Welcome: _welcome,
    Hint: _hint,
    Verdict: _verdict,
    Resync: _resync,
    NeedResume: _need_resume,
    GoAway: _go_away,
    Pong: _ping,
    Failure: _failure,
}
