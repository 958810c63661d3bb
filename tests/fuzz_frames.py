"""Frames that no device of ours would send: mutated valid ones, absurd valid ones, lies about lengths, noise."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from foredraft_protos import token_plane_pb2 as plane
from foredraft_shared.ledger import Ledger
from foredraft_shared.messages import Decode, EdgeMessage, Hello, Open, Ping, Resume
from foredraft_shared.wire import Codec

__all__ = ["absurd_envelope", "conversation", "frames", "mutated"]

_NUMBERS = (0, 1, 2, 5, 63, 64, 127, 128, 255, 4096, 65_535, 2**31 - 1, 2**31, 2**32 - 1)
_LONG_NUMBERS = (*_NUMBERS, 2**63 - 1, 2**63, 2**64 - 1)
_REALS = (0.0, -0.0, 1.0, 0.5, -1.0, 1e-320, 1e308, float("inf"), float("-inf"), float("nan"))
_TEXTS = ("", "x", "toy", "\x1b[2J", "\0", "é" * 300, "a\nb", "00-" + "0" * 32)
_SESSIONS = tuple(bytes([number]) * 16 for number in range(12))
_LIES = (b"\xff" * 10, b"\x80" * 11, b"\xff\xff\xff\xff\x0f", b"\x7f", b"\0", b"\x0a\xff\xff\xff\x7f")
_POOL = 2048


def conversation() -> list[bytes]:
    """What a device may rightly say, of several texts."""
    codec = Codec()
    said: list[EdgeMessage] = []
    for name in _SESSIONS[:4]:
        ledger = Ledger(name, (1, 2, 3))
        said += [Open(name, (1, 2, 3)), ledger.request(40), ledger.propose((5, 6)), ledger.propose((), assuming=(7,))]
        said += [Resume(name, 2, (1, 2, 3), 3), Decode(name, 2, 1, 3, ledger.digest, 5), Ping(1), Hello(1, "toy")]
    return [codec.encode(message) for message in said]


def frames(seed: int) -> Iterator[bytes]:
    """Frames without end; the same for the same seed. Now and then a right one, so that there is something to disturb."""
    dice = random.Random(seed)
    right = conversation()
    pool: list[bytes] = list(right) * 8
    while True:
        if dice.random() < 0.1:
            yield dice.choice(right)
        elif len(pool) < _POOL or dice.random() < 0.01:  # new ones now and then
            frame = absurd_envelope(dice)
            if len(pool) < _POOL:
                pool.append(frame)
            else:
                pool[dice.randrange(_POOL)] = frame
            yield frame
        else:
            yield mutated(dice, pool[dice.randrange(_POOL)], pool[dice.randrange(_POOL)])


def absurd_envelope(dice: random.Random) -> bytes:
    """A well-formed message of any kind, whose fields hold anything their types allow."""
    envelope = plane.Envelope()
    kind = dice.choice(envelope.DESCRIPTOR.oneofs_by_name["body"].fields).name
    _fill(dice, getattr(envelope, kind))
    getattr(envelope, kind).SetInParent()
    if dice.random() < 0.5:
        envelope.channel = dice.choice(_NUMBERS)
        envelope.epoch_less_one = dice.choice(_NUMBERS)
    data: bytes = envelope.SerializeToString()
    return data


def mutated(dice: random.Random, frame: bytes, other: bytes) -> bytes:
    """A frame with one to four things wrong with it."""
    data = bytearray(frame)
    for _ in range(1 + int(dice.random() * dice.random() * 4)):
        how, where = dice.randrange(9), dice.randrange(len(data) + 1)
        if how <= 1 and data:
            data[where % len(data)] ^= 1 << dice.randrange(8)
        elif how == 2 and data:
            data[where % len(data)] = dice.randrange(256)
        elif how == 3:
            del data[where:]
        elif how == 4:
            del data[where : where + dice.randrange(8)]
        elif how == 5:
            data[where:where] = dice.choice(_LIES)
        elif how == 6:
            data[where:where] = dice.randbytes(dice.randrange(12))
        elif how == 7:
            data[where:] = other[dice.randrange(len(other) + 1) :]
        else:
            data[where:where] = data[: dice.randrange(64)]
    return bytes(data)


def _fill(dice: random.Random, message: Any) -> None:
    for field in message.DESCRIPTOR.fields:
        if dice.random() < 0.2:
            continue
        if field.message_type is not None:
            _fill(dice, getattr(message, field.name))
        elif field.is_repeated:
            count = dice.choice((0, 1, 3, 8, 70)) if dice.random() < 0.99 else 5000
            small = dice.random() < 0.7
            getattr(message, field.name).extend(
                dice.randrange(64) if small and field.type != FieldDescriptor.TYPE_STRING else _value(dice, field)
                for _ in range(count)
            )
        else:
            setattr(message, field.name, _value(dice, field))


def _value(dice: random.Random, field: FieldDescriptor) -> Any:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return dice.choice(_SESSIONS) if dice.random() < 0.8 else dice.randbytes(dice.choice((0, 15, 16, 17, 400)))
    if field.type == FieldDescriptor.TYPE_STRING:
        return dice.choice(_TEXTS)
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return dice.choice(_REALS) if dice.random() < 0.5 else dice.random()
    if field.type == FieldDescriptor.TYPE_BOOL:
        return dice.random() < 0.5
    if field.type == FieldDescriptor.TYPE_ENUM:
        return dice.choice((0, 1, 2, 3, 2**31 - 1))
    long = field.type in (FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_FIXED64)
    return dice.choice(_LONG_NUMBERS if long else _NUMBERS) if dice.random() < 0.5 else dice.randrange(100)
