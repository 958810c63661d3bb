"""Networks that somebody recorded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from foredraft_shared.errors import UsageError
from foredraft_shared.transports.link import recording_from
from foredraft_shared.transports.recording import read_recording, write_recording

EXAMPLE = Path(__file__).parents[2] / "data" / "link_recording.csv"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "walk.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_recording_holds_each_row_until_the_next_and_begins_again(tmp_path):
    recording = read_recording(written(tmp_path, "time_s,delay_ms,rate_mbps\n100,5,20\n101,30,\n102.5,10,0\n"))
    assert [recording.at(time_s).rtt_ms for time_s in (0.0, 0.99, 1.0, 2.6, 3.9)] == [10.0, 10.0, 60.0, 20.0, 20.0]
    assert recording.length_s == 4.0
    assert recording.at(4.5).rtt_ms == 10.0
    assert recording.at(0.0).rate_mbps == 20.0
    assert recording.at(1.2).rate_mbps == 0.0
    assert recording.mean_rtt_ms == pytest.approx((10 * 1.0 + 60 * 1.5 + 20 * 1.5) / 4)


def test_each_way_may_have_its_own_delay_and_rate(tmp_path):
    text = "time_s, delay_up_ms, delay_down_ms, rate_up_mbps, rate_down_mbps\n0,30,10,2,20\n1,10,10,,\n"
    first, second = read_recording(written(tmp_path, text)).settings
    assert (first.delay_ms(up=True), first.delay_ms(up=False)) == (30.0, 10.0)
    assert (first.rate(up=True), first.rate(up=False)) == (2.0, 20.0)
    assert (second.rate(up=True), second.rate(up=False)) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "a column is missing"),
        ("time_s,delay_ms\n", "nothing follows its first line"),
        ("a,b\n1,2\n", "'a' is no column of one"),
        ("time_s,rate_mbps\n0,1\n", "a column is missing"),
        ("time_s,delay_ms,delay_up_ms,delay_down_ms\n0,1,1,1\n", "gives delay_ms and that of one way"),
        ("time_s,delay_ms\n0,fast\n", "line 2 of .* its delay_ms is 'fast' and not a number"),
        ("time_s,delay_ms\n0,1\n0,2\n", "line 3 of .* does not follow"),
        ("time_s,delay_ms\n0,1\n\n\n-1,2\n", "line 5 of .* does not follow"),
        ("time_s,delay_ms\n0,-1\n", "line 2 of .* its delay is -1"),
        ("time_s,delay_ms,rate_mbps\n0,1,-3\n", "line 2 of .* rate_mbps is -3"),
        ("time_s,delay_ms\nnan,1\n", "line 2 of .* its time_s is 'nan'"),
        ("time_s,delay_ms\n1\n", "line 2 of .* its delay_ms is missing"),
        ("time_s,delay_ms\n1,2,3\n", "line 2 of .* more values"),
    ],
)
def test_a_recording_that_cannot_be_used_says_where(tmp_path, text, complaint):
    with pytest.raises(UsageError, match=complaint):
        read_recording(written(tmp_path, text))


def test_a_recording_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match=re.escape("cannot read the link recording")):
        read_recording(tmp_path / "none.csv")


def test_bytes_that_are_no_text_are_told_so(tmp_path):
    path = tmp_path / "walk.csv"
    path.write_bytes(b"time_s,delay_ms\n0,\xff\xfe\n")
    with pytest.raises(UsageError, match="cannot read the link recording"):
        read_recording(path)


def test_what_is_written_is_read_back(tmp_path):
    write_recording(tmp_path / "walk.csv", [(5.0, 10.25), (5.5, 80.0)])
    recording = read_recording(tmp_path / "walk.csv")
    assert recording.times_s == (0.0, 0.5)
    assert [row.rtt_ms for row in recording.settings] == [20.5, 160.0]


def test_jitter_can_be_laid_over_a_recording_but_not_another_round_trip():
    recording = recording_from(EXAMPLE, jitter_ms=2.0)
    assert {row.jitter_ms for row in recording.settings} == {2.0}
    assert len({row.rtt_ms for row in recording.settings}) > 50
    with pytest.raises(UsageError, match="says itself what rtt_ms is"):
        recording_from(EXAMPLE, rtt_ms=20.0)
