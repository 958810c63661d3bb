"""The ``foredraft`` command: one root, groups that register themselves, and one line for whatever goes wrong.

Exit codes: 0 done, 1 it could not be done, 2 it was not asked for rightly, 130 stopped by Ctrl-C.
``FOREDRAFT_DEBUG=1`` shows the trace behind an error.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.text import Text
from typer.main import get_command

from .errors import ForedraftError, UsageError
from .groups import Groups, group_names, missing_backend
from .version import version

__all__ = ["main"]

_FAILED, _USAGE, _INTERRUPTED = 1, 2, 130

_ROOM = "make room on the disk"
_RIGHTS = "see to who may read and write there, or name another place"
_PATH = "look at how the path is written"
_REMEDIES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: "raise the limit on the size of files (`ulimit -f`), or name another disk",
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: "name a place that can be written to",
    errno.ENOENT: _PATH,
    errno.ENOTDIR: _PATH,
    errno.EISDIR: "name a file in it",
    errno.ENAMETOOLONG: "name a shorter one",
    errno.ELOOP: "look at where its links lead",
    errno.EMFILE: "raise the limit on open files (`ulimit -n`)",
    errno.ENFILE: "close some of what runs on this machine",
    errno.ENOMEM: "free some memory",
    errno.EIO: "look at the disk",
}
"""What the system refuses for reasons that are no bug of ours, and what to do."""

_root = typer.Typer(name="foredraft", cls=Groups, no_args_is_help=True)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"foredraft {version()}")
        raise typer.Exit


@_root.callback()
def _options(
    config: Annotated[
        Path | None,
        typer.Option(
            envvar="FOREDRAFT_CONFIG",
            metavar="FILE",
            help="Settings in TOML; default: config.toml in the user's folder.",
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """A small model on a device and a large model in the cloud decode one text together."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; whatever is raised below ends here."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")  # a model writes letters that not every terminal has
    try:
        try:
            result = get_command(_root).main(arguments, prog_name="foredraft", standalone_mode=False)
            sys.stdout.flush()
        except ModuleNotFoundError as error:
            raise _explained(error, arguments) from error
        # An int comes from typer.Exit, or from Ctrl-C, which typer turns into an exit; commands return nothing.
        return result if isinstance(result, int) else 0
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        return _FAILED  # whoever read our output has left (`foredraft … | head`)
    except typer.Abort:
        _complain("stopped.")
        return _FAILED
    except typer.TyperException as error:
        return _report_usage(error)
    except ForedraftError as error:
        _show_trace_if_asked()
        _complain(str(error) or f"{type(error).__doc__}")
        return _USAGE if isinstance(error, UsageError) else _FAILED
    except OSError as error:
        shown = _show_trace_if_asked()
        _complain(_refused_by_the_system(error) or _unexpected(error, shown))
        return _FAILED
    except Exception as error:
        _complain(_unexpected(error, _show_trace_if_asked()))
        return _FAILED
    finally:
        _give_up_what_cannot_be_written()


def _refused_by_the_system(error: OSError) -> str:
    """What the system would not do, and what helps; empty where only who knows the code can say."""
    remedy = _REMEDIES.get(error.errno or 0)
    if remedy is None or (error.errno == errno.ENOENT and not error.filename):
        return ""
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    return f"{where}{error.strerror}; {remedy}, then try again."


def _unexpected(error: Exception, shown: bool) -> str:
    hint = "please report it" if shown else "set FOREDRAFT_DEBUG=1 to see where, and please report it"
    return f"unexpected {type(error).__name__}: {error}; {hint}."


def _explained(error: ModuleNotFoundError, arguments: Sequence[str]) -> Exception:
    """A missing package is the user's to install; a missing module of a package that is there is ours to mend."""
    group = next((each for each in arguments if each in group_names()), "")
    return error if (error.name or "").startswith("foredraft_") else missing_backend(error, group)


def _report_usage(error: typer.TyperException) -> int:
    context: Any = getattr(error, "ctx", None)
    # Typer has already shown the help this one carries; its class is not public.
    if type(error).__name__ != "NoArgsIsHelpError":
        message = error.format_message().rstrip(".") + _origin(error, context)
        message += "" if message.endswith("?") else "."
        _complain(f"{message} See `{context.command_path} --help`." if context else message)
    return error.exit_code


def _origin(error: typer.TyperException, context: Any) -> str:
    """Where a bad value stands, if not on the command line."""
    parameter: Any = getattr(error, "param", None)
    source = context.get_parameter_source(parameter.name) if context and parameter else None
    if source is not None and source.name == "ENVIRONMENT":
        names = [parameter.envvar] if isinstance(parameter.envvar, str) else parameter.envvar
        return f" (from {next((name for name in names if os.environ.get(name)), 'the environment')})"
    return " (from the configuration file)" if source is not None and source.name == "DEFAULT_MAP" else ""


def _complain(message: str) -> None:
    # A server's words, or a file's name, might steer the terminal.
    harmless = "".join(
        each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in " ".join(message.split())
    )
    line = Text.assemble(("error: ", "bold red"), harmless)
    with suppress(OSError, SystemExit):  # nobody can read it (for a closed pipe rich would exit); the code says as much
        Console(stderr=True).print(line, soft_wrap=True)


def _give_up_what_cannot_be_written() -> None:
    """The interpreter writes at its end what lies in its streams, and would put an exit code of its own in place of ours."""
    stream: TextIO | None
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _show_trace_if_asked() -> bool:
    asked = os.environ.get("FOREDRAFT_DEBUG", "").lower() not in ("", "0", "false", "no")
    if asked:
        traceback.print_exc()
    return asked
