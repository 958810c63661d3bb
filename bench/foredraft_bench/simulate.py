"""What a text would take: the real loop, planner and engine run in virtual time (see :mod:`.virtual`).

::

    simulate(link=profile("5g"), times=Times(draft_ms=12, verify_ms=45), acceptance=0.8, mode="ahead").ms_per_token
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from foredraft_edge.link import Link
from foredraft_edge.loop import LoopStatistics, RoundLoop
from foredraft_edge.options import LoopOptions
from foredraft_edge.planner import AdaptivePlanner, FixedPlanner, Planner
from foredraft_shared.ledger import Ledger
from foredraft_shared.messages import SamplingParams
from foredraft_shared.traces import RoundRecord
from foredraft_shared.transports.recording import LinkRecording
from foredraft_shared.transports.relay import LinkSettings

from .metrics import percentile
from .single_head import SINGLE_HEAD, SingleHeadPlanner
from .virtual import World, begins_s
from .virtual_models import RIGHT, Replayed, Skill, Times, VirtualDrafter

__all__ = ["MODES", "Decision", "Simulation", "simulate", "waiting_ms_per_token"]

MODES: dict[str, LoopOptions] = {
    "cloud": LoopOptions(),
    "remote": LoopOptions(ahead=False, hints=False),
    "waiting": LoopOptions(ahead=False, hints=False),
    "single-head": SINGLE_HEAD,
    "unchained": LoopOptions(window=1),
    "hintless": LoopOptions(hints=False),
    "ahead": LoopOptions(),
    "auto": LoopOptions(),
}
"""The cloud alone, streamed; the cloud alone, called for each token; drafting, then waiting for the verdict; SpecEdge's head
(:mod:`.single_head`); drafting on meanwhile, sending nothing before the verdict; sending before the verdict, too, without
hints and with them; and the planner free to choose between the last and the first. They are named as in ``foredraft bench``."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The planner changed its mind."""

    written: int
    """Tokens written before it."""
    mode: str
    reason: str


@dataclass(frozen=True, slots=True)
class Simulation:
    """What a text took."""

    arrived_ms: tuple[float, ...]
    """One a token: since the prompt was handed over."""
    records: tuple[RoundRecord, ...]
    statistics: LoopStatistics
    decisions: tuple[Decision, ...]
    cloud_ms: float
    """What the cloud's passes took, all in all."""
    passes: int

    @property
    def tokens(self) -> int:
        return len(self.arrived_ms)

    @property
    def ms_per_token(self) -> float:
        """As :attr:`foredraft_bench.metrics.Figures.ms_per_token`: from the first token's instant to the last one's."""
        return (self.arrived_ms[-1] - self.arrived_ms[0]) / max(1, self.tokens - 1)

    @property
    def ttft_ms(self) -> float:
        return self.arrived_ms[0]

    @property
    def gaps_ms(self) -> list[float]:
        """Between each token and the one before it; 0 for tokens of one commit."""
        return [after - before for before, after in zip(self.arrived_ms, self.arrived_ms[1:], strict=False)]

    def gap_ms(self, share: float) -> float:
        """The gap that this share of the gaps does not exceed."""
        return percentile(self.gaps_ms, share) or 0.0

    @property
    def accepted_per_round(self) -> float:
        return self.statistics.accepted / max(1, self.statistics.draft_rounds)

    @property
    def drafted_per_round(self) -> float:
        return self.statistics.drafted / max(1, self.statistics.draft_rounds)

    @property
    def guess_hit_rate(self) -> float:
        """Share of the verdicts that the device had foreseen."""
        return self.statistics.guess_hits / max(1, self.statistics.guesses)

    @property
    def speculated(self) -> float:
        """Share of the tokens that were written in rounds with drafts."""
        return sum(record.committed for record in self.records if record.kind == "speculate") / self.tokens

    @property
    def cloud_passes_per_token(self) -> float:
        return self.passes / self.tokens

    @property
    def bytes_per_token(self) -> float:
        return (self.statistics.bytes_up + self.statistics.bytes_down) / self.tokens


def simulate(
    *,
    link: LinkSettings | LinkRecording,
    times: Times,
    acceptance: float | Sequence[float],
    mode: str = "auto",
    length: int | None = None,
    tokens: int = 256,
    seed: int = 0,
    concentration: float | None = None,
    planner: Planner | None = None,
    options: LoopOptions | None = None,
    skill: Replayed | None = None,
) -> Simulation:
    """Write a text of ``tokens`` tokens.

    Args:
        acceptance, concentration: see :class:`foredraft_bench.virtual_models.Skill`.
        mode: one of :data:`MODES`.
        length: tokens a draft; by default the planner adapts it.
        seed: of the text and of everything that happens to it; the same in two modes, both meet the same.
        planner, options: in place of what ``mode`` and ``length`` imply.
        skill: a recorded one, in place of ``acceptance``.
    """
    world = World(link, times, seed=seed)
    connection = Link(world.transport, where="the virtual cloud", clock=lambda: world.device_ns / 1e9)
    start = link.at(begins_s(link, seed)) if isinstance(link, LinkRecording) else link
    connection.rtt_ms = start.rtt_ms  # what the greeting would have measured
    planner = planner or planner_for(mode, length)
    if not planner.measured.rtt_ms.samples:
        planner.measured.rtt_ms.add(connection.rtt_ms)
    if isinstance(planner, AdaptivePlanner):
        planner.announced(times.pass_ms(1), times.row_ms)
    records: list[RoundRecord] = []
    loop = RoundLoop(
        connection,
        Ledger(bytes(16), [RIGHT]),
        None
        if mode == "cloud"
        else VirtualDrafter(world, skill or Skill(acceptance, concentration=concentration, seed=seed)),
        planner,
        SamplingParams(),
        max_tokens=tokens,
        options=options or MODES[mode],
        observe=records.append,
        clock_ns=world.now_ns,
    )
    arrived: list[float] = []
    decisions: list[Decision] = []
    for commit in loop.run():
        world.device_ns += round(times.loop_ms * 1e6)
        if not decisions or decisions[-1].mode != loop.plan.mode:
            decisions.append(Decision(len(arrived), loop.plan.mode, loop.plan.reason))
        assert all(token == RIGHT for token in commit.tokens), "a wrong token was committed"
        arrived += [world.device_ns / 1e6] * len(commit.tokens)
    return Simulation(
        tuple(arrived), tuple(records), loop.statistics, tuple(decisions), world.computed_ns / 1e6, world.passes
    )


def planner_for(mode: str, length: int | None = None) -> Planner:
    """The planner that a client would take for the mode."""
    if mode == "cloud":
        return FixedPlanner(0, "cloud")
    if mode == "remote":
        return FixedPlanner(0)
    if mode == "single-head":
        return SingleHeadPlanner() if length is None else SingleHeadPlanner(length, max(0, length - 1))
    if length is not None:
        return FixedPlanner(length)
    options = MODES[mode]
    return AdaptivePlanner(switch=mode == "auto", window=options.window if options.ahead else 0)


def waiting_ms_per_token(rtt_ms: float, times: Times, acceptance: float, length: int) -> float:
    """The closed formula for a device that waits for every verdict, with a constant acceptance.

    A round of ``k`` drafted tokens commits ``1 + a + … + a^k`` and takes ``rtt + verify + k (row + draft)``.
    """
    committed = sum(acceptance**index for index in range(length + 1))
    return (rtt_ms + times.pass_ms(length + 1) + length * times.draft_ms) / committed
