"""Networks with names."""

from __future__ import annotations

import pytest

from foredraft_shared.errors import UsageError
from foredraft_shared.transports.profiles import PROFILES, profile


def test_every_profile_is_of_use_to_the_emulator():
    assert list(PROFILES) == ["lan", "wifi", "5g", "lte", "intercontinental", "satellite", "lossy"]
    assert {name: settings.rtt_ms for name, settings in PROFILES.items()} == {
        "lan": 1.0, "wifi": 6.0, "5g": 20.0, "lte": 50.0, "intercontinental": 150.0, "satellite": 600.0, "lossy": 40.0,
    }  # fmt: skip


def test_lte_is_slow_on_the_way_up_only():
    assert profile("lte").rate(up=True) == 12.0
    assert profile("lte").rate(up=False) == 0.0


def test_a_misspelt_profile_is_told_of_the_others():
    with pytest.raises(UsageError, match="no link profile 'wi-fi'; choose from lan, wifi"):
        profile("wi-fi")
