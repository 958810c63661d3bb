"""The command groups: found through entry points, listed without being imported, loaded when one is called.

A package adds a group by naming a :class:`typer.Typer` application, or a plain function, in its ``pyproject.toml``::

    [project.entry-points."foredraft.commands"]
    arm = "my_robot.commands:arm"

``foredraft --help`` shows a line about each group. That line is read from the group's source, as text: importing eight
groups to print eight lines would load torch and onnxruntime, and fail where they are not installed.
"""

from __future__ import annotations

import ast
import importlib.util
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from .errors import BackendMissing
from .settings import Command, Settings, bind, load_settings

if TYPE_CHECKING:
    from typer._click import Context, HelpFormatter

__all__ = ["ENTRY_POINTS", "Groups", "group_names", "load_group", "missing_backend", "one_line_help"]

ENTRY_POINTS = "foredraft.commands"

# What to install for the commands of a package of ours; of another's, its name is all we know.
_EXTRAS = {
    "foredraft_edge": "foredraft[edge]",
    "foredraft_cloud": "foredraft[cloud]",
    "foredraft_shared": "foredraft[models]",
    "foredraft_bench": "foredraft[bench]",
}


class Groups(TyperGroup):
    """The root command: its subcommands are placeholders until one is called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self._entry_points = {point.name: point for point in metadata.entry_points(group=ENTRY_POINTS)}
        for name in self._entry_points:
            self.commands[name] = TyperCommand(name=name, add_help_option=False)

    def list_commands(self, ctx: Context) -> list[str]:
        return sorted(self.commands)

    def format_help(self, ctx: Context, formatter: HelpFormatter) -> None:
        for name, point in self._entry_points.items():
            self.commands[name].help = one_line_help(point)
        super().format_help(ctx, formatter)

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, _, rest = super().resolve_command(ctx, args)
        if name is None:
            return name, None, rest
        command = load_group(self._entry_points[name])
        # While the shell completes a word, a broken configuration is not what to complain about.
        settings = Settings() if ctx.resilient_parsing else load_settings(ctx.params.get("config"), self.commands)
        ctx.default_map = {name: bind(command, name, settings)}
        return name, command, rest


def group_names() -> set[str]:
    """The names of all groups, loaded or not."""
    return {point.name for point in metadata.entry_points(group=ENTRY_POINTS)}


def load_group(point: metadata.EntryPoint) -> Command:
    """Import a group.

    Raises:
        BackendMissing: a package it needs is not installed.
    """
    try:
        loaded = point.load()
    except ModuleNotFoundError as error:
        raise missing_backend(error, point.name) from error
    if isinstance(loaded, typer.Typer):
        application = loaded
    else:
        application = typer.Typer()
        application.command(point.name)(loaded)
    command = get_command(application)
    assert isinstance(command, TyperCommand | TyperGroup)
    # Completion is the root's; typer adds the options that install it to every application.
    command.params = [each for each in command.params if each.name not in ("install_completion", "show_completion")]
    command.name = point.name
    return command


def missing_backend(error: ModuleNotFoundError, group: str) -> BackendMissing:
    """The error that tells which line to run, for a module that ``group`` could not import."""
    points = metadata.entry_points(group=ENTRY_POINTS, name=group)
    package = next((point.module.partition(".")[0] for point in points), "")
    install = _EXTRAS.get(package, package.replace("_", "-") or "foredraft")
    module = error.name or "a module"
    return BackendMissing(f"`foredraft {group}` needs {module}, which is not installed; run: pip install '{install}'")


def one_line_help(point: metadata.EntryPoint) -> str:
    """The first sentence about a group, found in its source without running it; empty if there is none."""
    source = _source(point.module)
    if source is None:
        return ""
    try:
        tree = ast.parse(source.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return ""
    text = ast.get_docstring(tree) or ""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == point.attr:
            text = ast.get_docstring(node) or text
        elif isinstance(node, ast.Assign) and any(
            isinstance(to, ast.Name) and to.id == point.attr for to in node.targets
        ):
            text = _help_argument(node.value) or text
    return text.partition("\n\n")[0].replace("\n", " ")


def _help_argument(call: ast.expr) -> str:
    for keyword in call.keywords if isinstance(call, ast.Call) else ():
        if keyword.arg == "help" and isinstance(keyword.value, ast.Constant):
            return str(keyword.value.value)
    return ""


def _source(module: str) -> Path | None:
    """The file of a module. Only its top-level package is looked up: finding a submodule would import its parents."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin else None
    for folder in spec.submodule_search_locations or ():
        below = Path(folder, *rest)
        for candidate in (below.with_suffix(".py"), below / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None
