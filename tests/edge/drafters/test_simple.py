"""The drafters without a model."""

from __future__ import annotations

import pytest

from foredraft_edge.drafters.ngram import NgramDrafter
from foredraft_edge.drafters.scripted import ScriptedDrafter
from foredraft_shared.errors import UsageError
from foredraft_shared.messages import SamplingParams, TokenId

GREEDY = SamplingParams()


def drafted(drafter: NgramDrafter | ScriptedDrafter, text: list[TokenId], limit: int = 4) -> list[TokenId]:
    drafter.begin(text)
    return [proposal.token for proposal in drafter.draft(limit, GREEDY)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        pytest.param([], [], id="empty"),
        pytest.param([1, 2, 3], [], id="nothing said twice"),
        pytest.param([1, 2, 3, 4, 5, 1, 2], [3, 4, 5, 1], id="goes on as before"),
        pytest.param([1, 2, 7, 1, 2, 8, 1, 2], [8, 1, 2, 8], id="the most recent wins"),
        pytest.param([9, 1, 2, 7, 5, 1, 2, 8, 9, 1, 2], [7, 5, 1, 2], id="the longest wins over the most recent"),
        pytest.param([4, 4, 4], [4, 4, 4, 4], id="overlapping itself"),
        pytest.param([1, 5, 1], [], id="one token is no match"),
    ],
)
def test_ngram(text: list[TokenId], wanted: list[TokenId]) -> None:
    assert drafted(NgramDrafter(), text) == wanted


def test_ngram_is_surer_of_longer_matches() -> None:
    drafter = NgramDrafter()
    drafter.begin([1, 2, 3, 4, 5, 1, 2])
    sureness = [proposal.probability for proposal in drafter.draft(3, GREEDY)]
    assert sureness == sorted(sureness)
    assert sureness[0] < sureness[-1] < 1.0


def test_ngram_keeps_nothing_of_texts_that_are_over() -> None:
    drafter = NgramDrafter()
    for number in range(5):
        drafted(drafter, [*range(1000 * number, 1000 * number + 100), 1000 * number, 1000 * number + 1], 8)
        drafter.rewind(50)
        assert list(drafter.draft(1, GREEDY)) == []
        assert len(drafter._seen) <= 3 * 50
    drafter.close()
    assert not drafter._seen


def test_ngram_refuses_senseless_lengths() -> None:
    with pytest.raises(UsageError, match="3 to 2"):
        NgramDrafter(longest=2, shortest=3)


def test_scripted_errs_where_told() -> None:
    text = list(range(10, 20))
    assert drafted(ScriptedDrafter(text), text[:4], 99) == text[4:]
    wrong = ScriptedDrafter(text, wrong_at=[5, 7], wrong=lambda token: 0)
    assert drafted(wrong, text[:4], 99) == [14, 0, 16, 0, 18, 19]


def test_scripted_errs_at_the_rate_told_and_always_at_the_same_places() -> None:
    def errors(seed: int) -> list[int]:
        drafter = ScriptedDrafter(lambda text: 4, error_rate=0.3, seed=seed)
        return [place for place, token in enumerate(drafted(drafter, [4], 2000)) if token != 4]

    assert errors(1) == errors(1) != errors(2)
    assert 500 < len(errors(1)) < 700
