"""What a pair of models is said to be."""

from __future__ import annotations

import pytest

from foredraft_bench.stage import drafts_for_itself


@pytest.mark.parametrize(
    ("draft", "target", "itself"),
    [
        ("smollm2-135m", "smollm2-135m", True),
        ("compiled:smollm2-135m", "smollm2-135m", True),
        ("onnx-int8:models/one.gguf", "models/one.gguf", True),
        ("first:6:smollm2-135m", "smollm2-135m", False),
        ("draft:smollm2-135m", "smollm2-135m", False),
        ("ngram", "smollm2-135m", False),
        ("models/small.gguf", "models/one.gguf", False),
    ],
)
def test_a_target_that_drafts_for_itself_is_known_by_any_spec(draft: str, target: str, itself: bool) -> None:
    assert drafts_for_itself(draft, target) == itself
