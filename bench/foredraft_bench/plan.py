"""``foredraft plan``: is it worth it over this network, with these models? Asked of the simulator, no model is run."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from foredraft_shared.errors import UsageError
from foredraft_shared.traces import read_trace
from foredraft_shared.transports.link import settings_from
from foredraft_shared.transports.profiles import PROFILES, profile
from foredraft_shared.transports.recording import LinkRecording, read_recording
from foredraft_shared.transports.relay import LinkSettings

from .from_trace import recorded
from .simulate import Simulation, planner_for, simulate
from .virtual_models import Times

__all__ = ["Case", "Row", "answer", "plan"]

LABELS = {  # the order of the table
    "cloud": "cloud alone",
    "waiting": "waiting",
    "unchained": "unchained",
    "ahead": "drafting ahead",
    "auto": "the planner",
}
_LONGEST = 16
_SLOWEST_RTT_MS = 2000.0


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """What is asked about."""

    link: LinkSettings | LinkRecording
    times: Times
    acceptance: tuple[float, ...]
    tokens: int = 256
    texts: int = 4

    def simulate(self, mode: str, length: int | None = None) -> list[Simulation]:
        """Several texts, one after another with one planner; the first is thrown away if the planner is to choose,
        who knows nothing at that time."""
        planner = planner_for(mode, length)
        learning = mode == "auto"
        runs = [
            simulate(
                link=self.link, times=self.times, acceptance=self.acceptance, mode=mode, tokens=self.tokens, seed=seed,
                planner=planner,
            )
            for seed in ([0] if learning else []) + list(range(self.texts))
        ]  # fmt: skip
        return runs[1:] if learning else runs

    def ms_per_token(self, mode: str, length: int | None = None) -> float:
        return statistics.mean(run.ms_per_token for run in self.simulate(mode, length))

    def with_rtt(self, rtt_ms: float) -> Case:
        link = self.link if isinstance(self.link, LinkSettings) else LinkSettings()
        return dataclasses.replace(self, link=dataclasses.replace(link, rtt_ms=rtt_ms))

    def scaled(self, factor: float) -> Case:
        """With another acceptance: every share of wrong tokens multiplied by ``factor``."""
        changed = tuple(max(0.0, 1.0 - (1.0 - share) * factor) for share in self.acceptance)
        return dataclasses.replace(self, acceptance=changed)


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One mode's figures, means over the texts; times in milliseconds."""

    mode: str
    ms_per_token: float
    speedup: float
    """Over the cloud alone."""
    ttft_ms: float
    p95_gap_ms: float
    drafted_per_round: float
    accepted_per_round: float
    guess_hit_rate: float
    cloud_passes_per_token: float
    bytes_per_token: float


def answer(case: Case) -> dict[str, Any]:
    """Everything the command tells, ready for JSON."""
    runs = {mode: case.simulate(mode) for mode in LABELS}
    alone_ms = statistics.mean(run.ms_per_token for run in runs["cloud"])
    rows = [_row(mode, given, alone_ms) for mode, given in runs.items()]
    fixed = {length: case.ms_per_token("ahead", length) for length in range(1, _LONGEST + 1)}
    length = min(fixed, key=lambda length: fixed[length])
    best = min((row for row in rows if row.mode != "auto"), key=lambda row: row.ms_per_token)
    last = runs["auto"][-1].decisions[-1]
    return {
        "rows": [dataclasses.asdict(row) for row in rows],
        "best_mode": best.mode,
        "best_fixed_length": length,
        "best_fixed_ms_per_token": fixed[length],
        "planner": {
            "mode": last.mode,
            "reason": last.reason,
            "speculated": statistics.mean(run.speculated for run in runs["auto"]),
            "switches": sum(len(run.decisions) - 1 for run in runs["auto"]),
        },
        "break_even_rtt_ms": _break_even_rtt(case, alone_ms),
        "break_even_acceptance": _break_even_acceptance(case, alone_ms),
    }


def _row(mode: str, runs: Sequence[Simulation], alone_ms: float) -> Row:
    def mean(of: Callable[[Simulation], float]) -> float:
        return statistics.mean(of(run) for run in runs)

    ms_per_token = mean(lambda run: run.ms_per_token)
    return Row(
        mode=mode,
        ms_per_token=ms_per_token,
        speedup=alone_ms / ms_per_token,
        ttft_ms=mean(lambda run: run.ttft_ms),
        p95_gap_ms=mean(lambda run: run.gap_ms(0.95)),
        drafted_per_round=mean(lambda run: run.drafted_per_round),
        accepted_per_round=mean(lambda run: run.accepted_per_round),
        guess_hit_rate=mean(lambda run: run.guess_hit_rate),
        cloud_passes_per_token=mean(lambda run: run.cloud_passes_per_token),
        bytes_per_token=mean(lambda run: run.bytes_per_token),
    )


def _break_even_rtt(case: Case, alone_ms: float) -> float | None:
    """The round trip up to which chained speculation is the faster; None: at none, infinity: at all that were tried."""
    if isinstance(case.link, LinkRecording):
        return None

    def slower(rtt_ms: float) -> bool:
        return case.with_rtt(rtt_ms).ms_per_token("ahead") > alone_ms

    if slower(0.0):
        return None
    if not slower(_SLOWEST_RTT_MS):
        return float("inf")
    return _bisect(slower, 0.0, _SLOWEST_RTT_MS, 0.5)


def _break_even_acceptance(case: Case, alone_ms: float) -> float | None:
    """The mean acceptance from which chained speculation is the faster; None: not even if all is right."""
    mean = statistics.mean(case.acceptance)
    if mean >= 1.0:
        return None

    def slower(wrong: float) -> bool:
        return case.scaled(wrong / (1.0 - mean)).ms_per_token("ahead") > alone_ms

    if slower(0.0):
        return None
    return 1.0 - _bisect(slower, 0.0, 1.0, 0.005)


def _bisect(is_above: Callable[[float], bool], low: float, high: float, within: float) -> float:
    while high - low > max(within, 0.01 * low):
        middle = (low + high) / 2.0
        if is_above(middle):
            high = middle
        else:
            low = middle
    return (low + high) / 2.0


def plan(
    rtt: Annotated[float | None, typer.Option(metavar="MS", help="Round trip of the network; default 20.")] = None,
    link: Annotated[
        str | None, typer.Option(metavar="NAME", help=f"{', '.join(PROFILES)}, or a CSV file of a recorded one.")
    ] = None,
    draft_ms: Annotated[float | None, typer.Option(metavar="MS", help="Drafting one token on the device.")] = None,
    verify_ms: Annotated[
        float | None, typer.Option(metavar="MS", help="A pass of the target that verifies a draft.")
    ] = None,
    row_ms: Annotated[
        float | None, typer.Option(metavar="MS", help="What each drafted token adds to it; default 0.")
    ] = None,
    decode_ms: Annotated[
        float | None, typer.Option(metavar="MS", help="A pass that writes one token; default --verify-ms.")
    ] = None,
    acceptance: Annotated[
        str | None, typer.Option(help="Share of drafted tokens that are right; by position: 0.85,0.8,0.7.")
    ] = None,
    from_trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Take what is not given from a trace.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=8, help="Length of a text.")] = 256,
    texts: Annotated[int, typer.Option(min=1, help="Texts that are averaged.")] = 4,
    json_too: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Foretell whether edge and cloud together are faster than the cloud alone, and by how much."""
    case = _case(rtt, link, draft_ms, verify_ms, row_ms, decode_ms, acceptance, from_trace, tokens, texts)
    told = answer(case)
    if json_too:
        print(json.dumps({"case": dataclasses.asdict(case), **_finite(told)}, indent=2))
        return
    _print(case, told)


def _case(
    rtt: float | None,
    link: str | None,
    draft_ms: float | None,
    verify_ms: float | None,
    row_ms: float | None,
    decode_ms: float | None,
    acceptance: str | None,
    from_trace: Path | None,
    tokens: int,
    texts: int,
) -> Case:
    """What was asked, what the trace says, and the defaults, in that order."""
    trace = recorded(read_trace(from_trace)) if from_trace is not None else None
    times = trace.times if trace is not None else None
    draft_ms = draft_ms if draft_ms is not None or times is None else times.draft_ms
    verify_ms = verify_ms if verify_ms is not None or times is None else times.verify_ms
    if draft_ms is None or verify_ms is None or (acceptance is None and trace is None):
        raise UsageError(
            "give --draft-ms, --verify-ms and --acceptance, or a trace to take them from with --from-trace."
        )
    if times is not None:
        row_ms = times.row_ms if row_ms is None else row_ms
        decode_ms = times.decode_ms if decode_ms is None else decode_ms
    for name, value in (("draft", draft_ms), ("verify", verify_ms), ("row", row_ms), ("decode", decode_ms)):
        if value is not None and not (0.0 <= value < 1e6 and (value > 0.0 or name in ("draft", "row"))):
            raise UsageError(f"--{name}-ms is {value:g}; give milliseconds.")
    shares = _shares(acceptance) if acceptance is not None else trace.acceptance if trace is not None else ()
    if rtt is None and link is None and trace is not None:
        rtt = trace.rtt_ms
    return Case(_link(rtt, link), Times(draft_ms, verify_ms, row_ms or 0.0, decode_ms), shares, tokens, texts)


def _shares(text: str) -> tuple[float, ...]:
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        shares = ()
    if not shares or not all(0.0 <= share <= 1.0 for share in shares):
        raise UsageError(f"--acceptance is {text!r}; give a share such as 0.8, or several with commas between.")
    return shares


def _link(rtt: float | None, name: str | None) -> LinkSettings | LinkRecording:
    if name is not None and name not in PROFILES and Path(name).suffix:
        if rtt is not None:
            raise UsageError("a recorded link has its own round trip; leave out --rtt.")
        return read_recording(name)
    settings = profile(name) if name is not None else LinkSettings(rtt_ms=20.0)
    return settings if rtt is None else settings_from(**{**dataclasses.asdict(settings), "rtt_ms": rtt})


def _finite(told: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no infinity: a break-even beyond everything tried is told as text."""
    return {name: "beyond 2000" if value == float("inf") else value for name, value in told.items()}


def _print(case: Case, told: dict[str, Any]) -> None:
    table = Table(
        title=f"{case.texts} texts of {case.tokens} tokens, simulated",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("mode", no_wrap=True)
    for column in ("ms/token", "speed-up", "first", "p95", "accepted", "guessed", "passes"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in told["rows"]:
        table.add_row(
            LABELS[row["mode"]],
            f"{row['ms_per_token']:.1f}",
            f"{row['speedup']:.2f}",
            f"{row['ttft_ms']:.0f}",
            f"{row['p95_gap_ms']:.0f}",
            f"{row['accepted_per_round']:.1f}/{row['drafted_per_round']:.1f}" if row["mode"] != "cloud" else "",
            f"{row['guess_hit_rate']:.0%}" if row["mode"] not in ("cloud", "waiting") else "",
            f"{row['cloud_passes_per_token']:.2f}",
        )
    console = Console()
    console.print(table)
    console.print(
        "Times in ms: to the first token, and the 95th percentile of gaps. Accepted of drafted tokens a round; verdicts "
        "foreseen; passes of the cloud a token.",
        style="dim",
        highlight=False,
    )
    planner = told["planner"]
    lines = [
        f"Best: {LABELS[told['best_mode']]}. Best fixed length, ahead: {told['best_fixed_length']} tokens "
        f"({told['best_fixed_ms_per_token']:.1f} ms a token).",
        f"The planner ends in mode {planner['mode']} ({planner['speculated']:.0%} of the tokens speculated, "
        f"{planner['switches']} switches): {planner['reason']}.",
        _told_rtt(told["break_even_rtt_ms"]) if isinstance(case.link, LinkSettings) else "",
        _told_acceptance(told["break_even_acceptance"]),
    ]
    console.print("\n".join(line for line in lines if line), highlight=False, soft_wrap=True)


def _told_rtt(rtt_ms: float | None) -> str:
    if rtt_ms is None:
        return "The cloud alone is faster at any round trip."
    if rtt_ms == float("inf"):
        return f"Speculation is faster up to a round trip of {_SLOWEST_RTT_MS:.0f} ms and beyond."
    return f"Speculation is faster up to a round trip of {rtt_ms:.0f} ms."


def _told_acceptance(acceptance: float | None) -> str:
    if acceptance is None:
        return "Here no acceptance would make speculation the faster."
    return f"Here speculation is faster from an acceptance of {acceptance:.0%} on."
