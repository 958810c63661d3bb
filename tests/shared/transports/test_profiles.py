"""Networks with names, and recorded ones."""

from __future__ import annotations

import re

import pytest

from foredraft_shared.errors import UsageError
from foredraft_shared.transports.profiles import PROFILES, profile, read_recording


def test_every_profile_is_of_use_to_the_emulator():
    assert list(PROFILES) == ["lan", "wifi", "5g", "lte", "intercontinental", "satellite", "lossy"]
    assert profile("lte").rate_mbps == 12.0


def test_a_misspelt_profile_is_told_of_the_others():
    with pytest.raises(UsageError, match="no link profile 'wi-fi'; choose from lan, wifi"):
        profile("wi-fi")


def test_a_recording_holds_each_row_until_the_next_and_begins_again(tmp_path):
    path = tmp_path / "walk.csv"
    path.write_text("time_s,delay_ms,rate_mbps\n100,5,20\n101,30,\n102.5,10,0\n", encoding="utf-8")
    recording = read_recording(path)
    assert [recording.at(time_s).rtt_ms for time_s in (0.0, 0.99, 1.0, 2.6, 3.9)] == [10.0, 10.0, 60.0, 20.0, 20.0]
    assert recording.length_s == 4.0
    assert recording.at(4.5).rtt_ms == 10.0
    assert recording.at(0.0).rate_mbps == 20.0
    assert recording.at(1.2).rate_mbps == 0.0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is no link recording"),
        ("a,b\n1,2\n", "is no link recording"),
        ("time_s,delay_ms\n0,fast\n", "line 2"),
        ("time_s,delay_ms\n0,1\n0,2\n", "line 3"),
        ("time_s,delay_ms\n0,-1\n", "line 2"),
        ("time_s,delay_ms\nnan,1\n", "line 2"),
        ("time_s,delay_ms\n1\n", "line 2"),
    ],
)
def test_a_recording_that_cannot_be_used_says_where(tmp_path, text, complaint):
    path = tmp_path / "broken.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=complaint):
        read_recording(path)


def test_a_recording_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match=re.escape("cannot read the link recording")):
        read_recording(tmp_path / "none.csv")
