"""What is to be measured, from what a person types."""

from __future__ import annotations

from pathlib import Path

import pytest

from foredraft_bench.comparison.grid import chosen_modes, cross, full, network, networks, quick, whole_numbers
from foredraft_bench.modes import MODES
from foredraft_bench.peers.mode import PEERS
from foredraft_bench.stage import Pair
from foredraft_shared.errors import UsageError

RECORDING = Path(__file__).parents[2] / "data" / "link_recording.csv"


def test_networks_by_name_round_trip_and_recording() -> None:
    found = networks(f"lte, {RECORDING}", "5,60")
    assert [each.name for each in found] == ["lte", "link_recording", "5ms", "60ms"]
    assert [each.settings.rtt_ms for each in found[2:]] == [5.0, 60.0]
    assert found[1].recording == str(RECORDING)
    assert 20 < found[1].settings.rtt_ms < 300
    assert "12 Mbit/s" in found[0].describe()


def test_networks_that_are_not_named_are_the_quick_ones() -> None:
    assert [each.name for each in networks("", "")] == ["lan", "5g", "lte"]


@pytest.mark.parametrize(
    ("profiles", "rtt", "complaint"),
    [
        ("lan,moon", "", "there is no network 'moon'; choose from lan"),
        ("", "20,fast", "--rtt has 'fast'"),
        ("", "-1", "--rtt has '-1'"),
        ("", "nan", "--rtt has 'nan'"),
        ("lan,lan", "", "named twice"),
        ("missing.csv", "", "missing.csv"),
    ],
)
def test_networks_that_make_no_sense(profiles: str, rtt: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        networks(profiles, rtt)


def test_every_combination_is_a_cell() -> None:
    cells = cross([network("lan"), network("5g")], (32, 128), (1, 2), ("cloud", "ahead"), 3)
    assert len(cells) == 8
    assert {(cell.network.name, cell.tokens, cell.devices) for cell in cells} == {
        (name, tokens, devices) for name in ("lan", "5g") for tokens in (32, 128) for devices in (1, 2)
    }
    assert cells[1].title == "lan, 32 tokens, 2 devices at once"


def test_other_programs_write_each_length_once_and_never_beside_another_device() -> None:
    cells = cross([network("lan"), network("5g")], (32, 128), (1, 2), ("cloud", "assisted"), 3)
    assert [(cell.network.name, cell.tokens, cell.devices) for cell in cells if "assisted" in cell.modes] == [
        ("lan", 32, 1),
        ("lan", 128, 1),
    ]
    assert all("cloud" in cell.modes for cell in cells)
    alone = cross([network("lan"), network("5g")], (32,), (1, 2), ("assisted", "llama.cpp"), 3)
    assert [(cell.network.name, cell.devices) for cell in alone] == [("lan", 1)]


def test_other_programs_alone_with_several_devices_leave_nothing_to_measure() -> None:
    with pytest.raises(UsageError, match=r"assisted, llama\.cpp write one text at a time; put 1 into --concurrency"):
        cross([network("lan")], (32,), (2, 4), ("assisted", "llama.cpp"), 3)


def test_the_quick_form_has_no_time_for_other_programs() -> None:
    assert not PEERS.keys() & set(quick(Pair("target")).modes)
    by_length = [cell.tokens for cell in full(Pair("target")).cells if PEERS.keys() <= set(cell.modes)]
    assert by_length == [40, 128, 512]


@pytest.mark.parametrize("text", ["", "0", "1.5", "many", "-3", "inf"])
def test_numbers_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--lengths"):
        whole_numbers(text, "--lengths")


def test_numbers_are_sorted_and_named_once() -> None:
    assert whole_numbers("128, 32,32", "--lengths") == (32, 128)


def test_modes_are_in_our_own_order() -> None:
    assert chosen_modes("auto,cloud") == ("cloud", "auto")
    assert chosen_modes("") == tuple(MODES)
    with pytest.raises(UsageError, match="there is no mode 'fast'; choose from edge"):
        chosen_modes("cloud,fast")


def test_the_forms_of_the_command_hold_the_baseline_in_every_cell() -> None:
    pair = Pair("target")
    for plan in (quick(pair), full(pair), full(pair, network(str(RECORDING)))):
        assert all("cloud" in cell.modes for cell in plan.cells)
        keys = [(cell.network.name, cell.tokens, cell.devices) for cell in plan.cells]
        assert len(keys) == len(set(keys))
    assert {1, 2, 4} == {cell.devices for cell in full(pair).cells}
    assert {32, 128, 512, 2048} <= {cell.tokens for cell in full(pair).cells}


def test_a_dtype_that_there_is_not() -> None:
    with pytest.raises(UsageError, match="dtype is 'int3'; choose bfloat16, float32 or w8a8"):
        Pair("target", dtype="int3")
