"""``foredraft serve``: a target model for devices to draft for."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from foredraft_shared.errors import UsageError
from foredraft_shared.models import open_model

from .arithmetic import DTYPE_HELP, check_arithmetic
from .identity import certificate, operator_secret
from .journal import configure_logs
from .keys import data_folder
from .listening import Listening, needs_keys
from .watch import Watch

__all__ = ["serve"]

CONTROL_PORT = 5556


def serve(
    model: Annotated[str, typer.Argument(help="Name, folder, hub id or GGUF file of the target.")] = "smollm2-135m",
    bind: Annotated[
        str, typer.Option(help="Where devices connect; port 0 takes any free one.")
    ] = "tcp://127.0.0.1:5555",
    exits: Annotated[
        str | None,
        typer.Option(help="Layers that hint, such as 10,20; 'none' for none. By default those with a trained head."),
    ] = None,
    heads: Annotated[
        Path | None,
        typer.Option(help="Exit heads made by `foredraft train exits`; by default those that come with the model."),
    ] = None,
    dtype: Annotated[str, typer.Option(help=DTYPE_HELP)] = "bfloat16",
    threads: Annotated[int, typer.Option(min=1, help="Threads of the model's passes.")] = 1,
    compiled: Annotated[
        bool,
        typer.Option(
            help="Compute passes in kernels compiled for this processor, where it has AVX2 or is a 64-bit ARM and there is "
            "a C++ compiler; in torch otherwise."
        ),
    ] = True,
    context: Annotated[
        int | None, typer.Option(min=1, help="Longest session in tokens; by default the model's own.")
    ] = None,
    max_sessions: Annotated[
        int, typer.Option(min=1, help="Sessions active at once; those that are silent are parked and do not count.")
    ] = 16,
    cache_mib: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Hard limit on the memory of keys and values, in MiB; by default what --max-sessions need, "
            "at most a quarter of the machine's.",
        ),
    ] = None,
    sessions_per_device: Annotated[int, typer.Option(min=1, help="Sessions that one enrolled device may hold.")] = 8,
    rounds_per_second: Annotated[
        float, typer.Option(min=0.1, help="Rounds that one enrolled device may ask for.")
    ] = 200,
    rounds_in_flight: Annotated[int, typer.Option(min=1, help="Rounds of one device that may wait for a pass.")] = 64,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Longest prompt.")] = 131_072,
    grace: Annotated[float, typer.Option(min=0.0, help="Seconds that SIGTERM leaves to what is under way.")] = 10.0,
    drop_confidence: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Take rows no further behind a drafted token in whose place an exit is so sure of another; "
            "by default all rows go to full depth. Never changes a token.",
        ),
    ] = None,
    lossy_exit: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Lossy: load only the layers up to this one, and take what its exit says as final. Devices must allow it "
            "(--lossy); their texts are not the model's own.",
        ),
    ] = None,
    secure: Annotated[
        bool, typer.Option("--secure", help="Let in enrolled devices only, encrypted; always so beyond this machine.")
    ] = False,
    control: Annotated[
        str | None,
        typer.Option(help="HOST:PORT where devices enrol, or 'none'; beyond this machine port 5556 beside --bind."),
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="tcp://HOST:PORT as devices reach --bind, if they need to be told another one.")
    ] = None,
    data: Annotated[Path | None, typer.Option(envvar="FOREDRAFT_DATA", help="Folder of the server's keys.")] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            help="HOST:PORT for /metrics and /health; beyond this machine over TLS, with the token in metrics.secret."
        ),
    ] = None,
    log_format: Annotated[str, typer.Option(help="console or json.")] = "console",
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
    offline: Annotated[bool, typer.Option("--offline", help="Use only models that are on this machine.")] = False,
    ready_file: Annotated[
        Path | None, typer.Option(help="Write address and facts there, as JSON, once devices can connect.")
    ] = None,
) -> None:
    """Serve a target model to devices that draft for it."""
    check_arithmetic(dtype)
    if lossy_exit is not None and (drop_confidence is not None or exits not in (None, "none")):
        raise UsageError("--lossy-exit makes that layer the last one; leave --exits and --drop-confidence out.")
    configure_logs(log_format, log_level)
    if ready_file is not None:
        _check_ready_file(ready_file)
    # The address is taken before the model is loaded: a port in use should not cost a minute to find out.
    reachable = needs_keys(bind)
    listening = Listening(bind, secure=secure or reachable, folder=data or data_folder())
    listener = listening.listener
    watch: Watch | None = None
    try:
        watch = Watch(metrics, data or data_folder())
        if control is None and reachable:
            control = f"{bind.removeprefix('tcp://').rpartition(':')[0]}:{CONTROL_PORT}"
        if control not in (None, "none") and (secure or reachable):
            certificate(data or data_folder())  # for the same reason: a damaged file is told now
            operator_secret(data or data_folder())
        from .caps import Caps
        from .decoder import load_target  # torch takes seconds to import
        from .engine import EngineOptions
        from .exit_choice import exit_layers, heads_for
        from .server import Server

        opened = open_model(model, offline=offline)
        layers = exit_layers(exits)
        trained = None if layers == () else heads_for(opened, heads)
        cache_bytes = None if cache_mib is None else cache_mib * 2**20
        if lossy_exit is not None:
            from .lossy import load_lossy_target

            target = load_lossy_target(
                opened,
                lossy_exit,
                heads=trained,
                dtype=dtype,
                threads=threads,
                context=context,
                slots=max_sessions,
                cache_bytes=cache_bytes,
                compiled=compiled,
            )
        else:
            target = load_target(
                opened,
                dtype=dtype,
                exits=layers,
                heads=trained,
                threads=threads,
                context=context,
                slots=max_sessions,
                cache_bytes=cache_bytes,
                compiled=compiled,
            )
        server = Server(
            target,
            listener,
            model=opened.name,
            fingerprint=opened.tokenizer.fingerprint,
            dtype=dtype,
            options=EngineOptions(
                max_sessions=max_sessions,
                max_sessions_per_device=sessions_per_device,
                drop_confidence=drop_confidence,
                lossy_exit=lossy_exit or 0,
            ),
            caps=Caps(rounds_per_second, rounds_in_flight, prompt_tokens=prompt_tokens),
            observer=watch.observer,
        )
        watch.show(server)
        listening.guard(server, None if control == "none" else control, (endpoint,) if endpoint else ())

        def stop(number: int, frame: FrameType | None) -> None:
            if number == signal.SIGTERM and server.health == "ready":
                server.drain(grace)
            else:  # Ctrl-C, or somebody is losing patience
                server.stop()

        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGTERM, stop)
        facts = {
            "address": listener.address,
            "control": listening.control.address if listening.control else "",
            "metrics": watch.http.url if watch.http else "",
            "model": opened.name,
            "fingerprint": opened.tokenizer.fingerprint,
            "layers": target.exits[-1],
            "exits": list(target.exits[:-1]),
            "dtype": dtype,
            "lossy_exit": lossy_exit or 0,
            "context": target.context,
        }
        hints = f"hints at {', '.join(map(str, target.exits[:-1]))}" if target.exits[:-1] else "no hints"
        if lossy_exit is not None:
            hints = f"[yellow]lossy: layer {lossy_exit} of {opened.config.layers} is taken as final[/]"
        _say(
            f"[bold]{opened.name}[/] ({dtype}, {facts['layers']} layers, {hints}) "
            f"listens on [bold]{listener.address}[/]; Ctrl-C stops it."
        )
        if listening.control is not None:
            _say(
                "enrolled devices only; `foredraft keys token --control HOST:"
                f"{listening.control.address.rpartition(':')[2]}` lets one enrol."
            )
        if ready_file is not None:
            _write_ready_file(ready_file, json.dumps(facts) + "\n")
        server.serve()
    finally:
        if watch is not None:
            watch.close()
        listening.close()
    done = server.statistics
    _say(
        f"stopped after {done.passes} passes: {done.committed} tokens, {done.accepted} of {done.drafted} drafted ones right."
    )


def _say(line: str) -> None:
    """For whoever reads standard error; a server runs on where nobody can (see :class:`~foredraft_cloud.journal.LogStream`)."""
    with suppress(OSError, SystemExit):  # rich would end the process for a pipe that is closed
        Console(stderr=True).print(line, soft_wrap=True, highlight=False)


def _check_ready_file(path: Path) -> None:
    if path.is_dir():
        raise UsageError(f"--ready-file {path} is a folder; name a file in it.")
    if not path.parent.is_dir():
        raise UsageError(f"--ready-file {path}: there is no folder {path.parent}; make it, or name another file.")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"--ready-file {path}: you may not write into {path.parent}; name another file.")


def _write_ready_file(path: Path, text: str) -> None:
    """Whole or not at all: who waits for it reads it as soon as it is there."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        partial.write_text(text)
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise UsageError(f"cannot write --ready-file {path} ({error.strerror}); name another file.") from None
