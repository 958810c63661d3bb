"""Where the value of an option comes from: command line, environment, configuration file, default, in that order.

No option is named twice for this. Every option of every command has

* a twin in the environment, ``FOREDRAFT_<COMMAND>_<OPTION>``: ``--rtt-ms`` of ``foredraft demo`` is
  ``FOREDRAFT_DEMO_RTT_MS``, ``--offline`` of ``foredraft models pull`` is ``FOREDRAFT_MODELS_PULL_OFFLINE``;
* a key in a TOML file, in the table of its command::

    [demo]
    rtt-ms = 20

    [models.pull]
    offline = true

The file is the one named by ``foredraft --config FILE``, else by ``FOREDRAFT_CONFIG``, else ``config.toml`` in foredraft's
folder of the user's configuration directory (``XDG_CONFIG_HOME``), if there is one. A table or key that no command has is
an error which names the nearest that exists: a misspelt setting must not be silently without effect. A table's keys are
checked when its command runs, as only then is the command loaded.

Arguments (``foredraft serve MODEL``) take part under their own names unless they take several values.

Values of the file are read as if they had been typed on the command line, so that every type has one parser.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import platformdirs
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from .errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Command", "Settings", "bind", "load_settings"]

Command: TypeAlias = TyperCommand | TyperGroup
_Parameter: TypeAlias = TyperOption | TyperArgument

# Typer gives these to every application; they install things into a shell and are no settings.
_NO_SETTINGS = ("install_completion", "show_completion")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a configuration file says; empty when there is none."""

    path: Path | None = None
    tables: Mapping[str, Any] = field(default_factory=dict)


def load_settings(path: Path | None, groups: Iterable[str]) -> Settings:
    """Read the configuration file.

    Args:
        path: must exist; None reads the user's own file if there is one.
        groups: the names of the commands that exist.

    Raises:
        UsageError: the file cannot be read, is not TOML, or has a table for no command.
    """
    if path is None:
        path = platformdirs.user_config_path("foredraft") / "config.toml"
        if not path.is_file():
            return Settings()
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"cannot read the configuration {path}: {error.strerror}; name another with --config."
        ) from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 at byte {error.start}; save it as UTF-8.") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not TOML: {error}.") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets thousands deep
        raise UsageError(f"{path} cannot be read: {error}; mend it.") from None
    known = sorted(groups)
    for name, table in tables.items():
        if name not in known:
            raise UsageError(f"{path}: there is no command `{name}`{_nearest(name, known)}.")
        if not isinstance(table, dict):
            raise UsageError(f"{path}: `{name}` is a command; write its options in a table [{name}].")
    return Settings(path, tables)


def bind(command: Command, name: str, settings: Settings) -> dict[str, Any]:
    """Give every option of ``command`` its twin in the environment, and find its values in the file.

    Returns:
        The values, by parameter and nested by command, as click's ``default_map`` wants them.

    Raises:
        UsageError: a key in the command's table is none of its options.
    """
    return _bind(command, (name,), settings.tables.get(name, {}), settings.path)


def _bind(command: Command, path: tuple[str, ...], table: Mapping[str, Any], file: Path | None) -> dict[str, Any]:
    defaults: dict[str, Any] = {}
    parameters: dict[str, _Parameter] = {}
    for parameter in command.params:
        if isinstance(parameter, TyperOption | TyperArgument) and parameter.name not in _NO_SETTINGS:
            key = _key(parameter)
            if key:
                parameters[key] = parameter
                _add_twin(parameter, "_".join(("foredraft", *path, key)).upper().replace("-", "_"))
    nested: dict[str, Command] = {}
    if isinstance(command, TyperGroup):
        nested = {name: each for name, each in command.commands.items() if isinstance(each, TyperCommand | TyperGroup)}
    table_name = ".".join(path)
    for name, value in table.items():
        key = name.replace("_", "-")
        if isinstance(value, dict):
            if name not in nested:
                raise UsageError(f"{file}: [{table_name}] has no command `{name}`{_nearest(name, nested)}.")
        elif key in parameters:
            defaults[parameters[key].name] = _as_typed(value)
        else:
            raise UsageError(f"{file}: [{table_name}] has no option `{name}`{_nearest(key, parameters)}.")
    for name, each in nested.items():
        defaults[name] = _bind(each, (*path, name), table.get(name, {}), file)
    return defaults


def _key(parameter: _Parameter) -> str:
    """The name of a parameter in the file: its long option without the dashes; empty if it cannot be set there."""
    if isinstance(parameter, TyperArgument):
        return parameter.name.replace("_", "-") if parameter.nargs == 1 else ""
    return next((name[2:] for name in parameter.opts if name.startswith("--")), "")


def _add_twin(parameter: _Parameter, variable: str) -> None:
    own = [parameter.envvar] if isinstance(parameter.envvar, str) else list(parameter.envvar or ())
    parameter.envvar = [*own, variable] if own else variable


def _as_typed(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, list):
        return [_as_typed(each) for each in value]
    return str(value)


def _nearest(name: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; perhaps you mean `{close[0]}`"
    return f"; there is {', '.join(known)}" if known else ""
