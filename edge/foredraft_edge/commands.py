"""``foredraft generate`` and ``foredraft chat``: a text from edge and cloud together, on a terminal."""

from __future__ import annotations

import io
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from foredraft_shared.errors import DeadlineMissed, ForedraftError, PromptTooLong, UsageError
from foredraft_shared.messages import SamplingParams
from foredraft_shared.traces import TraceWriter

from .asked import files_differ, loss_asked, mode_asked, question, text_alone, utf8
from .client import Client
from .conversation import OnDisconnect
from .options import LoopOptions
from .saved import load_text
from .screen import STYLES, Screen, harmless, statistics_lines
from .stream import TokenStream
from .times_asked import LONGEST_S, a_number

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
    context: typer.Context,
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
        typer.Option(
            min=1,
            max=LONGEST_S * 1000,
            callback=a_number,
            help="End the answer then, however far it is; the greeting and loading the draft count.",
        ),
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
    # What cannot be is said before anybody is called, and before anything is written.
    if resume is not None:
        text_alone(context, "max_tokens", "temperature", "top_k", "top_p", "min_p", "seed")
    models = {"--draft": _file_of(draft), "--tokenizer": _file_of(tokenizer)}
    files = {"--prompt-file": prompt_file, "--resume": resume, "--save": save, "--trace": trace, **models}
    files_differ(files, written=("--save", "--trace"))
    if resume is not None:
        load_text(resume)
    asked = question(prompt, prompt_file) if resume is None else ""
    SamplingParams(temperature, top_k, top_p, min_p, seed)
    loss = loss_asked(on_disconnect)
    unready = f"{server} had not answered{'' if draft == 'none' else ', or the draft model was not loaded,'}"
    options = LoopOptions(ahead=ahead, hints=hints)
    with ExitStack() as opened:
        make = partial(_client, server, draft, tokenizer, mode, offline, loss, due)
        client = opened.enter_context(_client_by(due, make, unready))
        if due is not None:
            deadline_ms = max(1.0, 1000.0 * (due - time.monotonic()))
        writer = opened.enter_context(TraceWriter(trace, {"mode": mode, "draft": draft})) if trace else None
        if resume is not None:
            stream = client.resume(
                resume,
                mode=mode_asked(mode),
                draft_length=draft_length,
                options=options,
                observe=writer.write if writer else None,
                epoch_ns=writer.began_ns if writer else None,
                on_disconnect=loss,
                deadline_ms=deadline_ms,
            )
        else:
            stream = client.stream(
                asked,
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
                mode=mode_asked(mode),
                draft_length=draft_length,
                options=options,
                observe=writer.write if writer else None,
                epoch_ns=writer.began_ns if writer else None,
            )
        opened.callback(stream.close)
        _show(stream, colour=colour, stats=stats)


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
    first = [{"role": "system", "content": utf8(system, "--system")}] if system else []
    conversation: list[dict[str, str]] = list(first)
    loss = loss_asked(on_disconnect)
    if isinstance(sys.stdin, io.TextIOWrapper) and sys.stdin.errors == "strict":
        sys.stdin.reconfigure(errors="surrogateescape")  # so that a line that is not UTF-8 costs that line alone
    with _client(server, draft, tokenizer, mode, offline, loss) as client:
        model = client.welcome.model if client.welcome else draft
        if client.drafter is None and loss == "edge":
            loss = "wait"  # there is nothing here to go on with
        if colour:
            legend = [part for name in _legend(lossy) for part in ("  ", (name, STYLES[name]))]
            console.print(Text.assemble(f"{harmless(model)}, in colours that tell who wrote: ", *legend[1:]))
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
                console.print("\n".join(last) or "nothing has been said yet.", highlight=False, markup=False)
                continue
            if line == "/clear":
                conversation = list(first)
                continue
            stream = None
            conversation.append({"role": "user", "content": line})
            try:
                utf8(line, "that line")
                stream = client.stream(
                    conversation,
                    max_tokens=max_tokens,
                    temperature=temperature,
                    top_k=top_k,
                    top_p=top_p,
                    min_p=min_p,
                    seed=seed,
                    mode=mode_asked(mode),
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
                conversation.pop()
                told = _too_long(error, conversation != first) if isinstance(error, PromptTooLong) else str(error)
                told = harmless(" ".join(told.split()))
                console.print(Text.assemble(("error: ", "bold red"), told), soft_wrap=True)
                continue
            conversation.append({"role": "assistant", "content": answer})


def _legend(lossy: bool) -> tuple[str, ...]:
    return ("exit" if lossy else "drafted", *(() if lossy else ("target",)), "edge", "provisional")


def _too_long(error: PromptTooLong, talked: bool) -> str:
    what = str(error).rpartition("; ")[0] or str(error).rstrip(".")
    return f"{what}; " + (
        "write /clear to forget what was said, or allow shorter answers (--max-tokens)."
        if talked
        else "write less at once, or allow shorter answers (--max-tokens)."
    )


def _show(stream: TokenStream, *, colour: bool, stats: bool) -> tuple[str, list[str]]:
    """Print an answer; returns its text and what it took. Ctrl-C ends the answer, not the program, in a chat."""
    screen = Screen(Console(), colour=colour)
    screen.restored(stream.restored_text)
    begun = time.perf_counter()
    events = screen.show(stream)
    lines = statistics_lines(stream, len(events), time.perf_counter() - begun)
    if stats:
        Console(stderr=True).print("\n".join(lines), style="dim", highlight=False, markup=False, soft_wrap=True)
    return "".join(event.text for event in events), lines


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
    mode = mode_asked(mode)
    if mode == "cloud" and loss != "edge":  # nobody would draft
        tokenizer, draft = tokenizer or _model_of(draft), "none"
    # Which draft "auto" is, only the server's model tells; and n-grams know no words.
    can_begin_alone = loss == "edge" and draft not in ("auto", "none") and bool(tokenizer or draft != "ngram")
    greeting_s = _GREETING_S
    if due is not None:
        # Who can begin alone has a draft to load; who cannot still has to say that nobody answers.
        greeting_s = min(greeting_s, max(0.0, due - time.monotonic()) * (0.5 if can_begin_alone else 0.9))
    client = Client(
        None if mode == "edge" else server,
        None if draft == "none" else draft,
        tokenizer=tokenizer,
        connect_timeout_s=greeting_s,
        require_server=not can_begin_alone,
        offline=offline,
    )
    try:
        client.tokenizer  # noqa: B018 - it may have none
    except UsageError:
        client.close()
        raise UsageError(
            "nothing here has a tokenizer; name a draft model (--draft), or give --tokenizer MODEL."
        ) from None
    return client


def _model_of(draft: str) -> str | None:
    """The model that a draft is, if it is simply one that is here or in the catalogue: its words are the target's."""
    from foredraft_shared.models.catalogue import CATALOGUE

    return draft if draft in CATALOGUE or Path(draft).exists() else None


def _file_of(model: str | None) -> Path | None:
    """The file that a draft or a tokenizer is read from, if it is a single one."""
    path = Path(model.partition(":")[2] or model) if model else None
    return path if path is not None and path.is_file() else None
