"""Which planner writes a text: one for what the caller asked for, and what those that adapt remember."""

from __future__ import annotations

from typing import Literal, get_args

from foredraft_shared.errors import UsageError

from .experience import Experience
from .link import Link
from .options import LoopOptions
from .planner import AdaptivePlanner, FixedPlanner, Planner

__all__ = ["Planners", "RequestMode"]

RequestMode = Literal["auto", "speculate", "cloud", "edge"]
"""``auto``: speculate while it pays. ``speculate``: always. ``cloud``: the target alone. ``edge``: the draft alone, never
verified (lossy)."""


class Planners:
    """Of one client.

    Args:
        link: ``None`` without a server.
        drafts: whether there is a draft model.
        experience: of earlier processes, if any is kept.
    """

    def __init__(self, link: Link | None, *, drafts: bool, experience: Experience | None) -> None:
        self._link = link
        self._drafts = drafts
        self._experience = experience
        self._adaptive: dict[tuple[bool, int], AdaptivePlanner] = {}
        """By whether they may leave speculation, and by the rounds that may be in flight."""

    def choose(self, mode: str, draft_length: int | None, options: LoopOptions) -> Planner:
        """A fixed planner is made for the text; one that adapts serves all texts of its kind, and remembers.

        Raises:
            UsageError: there is no such mode, or something is missing for it.
        """
        if mode not in get_args(RequestMode):
            *others, last = get_args(RequestMode)
            raise UsageError(f"mode is {mode!r}; choose {', '.join(others)} or {last}.")
        if mode in ("speculate", "edge") and not self._drafts:
            raise UsageError(f"mode {mode} needs a draft model; name one, or use mode cloud.")
        if mode in ("auto", "speculate", "cloud") and self._link is None:
            raise UsageError(f"mode {mode} needs a server; give its address, or use mode edge.")
        if mode == "cloud" or not self._drafts:
            return FixedPlanner(0, "cloud")
        if mode == "edge":
            return FixedPlanner(1, "edge")
        if draft_length is not None:
            if draft_length < 0:
                raise UsageError(f"draft_length is {draft_length}; give 0 or more tokens.")
            return FixedPlanner(draft_length)
        assert self._link is not None
        kind = (mode == "auto", options.window if options.ahead else 0)
        planner = self._adaptive.get(kind)
        if planner is None:
            planner = self._adaptive[kind] = AdaptivePlanner(switch=kind[0], window=kind[1])
            planner.measured.rtt_ms.add(self._link.rtt_ms)
            if self._experience is not None:
                planner.recall(*self._experience.recall())
        if self._link.welcome is not None:
            planner.announced(self._link.welcome.pass_us / 1e3, self._link.welcome.row_us / 1e3)
        return planner

    def remember(self) -> None:
        """Keep what the planner of mode auto learnt for the next process."""
        planner = self._adaptive.get((True, LoopOptions().window))
        if self._experience is not None and planner is not None and planner.measured.acceptance.samples:
            self._experience.keep(planner.learnt())
