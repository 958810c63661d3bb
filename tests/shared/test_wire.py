"""The codec: what goes in comes out, nothing else gets in, and it is small."""

from __future__ import annotations

import dataclasses
import os
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foredraft_protos import token_plane_pb2 as plane
from foredraft_shared.errors import Malformed
from foredraft_shared.limits import MAX_DRAFT_TOKENS, MAX_MESSAGE_BYTES, MAX_TOKEN_ID
from foredraft_shared.messages import (
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
    Timing,
    Verdict,
    Welcome,
)
from foredraft_shared.transports.base import frame_bytes
from foredraft_shared.wire import CONFIDENCE_STEPS, Codec, NoChannelError, UnknownChannel

SESSION = bytes(range(16))
OTHER = bytes(range(1, 17))

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
counting = st.integers(1, 2**32 - 1)
token = st.one_of(st.integers(0, 200_000), st.integers(0, MAX_TOKEN_ID))
tokens = st.lists(token, max_size=12).map(tuple)
some_tokens = st.lists(token, min_size=1, max_size=40).map(tuple)
name = st.text(max_size=40)
sampling = st.builds(
    SamplingParams,
    temperature=st.floats(0, 100),
    top_k=st.integers(0, 2**31 - 1),
    top_p=st.floats(0, 1, exclude_min=True),
    min_p=st.floats(0, 1, exclude_max=True),
    seed=u64,
)
session = st.just(SESSION)
opening = {
    "session": session,
    "sampling": sampling,
    "max_tokens": counting,
    "stop_tokens": tokens,
    "epoch": counting,
    "hints": st.booleans(),
    "traceparent": st.text(string.hexdigits + "-", max_size=55),
    "lossy_exit": u32,
}
round_ = {"session": session, "epoch": counting, "round": u32, "base": counting}
hundreds_of_us = st.integers(0, 2**32 - 1).map(lambda units: units * 100)

from_edge = st.one_of(
    st.builds(Hello, protocol=u32, fingerprint=name, device=name),
    st.builds(Open, prompt=some_tokens, **opening),
    st.tuples(
        st.builds(Draft, digest=u64, tokens=tokens, round_trip_us=hundreds_of_us, **round_), st.integers(0, 12)
    ).map(lambda pair: dataclasses.replace(pair[0], forced=min(pair[1], len(pair[0].tokens)))),
    st.builds(Decode, digest=u64, count=counting, round_trip_us=hundreds_of_us, **round_),
    st.tuples(st.builds(Resume, tokens=some_tokens, prompt_length=st.just(1), **opening), st.integers(1, 40)).map(
        lambda pair: dataclasses.replace(pair[0], prompt_length=min(pair[1], len(pair[0].tokens)))
    ),
    st.builds(Close, session=session, epoch=counting),
    st.builds(Ping, nonce=u64),
)
from_cloud = st.one_of(
    st.builds(
        Welcome,
        protocol=u32,
        server_epoch=u64,
        model=name,
        fingerprint=name,
        vocabulary=st.integers(1, MAX_TOKEN_ID),
        context=counting,
        exits=st.sets(counting, max_size=6).map(lambda layers: tuple(sorted(layers))),
        dtype=name,
        max_draft=st.integers(0, MAX_DRAFT_TOKENS),
        lossy_exit=u32,
        pass_us=u32,
        row_us=u32,
    ),
    st.builds(
        Hint,
        session=session,
        epoch=counting,
        round=u32,
        exit_layer=u32,
        accepted=st.integers(0, MAX_DRAFT_TOKENS),
        token=token,
        confidence=st.integers(0, CONFIDENCE_STEPS).map(lambda steps: steps / CONFIDENCE_STEPS),
    ),
    st.builds(
        Verdict,
        accepted=st.integers(0, MAX_DRAFT_TOKENS),
        token=token,
        finish=st.sampled_from(Verdict.FINISH_REASONS),
        timing=st.builds(Timing, hundreds_of_us.map(lambda us: us // 1000 * 1000), hundreds_of_us),
        **round_,
    ),
    st.builds(Resync, session=session, epoch=counting, length=st.integers(12, 2**32 - 1), digest=u64, tail=tokens),
    st.builds(NeedResume, session=session),
    st.builds(GoAway, retry_after_ms=u32, endpoints=st.lists(name, max_size=4).map(tuple)),
    st.builds(Pong, nonce=u64),
    st.builds(Failure, code=name, message=name, retryable=st.booleans(), session=st.sampled_from([b"", SESSION])),
)


def pair(opened: bool = True) -> tuple[Codec, Codec]:
    """An edge's codec and a cloud's; SESSION is open."""
    edge, cloud = Codec(), Codec()
    if opened:
        cloud.decode(edge.encode(Open(SESSION, (1,))))
    return edge, cloud


def on_channel(edge: Codec, cloud: Codec, number: int) -> None:
    """Open and close other sessions until SESSION gets channel ``number``."""
    for _ in range(number):
        other = os.urandom(16)
        for message in (Open(other, (1,)), Close(other)):
            cloud.decode(edge.encode(message))
    cloud.decode(edge.encode(Open(SESSION, (1,))))


@given(from_edge)
def test_every_message_of_the_edge_arrives_as_it_was(message: Message) -> None:
    edge, cloud = pair()
    assert cloud.decode(edge.encode(message)) == message


@given(from_cloud)
def test_every_message_of_the_cloud_arrives_as_it_was(message: Message) -> None:
    edge, cloud = pair()
    assert edge.decode(cloud.encode(message)) == message


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_message_or_malformed(data: bytes) -> None:
    _, cloud = pair()
    try:
        message = cloud.decode(data)
    except Malformed:
        return
    assert isinstance(message, Message)


@given(st.one_of(from_edge, from_cloud), st.data())
def test_damaged_bytes_are_a_message_or_malformed(message: Message, data: st.DataObject) -> None:
    edge, cloud = pair()
    encoded = bytearray((edge if isinstance(message, Open | Resume) else cloud).encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(encoded)))
        match data.draw(st.sampled_from(["change", "insert", "cut"])):
            case "change" if position < len(encoded):
                encoded[position] = data.draw(st.integers(0, 255))
            case "insert":
                encoded[position:position] = data.draw(st.binary(max_size=4))
            case _:
                del encoded[position:]
    try:
        decoded = edge.decode(bytes(encoded))
    except Malformed:
        return
    assert isinstance(decoded, Message)
    # Whatever was let in keeps the rules: it can be said again.
    again = Codec()
    again._learn(7, SESSION)  # a cloud that knows the session
    again.encode(decoded)


BAD = {
    "session of 15 bytes": plane.Envelope(open=plane.Open(session=b"x" * 15, prompt=[1])),
    "no prompt": plane.Envelope(open=plane.Open(session=SESSION, limits=plane.Limits(max_tokens=1))),
    "no max_tokens": plane.Envelope(open=plane.Open(session=SESSION, prompt=[1])),
    "top_p of 0": plane.Envelope(
        open=plane.Open(
            session=SESSION, prompt=[1], limits=plane.Limits(max_tokens=1), sampling=plane.Sampling(top_p=0.0)
        )
    ),
    "temperature nan": plane.Envelope(
        open=plane.Open(
            session=SESSION,
            prompt=[1],
            limits=plane.Limits(max_tokens=1),
            sampling=plane.Sampling(temperature=float("nan")),
        )
    ),
    "token beyond 31 bits": plane.Envelope(draft=plane.Draft(round=1, base=1, tokens=[2**31])),
    "more forced than drafted": plane.Envelope(draft=plane.Draft(round=1, base=1, tokens=[5], forced=2)),
    "draft too long": plane.Envelope(draft=plane.Draft(round=1, base=1, tokens=[1] * (MAX_DRAFT_TOKENS + 1))),
    "base 0": plane.Envelope(draft=plane.Draft(round=1)),
    "no count": plane.Envelope(decode=plane.Decode(round=1, base=1)),
    "prompt longer than the text": plane.Envelope(
        resume=plane.Resume(session=SESSION, tokens=[1], prompt_length=2, limits=plane.Limits(max_tokens=1))
    ),
    "confidence above 1": plane.Envelope(hint=plane.Hint(confidence=128)),
    "unknown finish": plane.Envelope(verdict=plane.Verdict(base=1, finish=3)),  # type: ignore[arg-type]
    "exits descending": plane.Envelope(welcome=plane.Welcome(vocabulary=9, context=9, exits=[3, 2])),
    "epoch of 33 bits": plane.Envelope(draft=plane.Draft(round=1, base=1), epoch_less_one=2**32 - 1),
    "no body": plane.Envelope(channel=0),
}


@pytest.mark.parametrize("what", BAD)
def test_a_message_out_of_range_is_malformed(what: str) -> None:
    _, cloud = pair()
    with pytest.raises(Malformed):
        cloud.decode(BAD[what].SerializeToString())


def test_more_bytes_than_a_message_may_have_are_not_even_read() -> None:
    with pytest.raises(Malformed, match="at most"):
        Codec().decode(bytes(MAX_MESSAGE_BYTES + 1))


def test_what_the_other_side_would_refuse_is_not_sent() -> None:
    with pytest.raises(ValueError, match="base"):
        Codec().encode(Draft(SESSION, 1, 1, 0, 0, ()))


def test_a_pass_is_told_to_tenths_of_milliseconds_and_waiting_to_whole_ones() -> None:
    edge, cloud = pair()
    verdict = Verdict(SESSION, 1, 1, 1, 0, 5, timing=Timing(queued_us=1_490, computed_us=23_456))
    assert edge.decode(cloud.encode(verdict)) == dataclasses.replace(verdict, timing=Timing(1_000, 23_500))


# --- channels


def test_a_channel_is_never_given_twice() -> None:
    edge, cloud = pair()
    late = cloud.encode(Verdict(SESSION, 1, 1, 1, 0, 5))
    edge.encode(Close(SESSION))
    cloud.decode(edge.encode(Open(b"n" * 16, (1,))))
    with pytest.raises(UnknownChannel):
        edge.decode(late)


def test_a_session_opened_twice_keeps_its_channel() -> None:
    edge, cloud = pair()
    first = edge.encode(Draft(SESSION, 1, 1, 1, 0, (5,)))
    cloud.decode(edge.encode(Resume(SESSION, 2, (1, 2), 1)))
    assert cloud.decode(first) == Draft(SESSION, 1, 1, 1, 0, (5,))


def test_a_cloud_that_lost_its_table_asks_by_channel() -> None:
    edge, _ = pair()
    edge.encode(Open(b"o" * 16, (1,)))
    restarted = Codec()
    with pytest.raises(UnknownChannel) as unknown:
        restarted.decode(edge.encode(Draft(b"o" * 16, 1, 1, 1, 0, ())))
    assert unknown.value.kind == "draft"
    assert edge.decode(restarted.encode_need_resume(unknown.value)) == NeedResume(b"o" * 16)
    resume = Resume(b"o" * 16, 2, (1,), 1)
    assert restarted.decode(edge.encode(resume)) == resume
    assert edge.decode(restarted.encode(NeedResume(b"o" * 16))) == NeedResume(b"o" * 16)


def test_close_frees_the_channel_on_both_sides() -> None:
    edge, cloud = pair()
    assert cloud.decode(edge.encode(Close(SESSION))) == Close(SESSION)
    with pytest.raises(NoChannelError):
        cloud.encode(NeedResume(SESSION))


def test_the_table_is_bounded_and_forgets_the_longest_unused() -> None:
    edge, cloud = Codec(), Codec(max_channels=2)
    sessions = [bytes([number]) * 16 for number in range(3)]
    for each in sessions[:2]:
        cloud.decode(edge.encode(Open(each, (1,))))
    cloud.decode(edge.encode(Draft(sessions[0], 1, 1, 1, 0, ())))
    cloud.decode(edge.encode(Open(sessions[2], (1,))))
    assert cloud.decode(edge.encode(Draft(sessions[0], 1, 1, 1, 0, ()))).session == sessions[0]
    with pytest.raises(UnknownChannel):
        cloud.decode(edge.encode(Draft(sessions[1], 1, 1, 1, 0, ())))


# --- size


def test_sizes() -> None:
    """The budgets, with large numbers everywhere: channel, round and base beyond one byte, rare tokens of a 128k vocabulary."""
    edge, cloud = pair(opened=False)
    on_channel(edge, cloud, 100)
    tokens = (100_000, 101_000, 102_000, 103_000)
    digest = 2**64 - 1
    sizes = {
        "Open, 100 tokens, sampled": len(
            edge.encode(Open(SESSION, tokens * 25, SamplingParams(0.8, 0, 0.95, 0, 12345), stop_tokens=(2,)))
        ),
        "Draft of 4": len(edge.encode(Draft(SESSION, 1, 200, 1000, digest, tokens))),
        "Draft of 0": len(edge.encode(Draft(SESSION, 1, 200, 1000, digest, ()))),
        "Decode": len(edge.encode(Decode(SESSION, 1, 200, 1000, digest, 64))),
        "Resume, 100 tokens": len(edge.encode(Resume(SESSION, 2, tokens * 25, 40))),
        "Ping": len(edge.encode(Ping(1000))),
        "Hint": len(cloud.encode(Hint(SESSION, 1, 200, 20, 3, tokens[0], 1.0))),
        "Verdict": len(cloud.encode(Verdict(SESSION, 1, 200, 1000, 3, tokens[0], timing=Timing(900, 25_000)))),
        "Verdict, last": len(cloud.encode(Verdict(SESSION, 1, 200, 1000, 3, tokens[0], "stop", Timing(900, 25_000)))),
        "Resync, 4 tokens": len(cloud.encode(Resync(SESSION, 1, 1000, digest, tokens))),
        "NeedResume": len(cloud.encode(NeedResume(SESSION))),
        "Pong": len(cloud.encode(Pong(1000))),
        "Close": len(edge.encode(Close(SESSION))),
    }
    print()
    for what, size in sizes.items():
        print(f"{what:28}{size:5} bytes, {frame_bytes(size):4} on the wire")
    a_round = sum(frame_bytes(sizes[what]) for what in ("Draft of 4", "Hint", "Verdict"))
    print(f"a round of Draft, Hint and Verdict: {a_round} bytes, {a_round / 3:.1f} a token at 3 tokens a round")
    assert sizes["Draft of 4"] <= 33
    assert sizes["Verdict"] <= 22
    assert sizes["Hint"] <= 20
    assert sizes["NeedResume"] <= 4
    assert sizes["Close"] <= 7


@pytest.mark.parametrize("said", [Verdict(OTHER, 1, 3, 9, 0, 7), Failure("overloaded", "later", session=OTHER)])
def test_what_was_meant_for_another_device_with_the_same_channel_is_not_taken(said: Message) -> None:
    """Two devices with one routing id share a table at the cloud, and get each other's messages."""
    first, second, cloud = Codec(), Codec(), Codec()
    cloud.decode(first.encode(Open(SESSION, (1, 2))))
    cloud.decode(second.encode(Open(OTHER, (1, 2))))
    data = cloud.encode(said)
    assert second.decode(data) == said
    with pytest.raises(UnknownChannel):
        first.decode(data)


def test_a_verdict_is_longer_only_where_two_devices_share_a_connection() -> None:
    verdict = Verdict(SESSION, 1, 3, 9, 0, 7)
    first, cloud = Codec(), Codec()
    cloud.decode(first.encode(Open(SESSION, (1, 2))))
    alone = len(cloud.encode(verdict))
    for _ in range(2):  # a device that resumes, or closes and opens another text, is still one device
        cloud.decode(first.encode(Resume(SESSION, 2, (1, 2), 2)))
        cloud.decode(first.encode(Open(OTHER, (1, 2))))
        cloud.decode(first.encode(Close(OTHER)))
    assert len(cloud.encode(verdict)) == alone
    cloud.decode(Codec().encode(Open(OTHER, (1, 2))))
    cloud.decode(first.encode(Resume(SESSION, 2, (1, 2), 2)))
    assert len(cloud.encode(verdict)) == alone + 3


def test_a_close_ends_no_session_of_another_device() -> None:
    first, second, cloud = Codec(), Codec(), Codec()
    cloud.decode(first.encode(Open(SESSION, (1, 2))))
    cloud.decode(second.encode(Open(OTHER, (1, 2))))
    with pytest.raises(UnknownChannel):
        cloud.decode(first.encode(Close(SESSION)))
    assert cloud.decode(second.encode(Close(OTHER))) == Close(OTHER)


def test_an_ordinary_round_keeps_the_budget() -> None:
    """24 bytes a committed token at 3 tokens a round: first session, tokens of a 49k vocabulary, one hint a round."""
    edge, cloud = pair()
    total = 0
    for number in range(1, 101):
        base = 50 + 3 * number
        drafted = tuple((number * 7919 + each * 104_729) % 49_152 for each in range(4))
        total += frame_bytes(len(edge.encode(Draft(SESSION, 1, number, base, 2**64 - number, drafted))))
        total += frame_bytes(len(cloud.encode(Hint(SESSION, 1, number, 20, 2, drafted[2], 0.9))))
        verdict = Verdict(SESSION, 1, number, base, 2, drafted[2], timing=Timing(300, 25_000))
        total += frame_bytes(len(cloud.encode(verdict)))
    print(f"\n{total / 300:.1f} bytes a committed token")
    assert total / 300 <= 24
