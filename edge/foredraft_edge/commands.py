"""``foredraft generate`` and ``foredraft chat``: a text from edge and cloud together, on a terminal."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.console import Console

from foredraft_shared.errors import DeadlineMissed, ForedraftError, UsageError
from foredraft_shared.messages import SamplingParams
from foredraft_shared.traces import TraceWriter

from .client import Client, Prompt, RequestMode
from .conversation import OnDisconnect
from .options import LoopOptions
from .saved import load_text
from .screen import STYLES, Screen, statistics_lines
from .stream import TokenStream

__all__ = ["chat", "generate"]

Server = Annotated[str, typer.Option(help="Address of `foredraft serve`.")]
DraftModel = Annotated[
    str, typer.Option(help="What drafts: auto, ngram, a model's name, folder or GGUF file, first:LAYERS…; or none.")
]
Tokenizer = Annotated[str | None, typer.Option(help="Model whose tokenizer to use, if not the draft's.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")]
Temperature = Annotated[float, typer.Option(help="0 is greedy.")]
TopK = Annotated[int, typer.Option(help="Keep the k most probable tokens; 0 keeps all.")]
TopP = Annotated[float, typer.Option(help="Keep the most probable tokens up to this mass.")]
MinP = Annotated[float, typer.Option(help="Drop tokens less probable than this share of the best.")]
Seed = Annotated[int, typer.Option(help="Same seed, prompt and target: same text.")]
Mode = Annotated[str, typer.Option(help="auto, speculate, cloud, or edge (the draft alone, never verified).")]
DraftLength = Annotated[int | None, typer.Option(min=0, help="Tokens a draft; adapts by default.")]
Ahead = Annotated[bool, typer.Option("--ahead/--wait", help="Draft on while a round is in flight.")]
Hints = Annotated[bool, typer.Option("--hints/--no-hints", help="Act on hints from the target's exits.")]
Statistics = Annotated[bool, typer.Option("--stats", help="Say what it took.")]
Trace = Annotated[Path | None, typer.Option(help="Write one record a round there (see `foredraft trace`).")]
Colour = Annotated[bool, typer.Option("--colour/--no-colour", help="Tell the origins of tokens apart.")]
OnLoss = Annotated[
    str, typer.Option("--on-disconnect", help="When the server is gone: wait, go on alone on the edge, or fail.")
]
Lossy = Annotated[
    bool,
    typer.Option("--lossy", help="Let a server with --lossy-exit take an early exit as final: not the target's text."),
]
Offline = Annotated[bool, typer.Option("--offline", help="Use only models that are on this machine.")]

_SERVER = "tcp://127.0.0.1:5555"
_GREETING_S = 5.0
_LOADING = "foredraft-loading"
"""The thread that makes a client by a deadline."""


def generate(
    prompt: Annotated[str | None, typer.Argument(help="The question; '-' reads standard input.")] = None,
    prompt_file: Annotated[Path | None, typer.Option(help="Read the question from a file (UTF-8).")] = None,
    server: Server = _SERVER,
    draft: DraftModel = "auto",
    tokenizer: Tokenizer = None,
    max_tokens: MaxTokens = 256,
    temperature: Temperature = 0.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    min_p: MinP = 0.0,
    seed: Seed = 0,
    mode: Mode = "auto",
    draft_length: DraftLength = None,
    ahead: Ahead = True,
    hints: Hints = True,
    stats: Statistics = False,
    trace: Trace = None,
    colour: Colour = True,
    on_disconnect: OnLoss = "wait",
    deadline_ms: Annotated[
        float | None,
        typer.Option(min=1, help="End the answer then, however far it is; the greeting and loading the draft count."),
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Keep the text in this new file, to be resumed.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with a text kept by --save, in place of a prompt.")] = None,
    lossy: Lossy = False,
    offline: Offline = False,
) -> None:
    """Answer one question, token for token what the target alone would say."""
    due = None if deadline_ms is None else time.monotonic() + deadline_ms / 1000.0
    if resume is not None and (prompt is not None or prompt_file is not None or save is not None or lossy):
        raise UsageError("--resume goes on with the text in its file; give no prompt, --save or --lossy with it.")
    if resume is not None:
        load_text(resume)  # as below: what cannot be is said first
    question = _question(prompt, prompt_file) if resume is None else ""
    SamplingParams(temperature, top_k, top_p, min_p, seed)  # what cannot be is said before anybody is called
    loss = _on_disconnect(on_disconnect)
    unready = f"{server} had not answered{'' if draft == 'none' else ', or the draft model was not loaded,'}"
    with _client_by(due, partial(_client, server, draft, tokenizer, mode, offline, loss, due), unready) as client:
        if due is not None:
            deadline_ms = max(1.0, 1000.0 * (due - time.monotonic()))
        writer = TraceWriter(trace, {"mode": mode, "draft": draft}) if trace else None
        if resume is not None:
            stream = client.resume(
                resume,
                mode=_mode(mode),
                draft_length=draft_length,
                options=LoopOptions(ahead=ahead, hints=hints),
                observe=writer.write if writer else None,
                on_disconnect=loss,
                deadline_ms=deadline_ms,
            )
            Console().print(stream.restored_text, end="", soft_wrap=True, highlight=False, markup=False)
        else:
            stream = client.stream(
                question,
                on_disconnect=None if mode == "edge" else loss,
                deadline_ms=deadline_ms,
                save=save,
                lossy=lossy,
                max_tokens=max_tokens,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                min_p=min_p,
                seed=seed,
                mode=_mode(mode),
                draft_length=draft_length,
                options=LoopOptions(ahead=ahead, hints=hints),
                observe=writer.write if writer else None,
                epoch_ns=writer.began_ns if writer else None,
            )
        try:
            _show(stream, colour=colour, stats=stats)
        finally:
            stream.close()
            if writer is not None:
                writer.close()


def chat(
    server: Server = _SERVER,
    draft: DraftModel = "auto",
    tokenizer: Tokenizer = None,
    system: Annotated[str | None, typer.Option(help="What the model is told first.")] = None,
    max_tokens: MaxTokens = 512,
    temperature: Temperature = 0.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    min_p: MinP = 0.0,
    seed: Seed = 0,
    mode: Mode = "auto",
    ahead: Ahead = True,
    hints: Hints = True,
    stats: Statistics = False,
    colour: Colour = True,
    on_disconnect: OnLoss = "edge",
    lossy: Lossy = False,
    offline: Offline = False,
) -> None:
    """Talk to the target; Ctrl-C stops an answer, an empty line or Ctrl-D ends the talk."""
    SamplingParams(temperature, top_k, top_p, min_p, seed)  # what cannot be is said before anybody is called
    console = Console()
    conversation: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
    loss = _on_disconnect(on_disconnect)
    with _client(server, draft, tokenizer, mode, offline) as client:
        model = client.welcome.model if client.welcome else draft
        if client.drafter is None and loss == "edge":
            loss = "wait"  # there is nothing here to go on with
        if colour:
            legend = "  ".join(f"[{STYLES[name]}]{name}[/]" for name in _legend(lossy))
            console.print(f"{model}, in colours that tell who wrote: {legend}", highlight=False)
        console.print("/stats tells what an answer took, /clear forgets, an empty line ends.", highlight=False)
        last: list[str] = []
        while True:
            try:
                line = console.input("\n[bold cyan]>[/] ").strip()
            except (EOFError, KeyboardInterrupt):
                console.print()
                return
            if not line:
                return
            if line == "/stats":
                console.print("\n".join(last) or "nothing has been said yet.", highlight=False)
                continue
            if line == "/clear":
                conversation = conversation[:1] if system else []
                continue
            conversation.append({"role": "user", "content": line})
            stream = None
            try:
                stream = client.stream(
                    conversation,
                    max_tokens=max_tokens,
                    temperature=temperature,
                    top_k=top_k,
                    top_p=top_p,
                    min_p=min_p,
                    seed=seed,
                    mode=_mode(mode),
                    options=LoopOptions(ahead=ahead, hints=hints),
                    lossy=lossy,
                    on_disconnect=None if mode == "edge" else loss,
                )
                answer, last = _show(stream, colour=colour, stats=stats)
            except KeyboardInterrupt:
                if stream is not None:
                    stream.close()
                console.print("stopped; ask again, or leave with an empty line.", style="dim")
                conversation.pop()
                continue
            except ForedraftError as error:
                console.print(f"[bold red]error:[/] {error}", soft_wrap=True, highlight=False)
                conversation.pop()
                continue
            conversation.append({"role": "assistant", "content": answer})


def _legend(lossy: bool) -> tuple[str, ...]:
    return ("exit" if lossy else "drafted", *(() if lossy else ("target",)), "edge", "provisional")


def _show(stream: TokenStream, *, colour: bool, stats: bool) -> tuple[str, list[str]]:
    """Print an answer; returns its text and what it took. Ctrl-C ends the answer, not the program, in a chat."""
    console = Console()
    begun = time.perf_counter()
    events = Screen(console, colour=colour).show(stream)
    lines = statistics_lines(stream, time.perf_counter() - begun)
    if stats:
        Console(stderr=True).print("\n".join(lines), style="dim", highlight=False, soft_wrap=True)
    return "".join(event.text for event in events), lines


def _question(prompt: str | None, prompt_file: Path | None) -> Prompt:
    if (prompt is None) == (prompt_file is None):
        raise UsageError("give a prompt, or --prompt-file FILE, and not both.")
    if prompt_file is not None:
        try:
            data = prompt_file.read_bytes()
        except OSError as error:
            raise UsageError(f"cannot read {prompt_file}: {error.strerror}; check the path.") from None
        where = str(prompt_file)
    elif prompt == "-":
        data, where = sys.stdin.buffer.read(), "standard input"
    else:
        assert prompt is not None
        data, where = prompt.encode("utf-8", "surrogateescape"), "the prompt"
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{where} is not UTF-8 (byte {error.start}); convert it, for example with iconv.") from None
    if not text.strip():
        raise UsageError(f"{where} is empty; ask something.")
    return text


def _mode(mode: str) -> RequestMode:
    if mode not in ("auto", "speculate", "cloud", "edge"):
        raise UsageError(f"mode is {mode!r}; choose auto, speculate, cloud or edge.")
    return mode  # type: ignore[return-value]


def _on_disconnect(what: str) -> OnDisconnect:
    if what not in get_args(OnDisconnect):
        raise UsageError(f"--on-disconnect is {what!r}; choose {', '.join(get_args(OnDisconnect))}.")
    return what  # type: ignore[return-value]


def _client_by(due: float | None, make: Callable[[], Client], unready: str) -> Client:
    """Make the client, but wait no longer than until ``due`` of ``time.monotonic``: nothing can be asked to load faster.

    Args:
        unready: what may be the matter if it is not made by then.

    Raises:
        DeadlineMissed: it is not made by then.
    """
    if due is None:
        return make()
    made: Future[Client] = Future()

    def run() -> None:
        try:
            client = make()
        except BaseException as error:
            with suppress(InvalidStateError):
                made.set_exception(error)
            return
        try:
            made.set_result(client)
        except InvalidStateError:
            client.close()  # nobody wants it any more

    thread = threading.Thread(target=run, name=_LOADING, daemon=True)  # nobody waits for it at the end of the program
    thread.start()
    thread.join(max(0.0, due - time.monotonic()))
    if made.cancel():
        raise DeadlineMissed(
            f"{unready} when the deadline passed; allow more time, or draft with less (--draft ngram, --draft none)."
        )
    return made.result()


def _client(
    server: str,
    draft: str,
    tokenizer: str | None,
    mode: str,
    offline: bool,
    loss: OnDisconnect = "wait",
    due: float | None = None,
) -> Client:
    # Which draft "auto" is, only the server's model tells.
    can_begin_alone = loss == "edge" and draft not in ("auto", "none")
    greeting_s = _GREETING_S
    if due is not None:
        # Who can begin alone has a draft to load; who cannot still has to say that nobody answers.
        greeting_s = min(greeting_s, max(0.0, due - time.monotonic()) * (0.5 if can_begin_alone else 0.9))
    return Client(
        None if _mode(mode) == "edge" else server,
        None if draft == "none" else draft,
        tokenizer=tokenizer,
        connect_timeout_s=greeting_s,
        require_server=not can_begin_alone,
        offline=offline,
    )
