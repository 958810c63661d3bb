"""``foredraft bench networks``: each network in turn, for real: does the planner choose well, is the simulator right?

One cloud, one draft, and one network after another between them, in three processes. At each network the modes take turns
text by text; the first text teaches the planner, who knows nothing of a new connection, and is told apart. Every answer has
the same length, and all modes must write the same tokens.

Of the planner it is asked what it promises: its ms a token against the better of the cloud alone and of speculation
throughout, text by text: the median of the ratios within texts, with the interval in which it lies with 95 % (by bootstrap). The
promise of 3 % is broken where all of the interval is above that, kept where all is below; otherwise more texts are needed.
The mean ratio and its standard error stand beside it: unlucky texts and a planner's rare trials show there. Of the simulator:
its ms a token against the real ones, cell by cell, when it is given what the same mode in the same run measured of the
parts (:mod:`.replay`) and nothing of the whole.
"""

from __future__ import annotations

import dataclasses
import math
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from foredraft_cloud.arithmetic import DTYPE_HELP
from foredraft_shared.errors import ForedraftError, UsageError
from foredraft_shared.messages import SamplingParams
from foredraft_shared.transports.profiles import PROFILES, profile
from foredraft_shared.transports.relay import LinkSettings

from .metrics import Answer
from .modes import MODES, Mode, Task
from .processes import stop_on_termination
from .prompts import DEMONSTRATION, WARM_UP, read_prompts
from .replay import round_trip_ms, skill_of, times_of
from .report import first_difference, write_atomically
from .runs import schedule
from .simulate import planner_for, simulate
from .stage import Pair, Stage
from .virtual_models import Replayed, Times

__all__ = ["Network", "networks", "paired_excess", "paired_median", "times_by_mode"]

PLANNED = ("cloud", "ahead", "auto")
"""What the planner's promise is about."""
PROMISE = 0.03
"""So much slower than the better mode it may be."""
ALSO = ("waiting", "single-head")
"""Further modes for the simulator, on some of the texts."""
_DRAWS = 2000
"""Of the bootstrap."""
_SEEDS = 5
"""Simulations of a text, of which the mean is taken where the network has jitter or stalls."""


@dataclass(frozen=True, slots=True)
class Network:
    """What was measured at one network."""

    name: str
    settings: LinkSettings
    rtt_ms: float
    """As the greeting measured it."""
    answers: Mapping[str, Sequence[Answer]]
    """By mode, the first text included."""
    times: Mapping[str, Times]
    """By mode, as the simulator is given them: draft and target slow each other down, more in one mode than in another."""

    def ms_per_token(self, mode: str) -> list[float]:
        """One a text, without the first."""
        return [answer.ms_per_token or 0.0 for answer in self.answers[mode][1:]]

    def planner(self) -> dict[str, Any]:
        """Whether the planner kept its promise, and what it said."""
        paces = {mode: self.ms_per_token(mode) for mode in PLANNED}
        medians = {mode: statistics.median(each) for mode, each in paces.items()}
        best = min(("cloud", "ahead"), key=lambda mode: medians[mode])
        records = [record for answer in self.answers["auto"][1:] for record in answer.records if record.committed]
        tokens = sum(record.committed for record in records)
        drafted = sum(record.committed for record in records if record.decision == "speculate")
        excess, error = paired_excess(paces["auto"], paces[best])
        middle, low, high = paired_median(paces["auto"], paces[best])
        first = {mode: self.answers[mode][0].ms_per_token or 0.0 for mode in PLANNED}
        return {
            "medians_ms": medians,
            "best": best,
            "median_excess": middle,
            "median_interval": (low, high),
            "excess": excess,
            "excess_error": error,
            "first_text_excess": first["auto"] / min(first["cloud"], first["ahead"]) - 1.0,
            "speculated": drafted / tokens if tokens else 0.0,
            "reason": records[-1].reason if records else "",
        }

    def simulated(self, mode: str, skills: Sequence[Replayed]) -> tuple[float, float]:
        """``(real, simulated)`` ms per token over the texts of a mode, without the first."""
        answers = self.answers[mode]
        seeds = _SEEDS if self.settings.jitter_ms or self.settings.stall_every_s else 1
        taken: list[float] = []
        way_ms = round_trip_ms(answers)
        link = self.settings if way_ms is None else dataclasses.replace(self.settings, rtt_ms=way_ms)
        gaps = [len(answer.tokens) - 1 for answer in answers[1:]]
        for seed in range(seeds):
            planner = planner_for(mode) if mode != "single-head" else None
            spent_ms = 0.0
            for index, answer in enumerate(answers):
                run = simulate(
                    link=link,
                    times=self.times[mode],
                    acceptance=0.0,
                    skill=skills[index],
                    mode=mode,
                    tokens=len(answer.tokens),
                    seed=1000 * seed + index,
                    planner=planner,
                )
                spent_ms += run.ms_per_token * gaps[index - 1] if index else 0.0
            taken.append(spent_ms / sum(gaps))
        real_ms = sum(sum(answer.gaps_ms) for answer in answers[1:]) / sum(gaps)
        return real_ms, statistics.mean(taken)

    def cells(self, skills: Sequence[Replayed]) -> list[dict[str, Any]]:
        """The simulator's word on each mode, beside the truth."""
        cells = []
        for mode in self.answers:
            real_ms, simulated_ms = self.simulated(mode, skills)
            error = simulated_ms / real_ms - 1.0
            cells.append(
                {"network": self.name, "mode": mode, "real_ms": real_ms, "simulated_ms": simulated_ms, "error": error}
            )
        return cells

    def as_json(self) -> dict[str, Any]:
        """Everything measured, answers as ms per token."""
        return {
            "name": self.name,
            "settings": dataclasses.asdict(self.settings),
            "greeting_rtt_ms": self.rtt_ms,
            "times": {mode: dataclasses.asdict(times) for mode, times in self.times.items()},
            "ms_per_token": {mode: [answer.ms_per_token for answer in given] for mode, given in self.answers.items()},
            "planner": self.planner(),
        }


def networks(
    out: Annotated[Path, typer.Option(help="Folder for networks.json and networks.md.")],
    target: Annotated[str, typer.Option(help="The cloud's model.")] = "smollm2-135m",
    draft: Annotated[
        str, typer.Option(help="The device's; auto: the target in fewer bits, if none was trained.")
    ] = "auto",
    links: Annotated[str, typer.Option(help="Networks by name, with commas between.")] = ",".join(PROFILES),
    prompts: Annotated[Path | None, typer.Option(help="JSON lines with `prompt` or `turns`.")] = None,
    texts: Annotated[int, typer.Option(min=2, help="Texts a network and mode; the first is not counted.")] = 6,
    tokens: Annotated[int, typer.Option(min=8, help="Length of each.")] = 64,
    dtype: Annotated[str, typer.Option(help=DTYPE_HELP)] = "bfloat16",
    offline: Annotated[bool, typer.Option("--offline", help="Use only models that are on this machine.")] = False,
) -> None:
    """Check the planner's promise and the simulator's word over every named network, with real models."""
    names = [name.strip() for name in links.split(",") if name.strip()]
    settings = {name: profile(name) for name in names}
    if not settings:
        raise UsageError(f"no network is named; choose from {', '.join(PROFILES)}.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {out}: {error.strerror}; name another with --out.") from None
    chosen = read_prompts(prompts) if prompts is not None else list(DEMONSTRATION)
    chosen = [chosen[index % len(chosen)] for index in range(texts)]
    stop_on_termination()
    pair = Pair(target, draft, dtype, offline=offline).named()
    console = Console()
    told: dict[str, Any] = {}
    with Stage(pair) as stage, Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("networks", total=len(settings) * len(_texts(texts)))
        skills: list[Replayed] = []
        found: list[dict[str, Any]] = []
        cells: list[dict[str, Any]] = []
        for name, link in settings.items():
            progress.update(bar, description=name)
            network = _measure(stage, name, link, chosen, tokens, lambda: progress.advance(bar))
            if not skills:
                skills = _skills(stage, chosen, network)
            found.append(network.as_json())
            cells += network.cells(skills)
            recorded = [[(right, round(claim, 4)) for right, claim in skill.drawn] for skill in skills]
            told = {**_heading(stage, tokens), "networks": found, "simulator": cells, "recorded": recorded}
            write_atomically(out / "networks.json", told)  # after each network: an interrupt leaves what there is
            (out / "networks.md").write_text(as_markdown(told), encoding="utf-8")
    console.print(escape(as_markdown(told)), soft_wrap=True, highlight=False)


def _texts(texts: int) -> list[tuple[int, str]]:
    """Which text is written in which mode, in order; the further modes write half of them."""
    half = max(2, (texts + 1) // 2)
    return [(index, mode) for index, mode in schedule(texts, (*PLANNED, *ALSO)) if mode in PLANNED or index < half]


def _measure(stage: Stage, name: str, link: LinkSettings, prompts: Sequence[str], tokens: int, advance: Any) -> Network:
    answers: dict[str, list[Answer]] = {mode: [] for mode in (*PLANNED, *ALSO)}
    with stage.connected(link) as connected:
        place = connected.places[0]
        client = place.client
        modes: Mapping[str, Mode] = MODES
        modes["cloud"].answer(place, Task(client.encode(WARM_UP), SamplingParams(), 8))
        for index, mode in _texts(len(prompts)):
            task = Task(client.encode(prompts[index]), SamplingParams(), tokens, past_the_end=True)
            answers[mode].append(modes[mode].answer(place, task))
            advance()
        difference = first_difference({mode: given for mode, given in answers.items() if mode in PLANNED})
        if difference is not None:
            raise ForedraftError(
                f"over {name} the modes wrote different tokens: {difference.describe(stage.spell)}; that breaks the law "
                "of this project, please report it with the command."
            )
        assert client.link is not None
        rtt_ms = client.link.rtt_ms
    return Network(name, link, rtt_ms, answers, times_by_mode(answers))


def times_by_mode(answers: Mapping[str, Sequence[Answer]]) -> dict[str, Times]:
    """What the parts took in each mode; those of speculation where a mode hardly drafted."""
    found: dict[str, Times] = {}
    for mode, given in answers.items():
        try:
            found[mode] = times_of(answers["cloud"], given)
        except UsageError:
            found[mode] = times_of(answers["cloud"], answers["ahead"])
    return found


def paired_excess(taken: Sequence[float], reference: Sequence[float]) -> tuple[float, float]:
    """By how much ``taken`` is above ``reference``, text by text, and the standard error of that.

    The mean of the logarithms of the ratios, back as a ratio less one. Texts differ far more from each other than modes do,
    and the machine drifts; a ratio within a text, whose modes were written in turn, knows neither.
    """
    logs = [math.log(one / other) for one, other in zip(taken, reference, strict=True)]
    error = statistics.stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else math.inf
    return math.expm1(statistics.mean(logs)), error


def paired_median(taken: Sequence[float], reference: Sequence[float]) -> tuple[float, float, float]:
    """The median by which ``taken`` is above ``reference``, text by text, and where it lies with 95 %.

    The interval is the percentile bootstrap's (Efron and Tibshirani, An Introduction to the Bootstrap, 1993): medians of as many
    texts drawn from these with replacement.
    """
    ratios = [one / other - 1.0 for one, other in zip(taken, reference, strict=True)]
    dice = random.Random(0)
    drawn = sorted(statistics.median(dice.choices(ratios, k=len(ratios))) for _ in range(_DRAWS))
    return statistics.median(ratios), drawn[round(0.025 * _DRAWS)], drawn[round(0.975 * _DRAWS)]


def _skills(stage: Stage, prompts: Sequence[str], network: Network) -> list[Replayed]:
    """Where the draft foresees each of the texts: they are the same over every network."""
    with stage.connected(LinkSettings()) as connected:
        client = connected.places[0].client
        assert client.drafter is not None
        return [
            skill_of(client.drafter, client.encode(prompt), answer.tokens, SamplingParams())
            for prompt, answer in zip(prompts, network.answers["cloud"], strict=True)
        ]


def _kept(planner: Mapping[str, Any]) -> str:
    low, high = planner["median_interval"]
    return "broken" if low > PROMISE else "kept" if high < PROMISE else "more texts needed"


def _heading(stage: Stage, tokens: int) -> dict[str, Any]:
    return {
        "format": 1,
        "target": stage.pair.target,
        "draft": stage.pair.draft,
        "dtype": stage.pair.dtype,
        "tokens": tokens,
        "cores": {"edge": list(stage.cores.edge), "cloud": list(stage.cores.cloud)},
    }


def as_markdown(told: Mapping[str, Any]) -> str:
    """Two tables: the planner's promise, the simulator's word."""
    lines = [
        f"{told['target']} in {told['dtype']}, drafted by {told['draft']}; {told['tokens']} tokens a text. ms a token.",
        "",
        "| network | cloud | ahead | planner | over the better, median (95 %) | mean | first text | speculated | why |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for network in told["networks"]:
        planner = network["planner"]
        medians = planner["medians_ms"]
        lines.append(
            f"| {network['name']} | {medians['cloud']:.1f} | {medians['ahead']:.1f} | {medians['auto']:.1f} "
            f"| {planner['median_excess']:+.1%} ({planner['median_interval'][0]:+.1%} to "
            f"{planner['median_interval'][1]:+.1%}): {_kept(planner)} "
            f"| {planner['excess']:+.1%} ± {planner['excess_error']:.1%} "
            f"| {planner['first_text_excess']:+.1%} | {planner['speculated']:.0%} "
            f"| {planner['reason']} |"
        )
    errors = [cell["error"] for cell in told["simulator"]]
    within = sum(abs(error) <= 0.1 for error in errors)
    lines += ["", "| network | mode | real | simulated | error |", "|---|---|---|---|---|"]
    lines += [
        f"| {cell['network']} | {cell['mode']} | {cell['real_ms']:.1f} | {cell['simulated_ms']:.1f} "
        f"| {cell['error']:+.1%} |"
        for cell in told["simulator"]
    ]
    if errors:
        lines += [
            "",
            f"{within} of {len(errors)} cells within 10 %; mean {statistics.mean(errors):+.1%}, "
            f"largest {max(errors, key=abs):+.1%}.",
        ]
    return "\n".join(lines) + "\n"
