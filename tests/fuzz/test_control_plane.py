"""The control plane answers any bytes with a status, and its log holds no stack trace.

300 calls here, 10,000 by ``make fuzz``.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from pathlib import Path

import grpc
import pytest
from fuzz_figures import frames_wanted, report
from fuzz_frames import mutated
from secured_world import secured

from foredraft_protos import control_plane_pb2 as plane
from foredraft_shared.control_channel import control_channel
from foredraft_shared.transports.curve import new_key_pair

CALLS = 300 if frames_wanted(0) == 0 else 10_000
SERVICE = "/foredraft.control_plane.ControlPlane"


def as_it_is(data: bytes) -> bytes:
    return data


@pytest.mark.timeout(600)
def test_any_bytes_are_answered_with_a_status(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dice = random.Random(4)
    valid = [
        plane.EnrollRequest(token=bytes(16), public_key=new_key_pair().public, device="robot").SerializeToString(),
        plane.EnrollRequest(token=b"x" * 999, public_key="é" * 50, device="\x1b[2J\n" * 50).SerializeToString(),
        plane.DrainRequest(grace_ms=2**32 - 1).SerializeToString(),
        b"",
    ]
    seen: Counter[str] = Counter()
    with (
        caplog.at_level(logging.WARNING),
        secured(tmp_path / "data") as service,
        control_channel(service.control, service.fingerprint, 5.0) as channel,
    ):
        calls = [
            channel.unary_unary(f"{SERVICE}/{name}", request_serializer=as_it_is, response_deserializer=as_it_is)
            for name in ("Enroll", "Facts", "Drain", "Nothing")
        ]
        for _ in range(CALLS):
            data = mutated(dice, dice.choice(valid), dice.choice(valid))
            try:
                dice.choice(calls)(data, timeout=5.0)
                seen["OK"] += 1
            except grpc.RpcError as error:
                seen[error.code().name] += 1
        assert service.store.devices() == []
        assert service.server.health == "ready"
    report("control plane", {"calls": CALLS, **dict(sorted(seen.items()))})
    assert set(seen) >= {"OK", "PERMISSION_DENIED", "UNIMPLEMENTED"}
    assert set(seen) <= {"OK", "PERMISSION_DENIED", "UNIMPLEMENTED", "INVALID_ARGUMENT", "INTERNAL"}
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []
