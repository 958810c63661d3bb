"""Messages as bytes: one protobuf ``Envelope`` each, small and never trusted.

A session is named by its sixteen bytes once, in :class:`Open` or :class:`Resume`, and from then on by a *channel*: a
small number given by the edge. So a connection needs a table on each side, and tables get lost (a server restarts, a
device comes back under a new address). The rules that keep this safe:

* Whoever encodes a message of the edge gives the channel; whoever decodes Open or Resume learns it.
* A channel is never given twice on a connection. A late message about a closed session therefore finds no session,
  instead of the next one.
* Two devices with one routing id get each other's messages, and both may have given the same channel. So a failure and a
  close carry a check of the session's name; and so does a verdict, once a channel has been given anew, which one device
  alone never does.
* A message on an unknown channel is :class:`UnknownChannel`, which carries the number: the cloud answers with
  :meth:`Codec.encode_need_resume` on that channel, and the edge, who gave it, knows which session is meant.

The same class serves both sides; what it encodes tells it which one it is.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError

from foredraft_protos import token_plane_pb2 as plane

from .errors import InvalidSampling, Malformed
from .limits import MAX_MESSAGE_BYTES, check
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
    SamplingParams,
    SessionId,
    Timing,
    Verdict,
    Welcome,
)

__all__ = ["CONFIDENCE_STEPS", "QUEUE_UNIT_US", "TIMING_UNIT_US", "Codec", "NoChannelError", "UnknownChannel"]

CONFIDENCE_STEPS = 127
"""Confidence travels in 127ths: the finest steps that fit one byte."""
TIMING_UNIT_US = 100
"""The times of a pass and of the link travel in units of this many microseconds, rounded."""
QUEUE_UNIT_US = 1000
"""Waiting travels in coarser ones: nearly every round waits for less than half of it, and then needs no byte."""

_EDGE_KINDS = (Open, Resume, Draft, Decode, Close)


class UnknownChannel(Malformed):
    """A message about a session whose channel is not in the table, or names another there.

    It was closed, or the table was lost since, or the message was meant for another connection.
    """

    code = "unknown_channel"

    def __init__(self, channel: int, kind: str, epoch: int) -> None:
        super().__init__(f"{kind} on channel {channel}, which names no session on this connection")
        self.channel = channel
        self.kind = kind
        """Field name of the envelope's body: ``"draft"``, ``"close"``…"""
        self.epoch = epoch


class NoChannelError(LookupError):
    """The cloud has something to say about a session that this connection has closed or never opened."""


class Codec:
    """Turns messages into bytes and back, for one connection.

    Args:
        max_channels: how many sessions the table holds. Beyond it the one longest unused is forgotten; a cloud that
            forgets asks for a resume, so this limits memory and loses nothing.
    """

    def __init__(self, max_channels: int = 4096) -> None:
        self._max_channels = max_channels
        self._session_of: OrderedDict[int, SessionId] = OrderedDict()
        self._channel_of: dict[SessionId, int] = {}
        self._next_channel = 0
        """Above all that were given or learnt."""
        self._shared = False
        """More than one device speaks here: a channel may be another session's to whom a message reaches."""

    def encode(self, message: Message) -> bytes:
        """The bytes of a message.

        Raises:
            ValueError: a field is out of its range (see :mod:`foredraft_shared.limits`).
            NoChannelError: a message of the cloud about a session that is not open on this connection.
        """
        check(message)
        envelope = plane.Envelope()
        session = getattr(message, "session", b"")
        if session:
            envelope.channel = self._give(session) if isinstance(message, _EDGE_KINDS) else self._look_up(session)
            envelope.epoch_less_one = getattr(message, "epoch", 1) - 1
        _ENCODERS[type(message)](envelope, message)
        kind = envelope.WhichOneof("body")
        if session and (kind in _CHECKED or (kind == "verdict" and self._shared)):
            getattr(envelope, kind).session_check = _session_check(session)
        if isinstance(message, Close):
            self._free(envelope.channel)
        data: bytes = envelope.SerializeToString()
        if len(data) > MAX_MESSAGE_BYTES:
            raise ValueError(f"a {type(message).__name__} of {len(data)} bytes exceeds {MAX_MESSAGE_BYTES}")
        return data

    def encode_need_resume(self, unknown: UnknownChannel) -> bytes:
        """The bytes of the :class:`NeedResume` that answers a message on a channel this side does not know."""
        # With the epoch of the message it answers, so that an edge that has resumed since can tell.
        envelope = plane.Envelope(channel=unknown.channel, epoch_less_one=unknown.epoch - 1)
        envelope.need_resume.SetInParent()
        data: bytes = envelope.SerializeToString()
        return data

    def decode(self, data: bytes) -> Message:
        """The message that ``data`` says, whatever ``data`` is.

        Raises:
            Malformed: no message, or one that breaks the rules.
            UnknownChannel: a message about a session this connection does not know.
        """
        if len(data) > MAX_MESSAGE_BYTES:
            raise Malformed(f"message of {len(data)} bytes; at most {MAX_MESSAGE_BYTES} are read")
        try:
            envelope = plane.Envelope.FromString(data)
        except DecodeError:
            raise Malformed(f"{len(data)} bytes that are not an envelope") from None
        kind = envelope.WhichOneof("body")
        if kind is None:
            raise Malformed("envelope without a message, or with one of a later version of the protocol")
        try:
            message = _DECODERS[kind](getattr(envelope, kind), self._session(envelope, kind), envelope)
            check(message)
        except (ValueError, InvalidSampling) as error:
            raise Malformed(f"{kind}: {error}") from None
        if isinstance(message, Open | Resume):
            anew = envelope.channel < self._next_channel and self._session_of.get(envelope.channel) != message.session
            self._shared = self._shared or anew
            self._next_channel = max(self._next_channel, envelope.channel + 1)
            self._learn(envelope.channel, message.session)
        elif isinstance(message, Close):
            self._free(envelope.channel)
        return message

    # --- the table

    def _session(self, envelope: Any, kind: str) -> SessionId:
        """The session an envelope is about; empty if it is about the connection."""
        if kind in _SESSION_IN_BODY:
            return bytes(getattr(envelope, kind).session)
        if kind in _ABOUT_CONNECTION or (kind == "failure" and not envelope.failure.concerns_session):
            return b""
        session = self._session_of.get(envelope.channel)
        told = getattr(getattr(envelope, kind), "session_check", 0)
        meant = session is not None and (told == _session_check(session) or not (told or kind in _CHECKED))
        if session is None or not meant:
            raise UnknownChannel(envelope.channel, kind, _epoch(envelope))
        self._session_of.move_to_end(envelope.channel)
        return session

    def _give(self, session: SessionId) -> int:
        channel = self._channel_of.get(session)
        if channel is None:
            channel = self._next_channel
            self._next_channel += 1
            self._learn(channel, session)
        self._session_of.move_to_end(channel)
        return channel

    def _look_up(self, session: SessionId) -> int:
        channel = self._channel_of.get(session)
        if channel is None:
            raise NoChannelError(f"session {session.hex()} is not open on this connection")
        return channel

    def _learn(self, channel: int, session: SessionId) -> None:
        if self._session_of.get(channel) != session:
            self._free(channel)
            self._free(self._channel_of.get(session, channel))
            while len(self._session_of) >= self._max_channels:
                self._free(next(iter(self._session_of)))
        self._session_of[channel] = session
        self._channel_of[session] = channel
        self._session_of.move_to_end(channel)

    def _free(self, channel: int) -> None:
        session = self._session_of.pop(channel, None)
        if session is not None:
            del self._channel_of[session]


def _session_check(session: SessionId) -> int:
    """Fourteen bits, so that it takes two bytes; never 0, which would not be sent."""
    return zlib.crc32(session) % 0x3FFF + 1


# --- one pair of functions a message: dataclass to envelope, envelope to dataclass ------------------------------------


def _sampling_bytes(sampling: SamplingParams) -> Any:
    return plane.Sampling(
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=None if sampling.top_p == 1.0 else sampling.top_p,
        min_p=sampling.min_p,
        seed=sampling.seed,
    )


def _limits_bytes(message: Open | Resume) -> Any:
    return plane.Limits(
        max_tokens=message.max_tokens,
        stop_tokens=message.stop_tokens,
        without_hints=not message.hints,
        lossy_exit=message.lossy_exit,
    )


def _common(body: Any) -> dict[str, Any]:
    """What Open and Resume share."""
    sampling = body.sampling
    return {
        "sampling": SamplingParams(
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p if sampling.HasField("top_p") else 1.0,
            min_p=sampling.min_p,
            seed=sampling.seed,
        ),
        "max_tokens": body.limits.max_tokens,
        "stop_tokens": tuple(body.limits.stop_tokens),
        "hints": not body.limits.without_hints,
        "traceparent": body.traceparent,
        "lossy_exit": body.limits.lossy_exit,
    }


def _encode_open(envelope: Any, message: Open) -> None:
    envelope.open.CopyFrom(
        plane.Open(
            session=message.session,
            prompt=message.prompt,
            sampling=_sampling_bytes(message.sampling),
            limits=_limits_bytes(message),
            traceparent=message.traceparent,
        )
    )


def _decode_open(body: Any, session: SessionId, envelope: Any) -> Open:
    return Open(session, tuple(body.prompt), epoch=_epoch(envelope), **_common(body))


def _encode_resume(envelope: Any, message: Resume) -> None:
    envelope.resume.CopyFrom(
        plane.Resume(
            session=message.session,
            tokens=message.tokens,
            prompt_length=message.prompt_length,
            sampling=_sampling_bytes(message.sampling),
            limits=_limits_bytes(message),
            traceparent=message.traceparent,
        )
    )


def _decode_resume(body: Any, session: SessionId, envelope: Any) -> Resume:
    return Resume(session, _epoch(envelope), tuple(body.tokens), body.prompt_length, **_common(body))


def _encode_draft(envelope: Any, message: Draft) -> None:
    body = envelope.draft
    body.round, body.base, body.digest, body.forced = message.round, message.base, message.digest, message.forced
    body.tokens.extend(message.tokens)
    body.round_trip = round(message.round_trip_us / TIMING_UNIT_US)
    body.deadline_ms = message.deadline_ms


def _decode_draft(body: Any, session: SessionId, envelope: Any) -> Draft:
    round_trip_us = body.round_trip * TIMING_UNIT_US
    return Draft(
        session,
        _epoch(envelope),
        body.round,
        body.base,
        body.digest,
        tuple(body.tokens),
        body.forced,
        round_trip_us,
        body.deadline_ms,
    )


def _encode_decode(envelope: Any, message: Decode) -> None:
    body = envelope.decode
    body.round, body.base, body.digest, body.count = message.round, message.base, message.digest, message.count
    body.round_trip = round(message.round_trip_us / TIMING_UNIT_US)
    body.deadline_ms = message.deadline_ms


def _decode_decode(body: Any, session: SessionId, envelope: Any) -> Decode:
    round_trip_us = body.round_trip * TIMING_UNIT_US
    return Decode(
        session, _epoch(envelope), body.round, body.base, body.digest, body.count, round_trip_us, body.deadline_ms
    )


def _encode_hint(envelope: Any, message: Hint) -> None:
    body = envelope.hint
    body.round, body.exit_layer = message.round, message.exit_layer
    body.accepted, body.token = message.accepted, message.token
    body.confidence = round(message.confidence * CONFIDENCE_STEPS)


def _decode_hint(body: Any, session: SessionId, envelope: Any) -> Hint:
    confidence = body.confidence / CONFIDENCE_STEPS
    return Hint(session, _epoch(envelope), body.round, body.exit_layer, body.accepted, body.token, confidence)


def _encode_verdict(envelope: Any, message: Verdict) -> None:
    body = envelope.verdict
    body.round, body.base, body.accepted, body.token = message.round, message.base, message.accepted, message.token
    body.finish = Verdict.FINISH_REASONS.index(message.finish)
    body.queued = round(message.timing.queued_us / QUEUE_UNIT_US)
    body.computed = round(message.timing.computed_us / TIMING_UNIT_US)


def _decode_verdict(body: Any, session: SessionId, envelope: Any) -> Verdict:
    if not 0 <= body.finish < len(Verdict.FINISH_REASONS):
        raise ValueError(f"finish reason {body.finish} is not known")
    timing = Timing(body.queued * QUEUE_UNIT_US, body.computed * TIMING_UNIT_US)
    finish = Verdict.FINISH_REASONS[body.finish]
    return Verdict(session, _epoch(envelope), body.round, body.base, body.accepted, body.token, finish, timing)


def _encode_resync(envelope: Any, message: Resync) -> None:
    envelope.resync.CopyFrom(plane.Resync(length=message.length, digest=message.digest, tail=message.tail))


def _decode_resync(body: Any, session: SessionId, envelope: Any) -> Resync:
    return Resync(session, _epoch(envelope), body.length, body.digest, tuple(body.tail))


def _encode_hello(envelope: Any, message: Hello) -> None:
    hello = plane.Hello(protocol=message.protocol, fingerprint=message.fingerprint, device=message.device)
    envelope.hello.CopyFrom(hello)


def _encode_welcome(envelope: Any, message: Welcome) -> None:
    envelope.welcome.CopyFrom(
        plane.Welcome(
            protocol=message.protocol,
            server_epoch=message.server_epoch,
            model=message.model,
            fingerprint=message.fingerprint,
            vocabulary=message.vocabulary,
            context=message.context,
            exits=message.exits,
            dtype=message.dtype,
            max_draft=message.max_draft,
            lossy_exit=message.lossy_exit,
            pass_us=message.pass_us,
            row_us=message.row_us,
        )
    )


def _decode_welcome(body: Any, session: SessionId, envelope: Any) -> Welcome:
    return Welcome(
        protocol=body.protocol,
        server_epoch=body.server_epoch,
        model=body.model,
        fingerprint=body.fingerprint,
        vocabulary=body.vocabulary,
        context=body.context,
        exits=tuple(body.exits),
        dtype=body.dtype,
        max_draft=body.max_draft,
        lossy_exit=body.lossy_exit,
        pass_us=body.pass_us,
        row_us=body.row_us,
    )


def _encode_failure(envelope: Any, message: Failure) -> None:
    envelope.failure.CopyFrom(
        plane.Failure(
            code=message.code,
            message=message.message,
            retryable=message.retryable,
            concerns_session=bool(message.session),
            retry_after_ms=message.retry_after_ms,
        )
    )


def _encode_go_away(envelope: Any, message: GoAway) -> None:
    envelope.go_away.CopyFrom(plane.GoAway(retry_after_ms=message.retry_after_ms, endpoints=message.endpoints))


def _encode_ping(envelope: Any, message: Ping) -> None:
    envelope.ping.CopyFrom(plane.Ping(nonce=message.nonce))


def _encode_pong(envelope: Any, message: Pong) -> None:
    envelope.pong.CopyFrom(plane.Pong(nonce=message.nonce))


def _epoch(envelope: Any) -> int:
    return int(envelope.epoch_less_one) + 1


_ABOUT_CONNECTION = frozenset({"hello", "ping", "welcome", "go_away", "pong"})
_SESSION_IN_BODY = frozenset({"open", "resume"})
_CHECKED = frozenset({"failure", "close"})

_ENCODERS: dict[type, Callable[[Any, Any], None]] = {
    Hello: _encode_hello,
    Open: _encode_open,
    Draft: _encode_draft,
    Decode: _encode_decode,
    Resume: _encode_resume,
    Close: lambda envelope, message: envelope.close.SetInParent(),
    Ping: _encode_ping,
    Welcome: _encode_welcome,
    Hint: _encode_hint,
    Verdict: _encode_verdict,
    Resync: _encode_resync,
    NeedResume: lambda envelope, message: envelope.need_resume.SetInParent(),
    GoAway: _encode_go_away,
    Pong: _encode_pong,
    Failure: _encode_failure,
}

_DECODERS: dict[str, Callable[[Any, SessionId, Any], Message]] = {
    "hello": lambda body, session, envelope: Hello(body.protocol, body.fingerprint, body.device),
    "open": _decode_open,
    "draft": _decode_draft,
    "decode": _decode_decode,
    "resume": _decode_resume,
    "close": lambda body, session, envelope: Close(session, _epoch(envelope)),
    "ping": lambda body, session, envelope: Ping(body.nonce),
    "welcome": _decode_welcome,
    "hint": _decode_hint,
    "verdict": _decode_verdict,
    "resync": _decode_resync,
    "need_resume": lambda body, session, envelope: NeedResume(session, _epoch(envelope)),
    "go_away": lambda body, session, envelope: GoAway(body.retry_after_ms, tuple(body.endpoints)),
    "pong": lambda body, session, envelope: Pong(body.nonce),
    "failure": lambda body, session, envelope: Failure(
        body.code, body.message, body.retryable, session, body.retry_after_ms
    ),
}
