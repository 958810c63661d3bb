"""Which kernels a machine gets."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from foredraft_shared.errors import UsageError
from foredraft_shared.kernels import library as c

ZEN2 = "fma avx avx2 f16c sse4_2"
ALDER_LAKE = f"{ZEN2} avx_vnni"
ZEN5 = f"{ALDER_LAKE} avx512f avx512bw avx512dq avx512vl avx512_vnni avx512_bf16"
SAPPHIRE_RAPIDS = f"{ZEN5} amx_bf16 avx512_fp16 amx_tile amx_int8"
RASPBERRY_PI_4 = "fp asimd evtstrm crc32 cpuid"
RASPBERRY_PI_5 = f"{RASPBERRY_PI_4} asimdrdm lrcpc dcpop asimddp"


@pytest.fixture(autouse=True)
def unasked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("FOREDRAFT_KERNELS", raising=False)
    c._found.cache_clear()
    yield
    c._found.cache_clear()


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One that knows no AVX-512, and writes its flags where the library should be."""
    return make_compiler(tmp_path, monkeypatch, unknown="-mavx512")


def make_compiler(folder: Path, monkeypatch: pytest.MonkeyPatch, unknown: str) -> Path:
    path = folder / "c++"
    path.write_text(
        "#!/bin/sh\n[ $1 = --version ] && exit\n"
        f'case "$*" in *{unknown}*) echo what is {unknown}? >&2; exit 1;; esac\n'
        'for last; do :; done; echo "$*" > "$last"\n'
    )
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))
    monkeypatch.setenv("FOREDRAFT_CACHE", str(folder / "cache"))
    monkeypatch.setattr(c.ctypes, "CDLL", lambda path: Path(path))
    monkeypatch.setattr(c, "_declared", lambda path: path)
    return path


@pytest.mark.parametrize(
    ("processor", "best"),
    [
        (ZEN2, "avx2"),
        (ALDER_LAKE, "avxvnni"),
        (RASPBERRY_PI_4, "neon"),
        (RASPBERRY_PI_5, "dotprod"),
        (ZEN5, "avxvnni"),  # since the compiler is too old for more
        (SAPPHIRE_RAPIDS, "avxvnni"),
    ],
)
def test_a_processor_gets_the_best_it_and_the_compiler_know(
    processor: str, best: str, compiler: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(c, "_processor", lambda: frozenset(processor.split()))
    assert c.instruction_set() == best
    assert best in c.possible()
    (file,) = (tmp_path / "cache" / "kernels").iterdir()
    assert file.name.startswith(f"{best}-")
    assert set(c._SETS[best].flags) < set(file.read_text().split())


def test_libraries_that_nobody_uses_any_more_are_removed(
    compiler: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(c, "_processor", lambda: frozenset(ZEN2.split()))
    folder = tmp_path / "cache" / "kernels"
    folder.mkdir(parents=True)
    for name, days in (("old.so", 70), ("recent.so", 50), ("old.txt", 70)):
        (folder / name).touch()
        os.utime(folder / name, (time.time() - days * 86_400,) * 2)
    assert c.instruction_set() == "avx2"
    (made,) = folder.glob("avx2-*.so")
    assert {file.name for file in folder.iterdir()} == {"recent.so", "old.txt", made.name}
    os.utime(made, (1, 1))
    c._found.cache_clear()
    assert c.instruction_set() == "avx2"
    assert made.stat().st_mtime > time.time() - 60


def test_tiles_where_processor_compiler_and_system_have_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(c, "_processor", lambda: frozenset(SAPPHIRE_RAPIDS.split()))
    make_compiler(tmp_path, monkeypatch, unknown="-mamx")
    assert c.instruction_set() == "avx512"

    c._found.cache_clear()
    make_compiler(tmp_path, monkeypatch, unknown="avx3")
    assert c.instruction_set() == "amx"
    file = Path(str(c.library()))
    assert {"-mamx-tile", "-mamx-bf16", "-mamx-int8", "-mavx512bf16"} < set(file.read_text().split())

    def refused(library: Path) -> Path:  # an old Linux, or one that was told to
        if library.name.startswith("amx"):
            raise OSError("not allowed")
        return library

    c._found.cache_clear()
    monkeypatch.setattr(c, "_declared", refused)
    assert c.instruction_set() == "avx512"


def test_sets_that_are_wanted_and_lacking_are_told(compiler: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c, "_processor", lambda: frozenset(ALDER_LAKE.split()))
    lack = c.missing("avx512")
    assert lack is not None
    assert lack.reason.startswith("this processor lacks avx512f, ")
    assert not lack.cure


def test_a_processor_that_nobody_knows_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c, "_processor", lambda: frozenset({"rv64gc"}))
    lack = c.instruction_set()
    assert isinstance(lack, c.Missing)
    assert lack.reason.startswith("this processor has none of amx, avx512, ")


def test_a_set_can_be_asked_for(compiler: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(c, "_processor", lambda: frozenset(ZEN5.split()))
    for name in ("avx2", "generic"):
        monkeypatch.setenv("FOREDRAFT_KERNELS", name)
        assert c.instruction_set() == name
        lack = c.missing("avx512")
        assert lack is not None
        assert lack.reason == f"FOREDRAFT_KERNELS is {name}, and these need avx512"
    assert len(list((tmp_path / "cache" / "kernels").iterdir())) == 2
    for name, reason in (("none", "FOREDRAFT_KERNELS is none"), ("neon", "this processor lacks asimd")):
        monkeypatch.setenv("FOREDRAFT_KERNELS", name)
        found = c.instruction_set()
        assert isinstance(found, c.Missing)
        assert found == c.Missing(reason, "unset FOREDRAFT_KERNELS")
    monkeypatch.setenv("FOREDRAFT_KERNELS", "avx3")
    with pytest.raises(UsageError, match=r"avx3 is no set of instructions; write one of amx, avx512, .*none"):
        c.library()


def test_what_apple_says_of_its_processors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(c.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(c.platform, "machine", lambda: "arm64")
    assert c.possible() == ("dotprod", "neon")
    (tmp_path / "sysctl").write_text("#!/bin/sh\necho FPU SSE4.2 FMA AVX1.0 F16C\necho SMEP BMI1 AVX2\n")
    (tmp_path / "sysctl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(c.platform, "machine", lambda: "x86_64")
    assert c.possible() == ("avx2",)
