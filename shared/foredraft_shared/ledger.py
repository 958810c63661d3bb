"""The text of a session, as both sides keep it. No I/O, and no idea which side it serves.

A ledger holds the committed tokens and the drafts in flight. Every draft names the text it continues by its length
(``base``) and a hash of it (``digest``); every verdict names its round and base. Two numbers therefore tell for any
message whether it is *current*, *stale* (about text already committed), *ahead* (about text still to be committed) or
*diverged* (about text that will never be): nothing is guessed, and a message that does not fit changes nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence

from .errors import Diverged, StaleVerdict
from .messages import Decode, Draft, Position, SessionId, TokenId, Verdict

__all__ = ["EMPTY_DIGEST", "Ledger", "Relation", "extend_digest"]

_MASK = (1 << 64) - 1
EMPTY_DIGEST = 0x243F6A8885A308D3
"""Digest of no tokens (the first bits of pi's fraction)."""


def extend_digest(digest: int, tokens: Iterable[TokenId]) -> int:
    """The digest of a text followed by ``tokens``; 64 bits, order-sensitive, not cryptographic.

    Each step is the finaliser of SplitMix64 (Steele, Lea, Flood, 2014) over the digest so far and the next token.
    """
    for token in tokens:
        digest = (digest ^ (token + 1)) * 0x9E3779B97F4A7C15 & _MASK
        digest = (digest ^ (digest >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
        digest ^= digest >> 31
    return digest


class Relation(enum.Enum):
    """How a draft stands to the committed text."""

    CURRENT = "current"
    """It continues exactly the committed text."""
    AHEAD = "ahead"
    """It continues a longer text, which may yet be committed (a chained round)."""
    STALE = "stale"
    """It continues an earlier part of the committed text."""
    DIVERGED = "diverged"
    """It continues a text of the same or a lesser length that is not ours."""


class Ledger:
    """Committed tokens of one session and the drafts in flight.

    Args:
        session: sixteen bytes.
        prompt: at least one token.
        epoch: what this side stamps on its drafts and expects on verdicts.
    """

    def __init__(self, session: SessionId, prompt: Sequence[TokenId], epoch: int = 1) -> None:
        if not prompt:
            raise ValueError("a session begins with at least one prompt token")
        self.session = session
        self.epoch = epoch
        self.prompt_length = len(prompt)
        self._tokens: list[TokenId] = []
        self._digests: list[int] = [EMPTY_DIGEST]  # [length + 1]: the digest of every prefix
        self._in_flight: dict[int, Draft | Decode] = {}
        self._assumed: dict[int, tuple[TokenId, ...]] = {}
        """Of a chained round: the tokens it takes to lie between the committed text and its base."""
        self._next_round = 1
        self.extend(prompt)

    # --- what is committed

    @property
    def length(self) -> Position:
        """Number of committed tokens, prompt included."""
        return len(self._tokens)

    @property
    def tokens(self) -> Sequence[TokenId]:
        """All committed tokens, prompt included; a view, not to be changed."""
        return self._tokens

    @property
    def written(self) -> Sequence[TokenId]:
        """The committed tokens after the prompt."""
        return self._tokens[self.prompt_length :]

    @property
    def digest(self) -> int:
        return self._digests[-1]

    # --- rounds

    @property
    def in_flight(self) -> Sequence[Draft | Decode]:
        """Rounds without a verdict, oldest first."""
        return tuple(self._in_flight.values())

    def propose(self, tokens: Sequence[TokenId], *, assuming: Sequence[TokenId] = (), forced: int = 0) -> Draft:
        """Begin a round: a draft of ``tokens`` that continues the committed text.

        Args:
            assuming: tokens expected to be committed before (a chained round).
            forced: how many leading tokens the target must take as given.
        """
        if not 0 <= forced <= len(tokens):
            raise ValueError(f"forced is {forced} of {len(tokens)} draft tokens")
        base = self.length + len(assuming)
        digest = extend_digest(self.digest, assuming)
        draft = Draft(self.session, self.epoch, self._take_round(), base, digest, tuple(tokens), forced)
        self._in_flight[draft.round] = draft
        self._assumed[draft.round] = tuple(assuming)
        return draft

    def request(self, count: int) -> Decode:
        """Begin a round in which the target writes ``count`` tokens alone."""
        if count < 1:
            raise ValueError(f"cannot decode {count} tokens")
        decode = Decode(self.session, self.epoch, self._take_round(), self.length, self.digest, count)
        self._in_flight[decode.round] = decode
        return decode

    def renew(self, round_: Decode) -> Decode:
        """Ask anew for what is left of a round begun by :meth:`request`: from the present text on, as another round."""
        self._forget(round_.round)
        return self.request(round_.base + round_.count - self.length)

    def receive(self, round_: Draft | Decode) -> Relation:
        """Take note of a round the other side began, if it continues the committed text; say how it stands to it."""
        relation = self.relation(round_)
        if relation is Relation.CURRENT:
            self._in_flight[round_.round] = round_
            self._next_round = max(self._next_round, round_.round + 1)
        return relation

    def relation(self, round_: Draft | Decode) -> Relation:
        """How a round stands to the committed text; changes nothing."""
        if round_.base > self.length:
            return Relation.AHEAD
        if self._digests[round_.base] != round_.digest:
            return Relation.DIVERGED
        return Relation.CURRENT if round_.base == self.length else Relation.STALE

    def commit(self, verdict: Verdict) -> tuple[TokenId, ...]:
        """Commit what a verdict says and return the new tokens: the accepted drafts and the target's own.

        A round begun by :meth:`request` takes several verdicts, each one token further.

        Raises:
            StaleVerdict: it is about text already committed, of an older epoch, or of a round given up. Drop it.
            Diverged: it cannot be true of this text. Nothing was changed.
        """
        if verdict.epoch != self.epoch:
            raise StaleVerdict(f"verdict of epoch {verdict.epoch}; this is epoch {self.epoch}")
        round_ = self._in_flight.get(verdict.round)
        if round_ is None:
            raise StaleVerdict(f"verdict for round {verdict.round}, which is not in flight")
        if verdict.base < self.length:
            raise StaleVerdict(f"verdict at base {verdict.base}; {self.length} tokens are committed")
        if verdict.base > self.length:
            raise Diverged(f"verdict at base {verdict.base}, but only {self.length} tokens are committed")
        if isinstance(round_, Decode):
            if verdict.accepted:
                raise Diverged(f"verdict accepts {verdict.accepted} draft tokens of a round that had none")
            done = verdict.base + 1 >= round_.base + round_.count
            tokens: tuple[TokenId, ...] = (verdict.token,)
        else:
            if round_.base != verdict.base or round_.digest != self.digest:
                raise Diverged(f"round {verdict.round} does not continue the committed text")
            if verdict.accepted > len(round_.tokens) or (verdict.accepted < round_.forced and not verdict.finish):
                raise Diverged(f"verdict accepts {verdict.accepted} of {len(round_.tokens)} draft tokens")
            if not verdict.finish and round_.tokens[verdict.accepted :][:1] == (verdict.token,):
                # Who judged this draft would have gone on: it is about another one, and says nothing of the rest of ours.
                raise Diverged(
                    f"verdict ends at draft token {verdict.accepted} of {len(round_.tokens)}, but agrees with it"
                )
            done = True
            tokens = (*round_.tokens[: verdict.accepted], verdict.token)
        if verdict.finish:
            self.abandon()  # nothing follows
        elif done:
            self._forget(verdict.round)
        self.extend(tokens)
        return tokens

    def abandon(self) -> None:
        """Forget every round in flight: their verdicts will be stale."""
        self._in_flight.clear()
        self._assumed.clear()

    def raise_epoch(self, above: int = 0) -> int:
        """Begin a new epoch, beyond ``above``: everything said in an older one is void. Returns the new epoch."""
        self.epoch = max(self.epoch, above) + 1
        self.abandon()
        return self.epoch

    def extend(self, tokens: Iterable[TokenId]) -> None:
        """Commit ``tokens`` without a verdict: the prompt, a resumed text, or what this side itself decided.

        Chained rounds that assumed other tokens are forgotten: they will get no verdict.
        """
        tokens = tuple(tokens)
        for token in tokens:
            self._tokens.append(token)
            self._digests.append(extend_digest(self._digests[-1], (token,)))
        for number, assumed in list(self._assumed.items()):
            if assumed[: len(tokens)] == tokens:
                self._assumed[number] = assumed[len(tokens) :]
            else:
                self._forget(number)

    # --- inside

    def _take_round(self) -> int:
        round_ = self._next_round
        self._next_round += 1
        return round_

    def _forget(self, number: int) -> None:
        del self._in_flight[number]
        self._assumed.pop(number, None)
