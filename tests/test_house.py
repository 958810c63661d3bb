"""The house itself: one version, documents without a machine's paths, commands that exist, a lock that fits."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from foredraft_shared.groups import ENTRY_POINTS, load_group, one_line_help
from foredraft_shared.version import version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
GROUPS = sorted(PROJECT["entry-points"][ENTRY_POINTS])


def tracked(*patterns: str) -> list[Path]:
    """Files of the checkout; of an unpacked archive, which git knows nothing of, every file but the environment's."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *patterns],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0:
        found = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    else:
        found = [path for pattern in patterns for path in ROOT.rglob(pattern)]
    return [path for path in found if path.is_file() and ".venv" not in path.parts]


def test_the_version_is_written_once() -> None:
    assert version() == PROJECT["version"]


def test_the_changelog_knows_the_version_or_what_is_to_come() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased" or headings[0] == PROJECT["version"]


# A path of somebody's machine, and the address of a package index, are nobody else's business.
_PRIVATE = re.compile(r"(?<![\w./-])/(home|root|Users|work|opt|srv|mnt)/\w|index-url|find-links")


def test_nothing_names_a_path_of_some_machine() -> None:
    patterns = ("*.md", "*.py", "*.toml", "*.yaml", "*.txt", "*.proto", "Makefile", ".ci/run")
    guilty = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in tracked(*patterns)
        if path != Path(__file__).resolve()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if _PRIVATE.search(line)
    ]
    assert guilty == []


def test_links_between_documents_lead_somewhere() -> None:
    broken = [
        f"{document.relative_to(ROOT)}: {target}"
        for document in tracked("*.md")
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text(encoding="utf-8"))
        if not (document.parent / target).exists()
    ]
    assert broken == []


def test_every_command_of_the_project_is_installed() -> None:
    # Only ours: another package may add its own.
    installed = metadata.entry_points(group=ENTRY_POINTS)
    assert {point.name for point in installed if point.value in PROJECT["entry-points"][ENTRY_POINTS].values()} == set(
        GROUPS
    )


@pytest.mark.parametrize("name", GROUPS)
def test_every_command_loads_and_says_what_it_does(name: str) -> None:
    (point,) = metadata.entry_points(group=ENTRY_POINTS, name=name)
    assert load_group(point).name == name
    assert one_line_help(point)


def test_every_dependency_is_locked() -> None:
    lines = (ROOT / "requirements" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    locked = {canonicalize_name(line.partition("==")[0]): line for line in lines if line and not line.startswith("#")}
    wanted = [Requirement(text) for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]]
    for extra in ("edge", "cloud", "models", "torch"):
        wanted += [Requirement(text) for text in PROJECT["optional-dependencies"][extra]]
    for requirement in wanted:
        if requirement.name == "foredraft" or (requirement.marker and not requirement.marker.evaluate()):
            continue
        line = locked.get(canonicalize_name(requirement.name))
        assert line is not None, f"{requirement.name} is not in requirements/constraints.txt; run: make lock"
        (pin,) = Requirement(line).specifier
        assert requirement.specifier.contains(pin.version), line


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in tracked("*.py")
        if "_pb2" not in path.name and path.read_text(encoding="utf-8").strip()
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert silent == []
