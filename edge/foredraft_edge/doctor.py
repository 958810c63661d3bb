"""What ``foredraft doctor`` makes of what it has seen: every judgement, without looking at anything itself.

:mod:`.doctor_device` looks at this machine and :mod:`.doctor_server` at a server; both hand what they see to the functions
here, which say how it is and what to do next.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, TypeAlias

from foredraft_shared import errors
from foredraft_shared.kernels.library import Missing

from .planner import AdaptivePlanner

__all__ = [
    "Answer",
    "Finding",
    "Status",
    "Trial",
    "accelerator",
    "from_error",
    "greeting_refused",
    "kernels",
    "memory",
    "model_answers",
    "power",
    "round_trips",
    "speculation",
    "stranger",
]

Status: TypeAlias = Literal["ok", "warn", "fail"]
"""``fail``: texts cannot be written like this. ``warn``: they can, but not as well as they could."""

FAR_MS = 150.0
"""A round trip beyond this: somewhere nearer is worth looking for."""
JITTER_SHARE = 0.5
"""Of the median: how much consecutive round trips may differ, and…"""
JITTER_MS = 5.0
"""…what is forgiven in any case: less than any pass of a model."""
QUEUED_MS = 500.0
"""A server that lets a lone token wait for longer is busy with others."""
LITTLE_MEMORY_MB = 512
"""What a small draft in int8 and its runtime need, and some room."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    check: str
    """What was looked at, in a word or two."""
    status: Status
    finding: str
    remedy: str = ""
    """What to do next; empty only where all is well."""
    figures: dict[str, float] = field(default_factory=dict)
    """Measured values, by name with unit."""


def from_error(check: str, error: errors.ForedraftError, *, status: Status = "fail") -> Finding:
    """An error's sentence says what happened and then, behind the last semicolon, what to do."""
    what, separator, remedy = str(error).rpartition("; ")
    if not separator:
        what, remedy = str(error), "set FOREDRAFT_DEBUG=1 and try `foredraft generate` to see where it comes from."
    return Finding(check, status, what.rstrip("."), remedy)


# --- this machine ----------------------------------------------------------------------------------------------------


def memory(available_mb: float | None) -> Finding:
    """Whether there is room for a draft; ``None`` if the system does not say."""
    if available_mb is None:
        return Finding("memory", "ok", "the system does not say how much is free")
    figures = {"available_mb": available_mb}
    if available_mb < LITTLE_MEMORY_MB:
        return Finding(
            "memory", "warn", f"{available_mb:.0f} MB are free", "close other programs, or draft without a model: "
            "--draft ngram.", figures,
        )  # fmt: skip
    return Finding("memory", "ok", f"{available_mb / 1000:.1f} GB are free", figures=figures)


def kernels(found: str | Missing) -> Finding:
    """Whether drafts run in compiled kernels.

    Args:
        found: the set of instructions they are compiled for, or why they cannot be.
    """
    if isinstance(found, str):
        return Finding("kernels", "ok", f"compiled for {found}; drafts run in them")
    if not found.cure:
        return Finding("kernels", "ok", f"none: {found.reason}; drafts run by onnxruntime")
    return Finding(
        "kernels",
        "warn",
        f"none: {found.reason}; drafts run by onnxruntime, at less than half of the pace",
        f"{found.cure}.",
    )


def accelerator(hardware: str, torch_version: str | None, torch_cuda: str | None) -> Finding:
    """Whether torch can use the graphics processor of this machine.

    Args:
        hardware: what there is, such as ``"a Jetson"``; empty if nothing was seen.
        torch_version: ``None`` if torch is not installed.
        torch_cuda: the CUDA version it was built for; ``None`` for a build without.
    """
    if torch_version is None:
        return Finding("torch", "ok", "not installed; only drafts of the kind torch:… need it")
    built = f"torch {torch_version}, built {f'for CUDA {torch_cuda}' if torch_cuda else 'without CUDA'}"
    if hardware and not torch_cuda:
        wheel = "NVIDIA's own for your JetPack" if "Jetson" in hardware else "one for CUDA"
        return Finding(
            "torch", "warn", f"{built}, on {hardware}", f"torch:… drafts run on the processor alone: replace the wheel by "
            f"{wheel}, or draft with onnx:….",
        )  # fmt: skip
    return Finding("torch", "ok", built)


def power(readings_w: Sequence[float], unreadable: Sequence[str]) -> Finding:
    """Whether the power this device takes can be told.

    Args:
        unreadable: meters that exist but may not be read.
    """
    if readings_w:
        return Finding("power", "ok", f"{len(readings_w)} meters; the greatest says {max(readings_w):.1f} W")
    if unreadable:
        return Finding(
            "power", "warn", f"this user may not read the meter {unreadable[0]}",
            f"let it: sudo chmod a+r {unreadable[0]} (until the next start).",
        )  # fmt: skip
    return Finding(
        "power", "warn", "no power meter: what a token costs in energy cannot be told",
        "texts do not need it; where energy matters, take a board with a meter (INA3221), or one in the socket.",
    )  # fmt: skip


# --- the way to the server -------------------------------------------------------------------------------------------


def stranger(address: str, *, said: bytes, certificate: bytes, hung_up: bool) -> Finding:
    """Who listens there, if it is not the token plane of a server.

    Args:
        said: its first bytes, to nothing or to a line of HTTP.
        certificate: what it showed when asked for TLS (DER), or nothing.
        hung_up: it closed the connection without a word.
    """
    if b"foredraft" in certificate:
        return Finding(
            "server", "fail", f"{address} is a control plane: devices enrol there, tokens go elsewhere",
            "give the token plane's address, which `foredraft serve` prints (by default port 5555).",
        )  # fmt: skip
    if said.startswith(b"HTTP/"):
        return Finding(
            "server", "fail", f"an HTTP server listens at {address}",
            "give the token plane's address (by default port 5555), not that of metrics, a proxy or a web page.",
        )  # fmt: skip
    if certificate:
        return Finding(
            "server", "fail", f"something that speaks TLS listens at {address}, not foredraft",
            "give the token plane's address (by default port 5555); no TLS proxy may stand before it.",
        )  # fmt: skip
    if said:
        words = "".join(chr(byte) if 32 <= byte < 127 else "?" for byte in said[:40])
        return Finding(
            "server", "fail", f"what listens at {address} is no foredraft server: it says {words!r}",
            "check host and port against what `foredraft serve` printed.",
        )  # fmt: skip
    if hung_up:
        return Finding(
            "server", "fail", f"{address} takes connections and hangs up at once: a tunnel or a proxy with nobody behind it",
            "start the server, or correct where the tunnel leads.",
        )  # fmt: skip
    return Finding(
        "server", "fail", f"{address} takes connections but says nothing: another program, or a server that is stuck",
        "check the port; if it is right, restart the server.",
    )  # fmt: skip


def greeting_refused(address: str, error: errors.ForedraftError, *, enrolled: bool) -> Finding:
    """Why a server that is there does not welcome this device."""
    enrol = "ask its operator for a token (`foredraft keys token`), then run `foredraft enroll`."
    if isinstance(error, errors.NotEnrolled) and enrolled:
        return Finding("enrolment", "fail", f"revoked: {address} let this device in once and does not any more", enrol)
    if isinstance(error, errors.NotEnrolled):
        return Finding(
            "enrolment", "fail", f"{address} takes only enrolled devices, and this one is not enrolled", enrol
        )
    if isinstance(error, errors.ServerKeyMismatch):
        return Finding(
            "server key", "fail", f"{address} does not have the key that this device enrolled with",
            "if the server was set up anew, enrol again (`foredraft enroll`); else somebody else answers there: do not go on.",
        )  # fmt: skip
    if isinstance(error, errors.Overloaded):
        return Finding(
            "server", "fail", f"{address} takes no new texts: {error}".rstrip("."),
            f"come back in {max(1, round(error.retry_after_ms / 1000))} s, or use another server.",
        )  # fmt: skip
    if isinstance(error, errors.LinkLost):
        return Finding(
            "server", "fail", f"{address} speaks ZeroMQ but does not answer a greeting: it is stuck, or not foredraft",
            "restart the server; if it is another program, correct the port.",
        )  # fmt: skip
    return from_error("protocol" if isinstance(error, errors.ProtocolMismatch) else "server", error)


def round_trips(samples_ms: Sequence[float], lost: int) -> Finding:
    """What pings over the very connection of the tokens say. Only this device's clock is asked.

    Args:
        lost: pings that were not answered in time.
    """
    if not samples_ms:
        return Finding(
            "round trip", "fail", f"none of {lost} pings was answered",
            "the server's own code is stuck though its socket is open: look at its log, and restart it.",
        )  # fmt: skip
    ordered = sorted(samples_ms)
    median = statistics.median(ordered)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
    steps = [abs(after - before) for before, after in pairwise(samples_ms)]
    jitter = statistics.fmean(steps) if steps else 0.0
    figures = {"min_ms": ordered[0], "median_ms": median, "p95_ms": p95, "jitter_ms": jitter, "lost": float(lost)}
    told = f"median {median:.1f} ms of {len(ordered)} (least {ordered[0]:.1f}, p95 {p95:.1f}, jitter {jitter:.1f})"
    if lost:
        remedy = "the link loses or holds packets: move nearer to the access point, or use a cable."
        return Finding("round trip", "warn", f"{told}; {lost} unanswered", remedy, figures)
    if median > FAR_MS:
        return Finding(
            "round trip", "warn", told, "far away: drafts must be good to pay; is there a nearer server?", figures
        )
    if jitter > JITTER_SHARE * median + JITTER_MS:
        remedy = "the link is unsteady: on Wi-Fi, switch power saving off (iw dev wlan0 set power_save off)."
        return Finding("round trip", "warn", told, remedy, figures)
    return Finding("round trip", "ok", told, figures=figures)


# --- the model behind it ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of asking the target for a few tokens."""

    tokens: int = 0
    pass_ms: float = 0.0
    """Median of the server's own measure of a pass; the first, which reads the prompt, left out."""
    queued_ms: float = 0.0
    """Longest that a token waited for its pass."""
    waited_ms: float = 0.0
    pings_answered: bool = True
    """Afterwards, if tokens are missing."""


def model_answers(answer: Answer, wanted: int) -> Finding:
    """Whether the model behind the server writes."""
    figures = {"pass_ms": answer.pass_ms, "queued_ms": answer.queued_ms}
    waited = f"{answer.tokens} of {wanted} tokens came in {answer.waited_ms / 1000:.1f} s"
    if answer.tokens < wanted and not answer.pings_answered:
        return Finding(
            "target", "fail", f"the server fell silent: {waited}", "look at its log and at the link, then try again."
        )
    if not answer.tokens:
        return Finding(
            "target", "fail", f"the server is alive but its model does not answer: {waited}, while pings are answered",
            "look at the server's log and its load; if it stands still, restart it.",
        )  # fmt: skip
    if answer.tokens < wanted or answer.queued_ms > QUEUED_MS:
        remedy = "the server is busy or slow: wait, use another one, or give it fewer devices."
        return Finding(
            "target", "warn", f"{waited}; one waited {answer.queued_ms:.0f} ms for its pass", remedy, figures
        )
    return Finding("target", "ok", f"writes a token in {answer.pass_ms:.1f} ms", figures=figures)


@dataclass(frozen=True, slots=True)
class Trial:
    """A short text written by edge and cloud together."""

    planner: AdaptivePlanner
    """That drafted it, without leave to let the cloud write alone."""
    drafted: int
    accepted: int
    tokens: int
    name: str
    """Of the draft."""


def speculation(trial: Trial) -> Finding:
    """What the planner would make of these times, by its own formula (see :mod:`.planner`)."""
    planner, measured = trial.planner, trial.planner.measured
    length = planner.best()
    expected_ms, alone_ms = planner.token_ms(length, planner.acceptance), measured.decode_ms.value
    figures = {
        "draft_ms": measured.draft_ms.value,
        "acceptance": planner.acceptance,
        "speculating_ms": expected_ms,
        "alone_ms": alone_ms,
        "trial_ms": measured.token_ms.value if measured.token_ms.samples else 0.0,
    }
    right = f"{trial.accepted} of {trial.drafted} drafted tokens right" if trial.drafted else "nothing was drafted"
    told = f"drafts of {length} ({trial.name}) would take {expected_ms:.1f} ms a token, the cloud alone {alone_ms:.1f}; {right}"
    if not trial.drafted:
        return Finding(
            "speculation", "warn", f"{trial.name} had nothing to propose in {trial.tokens} tokens",
            "the cloud would write alone; a draft of the target's family would be asked more: --draft MODEL.", figures,
        )  # fmt: skip
    if not trial.accepted:
        return Finding(
            "speculation", "warn", f"{right}: too few to tell, but no good sign ({trial.name})",
            "the planner lets the cloud write alone where drafts do not pay; take one of the target's own family, or measure: "
            "`foredraft bench`.", figures,
        )  # fmt: skip
    few = " (a few tokens tell little: `foredraft bench` measures well)"
    if expected_ms < alone_ms:
        return Finding("speculation", "ok", f"pays here: {told}{few}", figures=figures)
    if measured.draft_ms.value > alone_ms:
        remedy = "the draft is slower than the target: take a smaller one, or a device that is faster."
    elif planner.acceptance < 0.5:
        remedy = "the draft is seldom right: take one of the target's own family."
    else:
        remedy = "the way is long for this target: a nearer server, or a larger target, would change that."
    return Finding(
        "speculation", "warn", f"does not pay here: {told}{few}", f"the planner would let the cloud write alone. {remedy}",
        figures,
    )  # fmt: skip
