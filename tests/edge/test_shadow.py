"""Looking at the cloud's own stream: what is compared, and what is left alone."""

from __future__ import annotations

from collections.abc import Sequence

from foredraft_edge.drafters.scripted import ScriptedDrafter
from foredraft_edge.path import Path
from foredraft_edge.planner import FixedPlanner
from foredraft_edge.shadow import Shadow
from foredraft_shared.ledger import Ledger
from foredraft_shared.messages import SamplingParams, TokenId

TEXT: Sequence[TokenId] = [position % 97 for position in range(400)]
"""What the draft knows by heart, prompt included, save where it errs."""
PROMPT = tuple(TEXT[:4])


class Looker(FixedPlanner):
    """Never drafts, and keeps what it is told."""

    def __init__(self, drafts_timed: int = 6) -> None:
        super().__init__(0, "cloud")
        self.wants = True
        self.seen: list[bool] = []
        for _ in range(drafts_timed):
            self.drafted(5.0)

    @property
    def curious(self) -> bool:  # type: ignore[override]
        return self.wants

    def judged(self, probabilities: Sequence[float], accepted: int, rejected: bool) -> None:
        self.seen.append(accepted == 1)


class Stream:
    """A cloud that writes, and a device that looks."""

    def __init__(self, *wrong_at: int) -> None:
        self.ledger = Ledger(bytes(16), PROMPT)
        self.planner = Looker()
        self.drafter = ScriptedDrafter(TEXT, wrong_at=wrong_at)
        self.path = Path(self.drafter, SamplingParams(), (), lambda: 0)
        self.path.begin(PROMPT)
        self.shadow = Shadow(self.path, self.ledger, self.planner, 400)
        self.shadow.begin()

    def write(self, count: int, *, look: bool = True) -> None:
        """So many tokens, one after the other."""
        for _ in range(count):
            self.ledger.extend([TEXT[self.ledger.length]])
            self.shadow.compare()
            self.shadow.keep_near(32)
            while look and self.shadow.wants_review:
                self.shadow.review()


def test_every_token_of_the_stream_is_compared_and_none_of_the_prompt():
    stream = Stream(2, 7, 20)
    stream.write(7)
    assert not stream.planner.seen, "eight together"
    stream.write(25)
    assert stream.planner.seen == [position not in (7, 20) for position in range(4, 36)]


def test_what_was_written_while_nobody_was_curious_is_left_alone():
    stream = Stream()
    stream.write(16)
    stream.planner.wants = False
    stream.write(200)
    assert len(stream.planner.seen) == 16
    stream.planner.wants = True
    stream.write(64)
    compared = len(stream.planner.seen) - 16
    assert 24 <= compared <= 64, "only what came then, once the drafter had read what lies between"
    assert list(stream.drafter.tokens) == list(TEXT[: len(stream.drafter.tokens)])


def test_a_device_that_looks_slower_than_the_cloud_writes_skips_what_it_cannot():
    stream = Stream()
    stream.write(40, look=False)
    assert len(stream.drafter.tokens) >= 36, "it follows all the same"
    stream.write(8)
    assert 8 <= len(stream.planner.seen) <= 16


def test_a_few_tokens_are_drafted_to_know_how_long_that_takes():
    stream = Stream()
    stream.planner = Looker(drafts_timed=5)
    stream.shadow = Shadow(stream.path, stream.ledger, stream.planner, 400)
    stream.shadow.begin()
    assert stream.shadow.wants_token
    assert stream.path.grow(400) is not None
    stream.planner.drafted(5.0)
    stream.write(1)
    assert stream.planner.seen == [True]
    assert not stream.shadow.wants_token
    stream.write(8)
    assert len(stream.planner.seen) == 9
