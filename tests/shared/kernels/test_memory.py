"""Room that takes memory only where it is written, room for weights, and what the kernels take themselves."""

from __future__ import annotations

import mmap
import threading
from pathlib import Path

import numpy as np
import pytest
from fuzz_figures import resident_mib

from foredraft_shared.kernels import library as c
from foredraft_shared.kernels.blocks import pack
from foredraft_shared.kernels.memory import WeightMemory, lazy_zeros


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc here to look at")
def test_a_few_bytes_far_apart_take_a_few_pages() -> None:
    before = resident_mib()
    room = lazy_zeros(2**30)
    room[:: 2**22] = 1  # 256 places; in huge pages they would take 512 MiB
    assert resident_mib() - before < 32
    assert int(room[:: 2**21].sum(dtype=np.int64)) == 256
    assert room.ctypes.data % 4096 == 0


def test_weights_lie_apart_in_lines_of_64_bytes() -> None:
    memory = WeightMemory()
    given = [np.arange(size, dtype=np.float32) * size for size in (1, 17, 0, 5_000_000, 3, 20_000_000)]
    kept = [memory.keep(each.reshape(-1, 1)) for each in given]
    for before, after in zip(given, kept, strict=True):
        assert after.ctypes.data % 64 == 0
        np.testing.assert_array_equal(after[:, 0], before)


def test_a_system_that_knows_no_huge_pages_gives_room_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MADV_NOHUGEPAGE", "MADV_HUGEPAGE"):
        monkeypatch.setattr(mmap, name, 9999, raising=False)
    assert lazy_zeros(10).size == 10
    assert WeightMemory().keep(np.ones(3))[2] == 1.0


def test_nothing_is_room_too() -> None:
    assert lazy_zeros(0).size == 0


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc here to look at")
def test_a_thread_that_ends_leaves_nothing() -> None:
    kernels = c.library()
    if kernels is None:
        pytest.skip("no compiled kernels on this machine")
    rows, norm = np.ones((512, 4096), np.float32), np.ones(4096, np.float32)  # whose scratch is 11 MiB
    out = np.empty((512, 64), np.float32)
    weight = pack(np.ones((64, 4096), np.float32))
    panels = WeightMemory().keep(weight.panels)
    layer = c.Product(weight.kind, panels.ctypes.data, None, None, None, 4096, 64)

    def multiply() -> None:
        kernels.foredraft_product(layer, norm.ctypes.data, 0.0, rows.ctypes.data, len(rows), out.ctypes.data, 1)

    for count in (2, 20):
        before = resident_mib()
        for _ in range(count):
            thread = threading.Thread(target=multiply)
            thread.start()
            thread.join()
    assert resident_mib() - before < 40
