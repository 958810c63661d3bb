"""What the doctor makes of what it sees, and what it sees on machines of all kinds."""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from foredraft_edge import doctor, doctor_device, doctor_server, enrolment
from foredraft_edge.doctor import Answer, Finding, Trial
from foredraft_edge.doctor_device import examine_device, guarded, open_draft, within
from foredraft_edge.planner import AdaptivePlanner
from foredraft_shared.clock import ManualClock
from foredraft_shared.errors import DeadlineMissed, LinkLost, NotEnrolled, Overloaded, UsageError
from foredraft_shared.kernels.library import Missing
from foredraft_shared.models.catalogue import CATALOGUE


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's own folders, with nothing in them."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("FOREDRAFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "config" / "foredraft"


@dataclass
class Machine:
    """A file system that says what a kernel would."""

    root: Path

    def write(self, path: str, text: str) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def look(self) -> dict[str, Finding]:
        return {finding.check: finding for finding in examine_device(self.root)}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path / "root")
    made.write("proc/meminfo", "MemTotal: 8000000 kB\nMemAvailable: 4000000 kB\n")
    made.write("sys/class/hwmon/hwmon0/name", "ina3221")
    made.write("sys/class/hwmon/hwmon0/power1_input", "7500000")
    return made


def says(finding: Finding, status: str, words: str, remedy: str) -> None:
    assert finding.status == status, finding
    assert words in finding.finding
    assert remedy in finding.remedy
    assert "\n" not in finding.finding + finding.remedy
    assert finding.remedy or status == "ok"


# --- this machine ----------------------------------------------------------------------------------------------------


def test_a_machine_where_all_is_well(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_device, "instruction_set", lambda: "avx2")
    findings = machine.look()
    assert {finding.status for finding in findings.values()} == {"ok"}
    assert "4.0 GB" in findings["memory"].finding
    assert "7.5 W" in findings["power"].finding
    assert "enrolled nowhere" in findings["keys"].finding


def test_little_memory(machine: Machine) -> None:
    machine.write("proc/meminfo", "MemTotal: 8000000 kB\nMemAvailable: 200000 kB\n")
    says(machine.look()["memory"], "warn", "200 MB are free", "--draft ngram")


def test_compiled_kernels() -> None:
    assert doctor.kernels("avx2").finding == "compiled for avx2; drafts run in them"
    says(doctor.kernels(Missing("there is no C++ compiler", "install g++")), "warn", "no C++ compiler", "install g++")
    says(
        doctor.kernels(Missing("this processor lacks avx512f", "")),
        "ok",
        "lacks avx512f; drafts run by onnxruntime",
        "",
    )


def test_a_torch_without_cuda_on_a_jetson_and_beside_an_nvidia_card(machine: Machine) -> None:
    if "+cpu" not in metadata.version("torch"):
        pytest.skip("needs a torch built without CUDA")
    machine.write("proc/driver/nvidia/version", "NVRM version: 570")
    says(machine.look()["torch"], "warn", "without CUDA, on a machine with an NVIDIA GPU", "one for CUDA")
    machine.write("proc/device-tree/model", "NVIDIA Jetson Orin Nano Developer Kit\0")
    findings = machine.look()
    says(findings["torch"], "warn", "on a Jetson", "JetPack")
    assert "Jetson Orin Nano" in findings["device"].finding


def test_a_torch_with_cuda_or_none_at_all_is_no_trouble() -> None:
    assert doctor.accelerator("a Jetson", "2.9", "12.6").status == "ok"
    assert doctor.accelerator("a Jetson", None, None).status == "ok"


def test_no_power_meter_and_one_that_may_not_be_read(machine: Machine) -> None:
    says(doctor.power([], ["/sys/x/power1_input"]), "warn", "may not read the meter", "chmod a+r")
    (machine.root / "sys/class/hwmon/hwmon0/power1_input").unlink()
    says(machine.look()["power"], "warn", "no power meter", "INA3221")


def test_a_cache_that_cannot_be_written(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    in_the_way = machine.write("a-file", "")
    monkeypatch.setenv("FOREDRAFT_CACHE", str(in_the_way / "cache"))
    says(machine.look()["cache"], "fail", os.strerror(errno.ENOTDIR), "FOREDRAFT_CACHE")


def test_a_model_whose_bytes_have_changed(machine: Machine, tmp_path: Path) -> None:
    entry = CATALOGUE["smollm2-135m"]
    path = tmp_path / "cache" / "models" / entry.name / entry.file
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF, nearly")
    says(machine.look()["models"], "fail", "is damaged", f"foredraft models pull {entry.name}")


def test_keys_that_others_can_read(machine: Machine, at_home: Path) -> None:
    enrolments = at_home / "enrolments"
    enrolments.mkdir(parents=True, mode=0o700)
    file = enrolments / "192.0.2.7_5556.json"
    file.write_text("{}")
    file.chmod(0o644)
    says(machine.look()["keys"], "fail", "others on this machine can read", f"chmod 600 '{file}'")
    file.chmod(0o600)
    says(machine.look()["keys"], "fail", "is damaged", "enrol again")
    file.unlink()
    enrolments.chmod(0o755)
    says(machine.look()["keys"], "fail", "can look into", "chmod 700")


def test_an_enrolment_that_was_never_answered(machine: Machine, at_home: Path) -> None:
    enrolment._pending_keys(at_home / "enrolments" / "192.0.2.7_5556.pending")
    says(machine.look()["keys"], "warn", "192.0.2.7:5556 was never answered", "same token")


def test_a_draft_that_is_not_there_and_one_that_is_damaged(tiny_gguf: Path, tmp_path: Path) -> None:
    finding, drafter, _ = open_draft(str(tmp_path / "nowhere.gguf"), None, 30.0)
    assert drafter is None
    says(finding, "fail", "no such file", "check the path")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny_gguf.read_bytes()[:-2000])
    finding, drafter, _ = open_draft(str(cut), None, 30.0)
    assert drafter is None
    assert finding.status == "fail"
    assert str(cut) in finding.finding


def test_a_draft_that_has_not_been_fetched_is_not_fetched_by_the_doctor() -> None:
    finding, drafter, _ = open_draft("auto", "smollm2-135m", 30.0)
    assert drafter is None
    says(finding, "warn", "has not been fetched yet (93 MB)", "foredraft models pull smollm2-135m")


def test_what_cannot_be_looked_at_is_a_finding_too() -> None:
    def broken() -> Finding:
        raise ZeroDivisionError("of\nall things")

    says(guarded("device", broken), "fail", "ZeroDivisionError: of all things", "report")

    def refused() -> Finding:
        raise UsageError("this is wrong; do that.")

    assert guarded("device", refused) == Finding("device", "fail", "this is wrong", "do that.")


def test_nothing_is_waited_for_longer_than_allowed() -> None:
    begun = time.monotonic()
    with pytest.raises(DeadlineMissed, match="sleeping took longer"):
        within(0.1, "sleeping", lambda: time.sleep(1.0))
    assert time.monotonic() - begun < 0.9
    assert within(5.0, "counting", lambda: 3) == 3


# --- what the link says ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rtt_ms", "lost"), [(5.0, 0), (600.0, 0), (1300.0, 0), (1300.0, 3)])
def test_a_long_way_is_neither_lossy_nor_stuck(rtt_ms: float, lost: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    monkeypatch.setattr(doctor_server, "time", SimpleNamespace(monotonic=clock.now, sleep=clock.sleep))

    def ping(nonce: int, timeout_s: float) -> float | None:
        answered = nonce > lost and rtt_ms / 1000 <= timeout_s
        clock.sleep(rtt_ms / 1000 if answered else timeout_s)
        return rtt_ms if answered else None

    link: Any = SimpleNamespace(rtt_ms=rtt_ms, ping=ping)
    samples_ms, unanswered = doctor_server._ping(link, doctor_server.Patience(20.0))
    assert bool(unanswered) == bool(lost)
    assert bool(samples_ms) == (not lost)
    assert clock.now() < 10.0


def test_round_trips_in_figures_and_in_words() -> None:
    good = doctor.round_trips([10.0, 11.0, 10.0, 12.0, 10.0], 0)
    assert good.status == "ok"
    assert good.figures == {"min_ms": 10.0, "median_ms": 10.0, "p95_ms": 12.0, "jitter_ms": 1.5, "lost": 0.0}
    says(doctor.round_trips([10.0, 60.0] * 5, 0), "warn", "jitter 50.0", "power saving")
    says(doctor.round_trips([200.0] * 5, 0), "warn", "median 200.0 ms", "nearer server")
    says(doctor.round_trips([10.0] * 5, 2), "warn", "2 unanswered", "cable")
    says(doctor.round_trips([], 3), "fail", "none of 3 pings", "restart")


def test_a_model_that_is_silent_slow_or_well() -> None:
    says(doctor.model_answers(Answer(waited_ms=8000.0), 8), "fail", "alive but its model does not answer", "restart")
    says(doctor.model_answers(Answer(waited_ms=8e3, pings_answered=False), 8), "fail", "fell silent", "log")
    says(doctor.model_answers(Answer(8, 20.0, 900.0, 3e3), 8), "warn", "waited 900 ms", "busy")
    says(doctor.model_answers(Answer(8, 20.0, 0.0, 200.0), 8), "ok", "a token in 20.0 ms", "")


def test_who_else_may_listen_at_an_address() -> None:
    def heard(said: bytes = b"", certificate: bytes = b"", *, hung_up: bool = False) -> Finding:
        return doctor.stranger("tcp://a:1", said=said, certificate=certificate, hung_up=hung_up)

    says(heard(certificate=b"..foredraft.."), "fail", "control plane", "5555")
    says(heard(certificate=b"..example.."), "fail", "TLS", "no TLS proxy")
    says(heard(b"HTTP/1.1 400 Bad Request"), "fail", "HTTP server", "5555")
    says(heard(b"SSH-2.0-\x1b[31m"), "fail", "'SSH-2.0-?[31m'", "check host and port")
    says(heard(hung_up=True), "fail", "hangs up", "tunnel")
    says(heard(), "fail", "says nothing", "restart")


def test_a_greeting_that_is_refused() -> None:
    known = doctor.greeting_refused("tcp://a:1", NotEnrolled("…"), enrolled=True)
    says(known, "fail", "revoked", "foredraft enroll")
    says(doctor.greeting_refused("tcp://a:1", NotEnrolled("…"), enrolled=False), "fail", "not enrolled", "keys token")
    says(
        doctor.greeting_refused("tcp://a:1", Overloaded("full", 3000), enrolled=True), "fail", "no new texts", "in 3 s"
    )
    says(doctor.greeting_refused("tcp://a:1", LinkLost("…"), enrolled=True), "fail", "does not answer", "restart")


# --- whether it pays -------------------------------------------------------------------------------------------------


def trial(*, draft_ms: float, alone_ms: float, rtt_ms: float, accepted: int, drafted: int = 40) -> Finding:
    planner = AdaptivePlanner(switch=False)
    for _ in range(10):
        planner.drafted(draft_ms)
        planner.answered(rtt_ms=rtt_ms, computed_ms=alone_ms, drafted=4)
        planner.measured.decode_ms.add(alone_ms)
    for index in range(drafted):
        planner.measured.acceptance.add(float(index < accepted))
    return doctor.speculation(Trial(planner, drafted, accepted, 32, "Onnx"))


def test_whether_drafting_pays_is_said_with_the_reason() -> None:
    says(trial(draft_ms=2.0, alone_ms=60.0, rtt_ms=20.0, accepted=36), "ok", "pays here", "")
    says(
        trial(draft_ms=80.0, alone_ms=60.0, rtt_ms=20.0, accepted=36), "warn", "does not pay", "slower than the target"
    )
    says(trial(draft_ms=2.0, alone_ms=10.0, rtt_ms=20.0, accepted=2), "warn", "does not pay", "seldom right")
    says(trial(draft_ms=2.0, alone_ms=5.0, rtt_ms=200.0, accepted=30), "warn", "does not pay", "nearer server")
    says(trial(draft_ms=2.0, alone_ms=5.0, rtt_ms=20.0, accepted=0, drafted=0), "warn", "nothing to propose", "--draft")
    says(trial(draft_ms=2.0, alone_ms=60.0, rtt_ms=20.0, accepted=0, drafted=8), "warn", "0 of 8", "own family")
