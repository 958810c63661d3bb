"""The SDK: a text, from edge and cloud together.

::

    from foredraft_edge import Client

    with Client("tcp://127.0.0.1:5555") as client:
        for event in client.stream("Why is the sky blue?", max_tokens=64):
            print(event.text, end="", flush=True)
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, get_args

from typing_extensions import Self

from foredraft_devices import probe
from foredraft_shared.errors import LinkLost, UsageError
from foredraft_shared.messages import TokenId, Welcome
from foredraft_shared.models import Tokenizer, open_model
from foredraft_shared.models.catalogue import CATALOGUE
from foredraft_shared.otel import provider_from_environment
from foredraft_shared.traces import RoundRecord
from foredraft_shared.transports.base import Transport

from .agreement import agreed_exit, check_model, check_tokens
from .asking import Prompt, check_room, length, messages_or_tokens, sampling, stop_ids
from .conversation import OnDisconnect
from .deadlines import deadline_in
from .drafters.base import Drafter
from .experience import Experience, experience_path
from .link import Link
from .loop import Commit, RoundLoop
from .options import LoopOptions
from .planner import Planner
from .planners import Planners, RequestMode
from .saved import SavedText, SessionFile, check_new, ledger_of, load_text, take_up
from .stream import Generation, TokenStream, write_alone

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider as OwnTraces
    from opentelemetry.trace import TracerProvider

__all__ = ["Client", "Prompt", "RequestMode"]


class Client:
    """A device's connection to a target.

    One text is written at a time: a second call from another thread waits for the first. Clients are cheap; use one a
    thread where texts are to be written side by side.

    Args:
        address: of the server, such as ``tcp://192.0.2.7:5555``; ``None`` for mode ``edge`` only.
        draft: a drafter, or what :func:`~foredraft_edge.drafters.load_drafter` takes (``"auto"``, ``"ngram"``,
            ``"draft:smollm2-135m"``…), or ``None`` to leave everything to the cloud.
        tokenizer: model whose tokenizer to use; by default that of ``draft``, else that of the server's model, if
            foredraft's catalogue knows it by the name that the server gives.
        transport: in place of ``address``, for tests.
        connect_timeout_s: how long the server may take to answer the greeting.
        tracer_provider: of OpenTelemetry; by default what the standard OTEL_* variables ask for, if anything.
        require_server: whether its silence is an error. Without it a device can begin where there is no network: name the
            draft, and ask with ``on_disconnect="edge"``.

    Raises:
        LinkLost: nobody answers at ``address``, and ``require_server`` is set.
        NotEnrolled, ServerKeyMismatch: the server does not let this device in, or is not the one it enrolled with.
        VocabularyMismatch: draft and target do not share a vocabulary.
        ModelNotFound, ModelDamaged, ModelUnsupported, BackendMissing: the draft cannot be used.
        UsageError: neither the draft nor the server's model tells the tokenizer.
    """

    def __init__(
        self,
        address: str | None,
        draft: str | Path | Drafter | None = "auto",
        *,
        tokenizer: str | Path | Tokenizer | None = None,
        device: str = "",
        transport: Transport | None = None,
        connect_timeout_s: float = 5.0,
        require_server: bool = True,
        offline: bool = False,
        threads: int = 1,
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        self._own_traces: OwnTraces | None = None
        self._traces = tracer_provider
        self._closed = False
        self._asked: tuple[int, int] | None = None
        """Tokens in front of the text that is being written, and how many it may get."""
        self._lock = threading.Lock()
        self._writing_thread: int | None = None
        self._epoch = 0
        """The highest one of all saved texts written here; who takes up a copy of one of them begins above it."""
        self._planners: Planners | None = None
        self.link: Link | None = None
        self._tokenizer: Tokenizer | None = None
        self.drafter: Drafter | None = None
        if not isinstance(draft, str | Path):
            self.drafter = draft
        try:
            if tracer_provider is None:
                self._traces = self._own_traces = provider_from_environment("foredraft-edge")
            if isinstance(tokenizer, Tokenizer):
                self._tokenizer = tokenizer
            elif tokenizer is not None:
                self._tokenizer = open_model(tokenizer, offline=offline).tokenizer
            if transport is not None or address is not None:
                self.link = self._connect(address, transport, device)
                try:
                    self.link.greet(connect_timeout_s)
                except LinkLost:
                    if require_server:
                        raise
            # A name of the catalogue means the same everywhere; a path or a name of the hub, only where it was typed.
            name = self.welcome.model.lower() if self.welcome else ""
            target = name if name in CATALOGUE else None
            if isinstance(draft, str | Path):
                self._load(draft, target, offline, threads)
            if self._tokenizer is None and target is not None:
                self._tokenizer = open_model(target, offline=offline).tokenizer
            if self.link is not None:
                self.link.identify(self._fingerprint)
            if self.welcome is not None:
                if self._tokenizer is None:
                    raise UsageError(
                        "the server's tokenizer is needed here: name its model with --tokenizer MODEL (tokenizer=… of Client)."
                    )
                self._check(self.welcome)
            self._planners = Planners(
                self.link, drafts=self.drafter is not None, experience=self._experience(address, draft)
            )
        except BaseException:
            self.close()
            raise

    def _load(self, draft: str | Path, target: str | None, offline: bool, threads: int) -> None:
        from .drafters import load_drafter  # what backends need is imported only when one is asked for

        self.drafter, own = load_drafter(draft, self._tokenizer, target=target, offline=offline, threads=threads)
        self._tokenizer = self._tokenizer or own

    def _experience(self, address: str | None, draft: object) -> Experience | None:
        """What earlier processes learnt; only of drafts that have a name."""
        path, welcome = experience_path(), self.welcome
        if path is None or welcome is None or address is None or not isinstance(draft, str | Path):
            return None
        pair = f"{welcome.model} {welcome.dtype} {welcome.lossy_exit} drafted by {draft}"
        return Experience(path, address, pair)

    @property
    def welcome(self) -> Welcome | None:
        """What the server is; ``None`` without one, or while it has not answered yet."""
        return self.link.welcome if self.link is not None else None

    def _connect(self, address: str | None, transport: Transport | None, device: str) -> Link:
        if transport is None:
            from foredraft_shared.transports.zmq import ZmqTransport

            from .enrolment import secure_for

            assert address is not None
            transport = ZmqTransport(address, secure=secure_for(address))
        return Link(
            transport,
            where=address or "the server",
            fingerprint=self._fingerprint,
            device=device or probe().name,
            check=self._check,
        )

    @property
    def _fingerprint(self) -> str:
        """Of the tokenizer that this device means, as far as it is known."""
        if self.drafter is not None and self.drafter.vocabulary:
            return self.drafter.vocabulary
        return self._tokenizer.fingerprint if self._tokenizer else ""

    def _check(self, welcome: Welcome) -> None:
        """Whether texts can be written with this server, which may have answered only in the middle of one.

        Raises:
            VocabularyMismatch: its token ids mean something else.
            PromptTooLong: the text that is being written does not fit its model.
        """
        check_tokens(welcome, self.drafter, self._tokenizer)
        if self._asked is not None:
            check_room(welcome, *self._asked)

    # --- what it offers

    @property
    def tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            raise UsageError("no tokenizer: name a draft model, or pass tokenizer=….")
        return self._tokenizer

    def encode(self, prompt: Prompt) -> tuple[TokenId, ...]:
        """Token ids of a prompt; a string becomes a user's message in the model's chat template.

        Raises:
            UsageError: it is empty.
        """
        messages, tokens = messages_or_tokens(prompt)
        return self.tokenizer.encode(self.tokenizer.chat(messages)) if messages else tokens

    def stream(
        self,
        prompt: Prompt,
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        seed: int = 0,
        mode: RequestMode = "auto",
        draft_length: int | None = None,
        options: LoopOptions | None = None,
        stop_tokens: Sequence[TokenId] | None = None,
        planner: Planner | None = None,
        observe: Callable[[RoundRecord], None] | None = None,
        epoch_ns: int | None = None,
        on_disconnect: OnDisconnect | None = None,
        deadline_ms: float | None = None,
        save: Path | str | None = None,
        lossy: bool = False,
    ) -> TokenStream:
        """Write an answer, token by token.

        Args:
            prompt: see :data:`Prompt`.
            max_tokens: the answer is at most this long.
            temperature, top_k, top_p, min_p, seed: see :class:`~foredraft_shared.messages.SamplingParams`.
            mode: see :data:`RequestMode`.
            draft_length: tokens a draft; by default the planner adapts it.
            options: what the loop may do.
            stop_tokens: by default the model's own.
            planner: in place of the one that ``mode`` and ``draft_length`` imply.
            observe: called with the record of each round.
            epoch_ns: the instant of ``time.perf_counter_ns`` from which records count; by default now.
            on_disconnect: when the server is gone: ``wait`` for it (the default), go on alone on the ``edge``, with
                provisional tokens that are verified when it is back, or ``fail`` at once.
            deadline_ms: milliseconds from now at which the text ends, however far it is (finish ``deadline``). See
                :meth:`TokenStream.take` for a deadline of each step.
            save: a new file to keep the text in, so that :meth:`resume` can take it up after this process has ended.
            lossy: let a server that was started so (``foredraft serve --lossy-exit``) take an early exit as final. The tokens
                are not the target's own, and their origin is ``exit``.

        Raises:
            UsageError, PromptTooLong, InvalidSampling: at once; the first also if ``lossy`` and the server do not agree.
            LinkLost, ServerRefused, DeadlineMissed, ModelChanged: while iterating.
        """
        self._check_open()
        deadline_ns = _deadline_ns(deadline_ms)
        max_tokens = length(max_tokens)
        params = sampling(temperature, top_k, top_p, min_p, seed)
        tokens = self.encode(prompt)
        if self.welcome is not None:
            check_room(self.welcome, len(tokens), max_tokens)
        if stop_tokens is None:
            stop_tokens = tuple(self.tokenizer.stop_tokens) if self._tokenizer else ()
        stop_tokens = stop_ids(stop_tokens)
        assert self._planners is not None
        if planner is None:
            planner = self._planners.choose(mode, draft_length, options or LoopOptions())
        if mode == "edge":
            assert self.drafter is not None
            if save is not None or deadline_ns is not None:
                raise UsageError("mode edge takes no deadline and saves nothing; use on_disconnect='edge' instead.")
            if lossy:
                raise UsageError("mode edge asks no server for an exit; leave lossy out.")
            alone = write_alone(self.drafter, tokens, params, max_tokens, stop_tokens)
            return TokenStream(alone, tokens, self._tokenizer, planner.measured, self._writing)
        welcome = self.welcome
        if save is not None and welcome is None:
            raise UsageError(
                "a text is saved with the name of its model, and no server has told it yet; save later texts."
            )
        text = SavedText(
            secrets.token_bytes(16),
            tokens,
            params,
            max_tokens,
            tuple(stop_tokens),
            *((welcome.model, welcome.fingerprint, welcome.dtype) if welcome is not None else ("", "", "")),
            lossy_exit=agreed_exit(welcome, lossy),
        )
        save = Path(save) if save is not None else None
        if save is not None:
            check_new(save)
        return self._write(text, planner, mode, options, on_disconnect, deadline_ns, save, observe, epoch_ns)

    def resume(
        self,
        saved: Path | str,
        *,
        mode: RequestMode = "auto",
        draft_length: int | None = None,
        options: LoopOptions | None = None,
        planner: Planner | None = None,
        observe: Callable[[RoundRecord], None] | None = None,
        epoch_ns: int | None = None,
        on_disconnect: OnDisconnect | None = None,
        deadline_ms: float | None = None,
    ) -> TokenStream:
        """Take up a text that was saved (``stream(save=…)``), in this process or after its end; takes what that takes.

        The stream's ``restored`` and ``restored_text`` are what had been written; its events begin behind them.

        Raises:
            UsageError: the file is not a saved text, or another process is writing it.
            ModelChanged: the server runs another model than the one that began the text.
        """
        self._check_open()
        deadline_ns = _deadline_ns(deadline_ms)
        if mode == "edge":
            raise UsageError("a saved text is the target's: take it up with mode auto, speculate or cloud.")
        saved = Path(saved)
        text = load_text(saved)
        assert self._planners is not None
        if planner is None:
            planner = self._planners.choose(mode, draft_length, options or LoopOptions())
        welcome = self.welcome
        if welcome is None:
            raise UsageError("a saved text needs a server that answers; start it, or give its address.")
        check_model(welcome, text, saved)
        if text.finish:
            nothing: Generator[Commit, None, None] = (_ for _ in ())
            return TokenStream(
                nothing,
                text.prompt,
                self._tokenizer,
                planner.measured,
                self._writing,
                tuple(text.tokens),
                text.finish,
            )
        SessionFile(saved, text, begin=False).close()  # nobody else writes it
        return self._write(text, planner, mode, options, on_disconnect, deadline_ns, saved, observe, epoch_ns, True)

    def _write(
        self,
        text: SavedText,
        planner: Planner,
        mode: RequestMode,
        options: LoopOptions | None,
        on_disconnect: OnDisconnect | None,
        deadline_ns: int | None,
        save: Path | None,
        observe: Callable[[RoundRecord], None] | None,
        epoch_ns: int | None,
        taken_up: bool = False,
    ) -> TokenStream:
        """The stream of a text that begins, or is taken up again."""
        assert self.link is not None
        drafter = self.drafter if mode != "cloud" or on_disconnect == "edge" else None
        options = options or LoopOptions()
        if on_disconnect is not None:
            options = replace(options, on_disconnect=on_disconnect)
        if options.on_disconnect not in get_args(OnDisconnect):
            raise UsageError(f"on_disconnect is {options.on_disconnect!r}; choose wait, edge or fail.")
        if options.on_disconnect == "edge" and drafter is None:
            raise UsageError(
                "on_disconnect='edge' needs a draft model to go on with; name one, or choose wait or fail."
            )
        ledger = ledger_of(text)
        spans = None
        if self._traces is not None:
            from .spans import TextSpans  # nobody else needs it

            epoch_ns = time.perf_counter_ns() if epoch_ns is None else epoch_ns
            about = {"foredraft.session": text.session.hex()[:8], "foredraft.model": text.model, "foredraft.mode": mode}
            spans = TextSpans(self._traces, epoch_ns, about)
            observe = spans.observing(observe)
        loop = RoundLoop(
            self.link,
            ledger,
            drafter,
            planner,
            text.sampling,
            max_tokens=text.max_tokens,
            stop_tokens=text.stop_tokens,
            options=options,
            observe=observe,
            epoch_ns=epoch_ns,
            deadline_ns=deadline_ns,
            traceparent=spans.traceparent if spans else "",
            lossy_exit=text.lossy_exit,
        )

        @contextmanager
        def hold() -> Iterator[None]:
            with self._writing():
                self._asked = len(text.prompt), text.max_tokens
                journal = None
                try:
                    if save is not None:  # only now: a text that was refused, or never begun, leaves nothing behind
                        journal = SessionFile(save, text, begin=not taken_up)
                        loop.keep(journal)
                    if taken_up:
                        assert journal is not None
                        take_up(ledger, journal, self._epoch)
                    with spans or nullcontext():
                        yield
                finally:
                    self._asked = None
                    if journal is not None:
                        self._epoch = max(self._epoch, ledger.epoch)
                        journal.close()

        return TokenStream(loop, text.prompt, self._tokenizer, planner.measured, hold, tuple(text.tokens))

    def generate(self, prompt: Prompt, **options: Any) -> Generation:
        """Write a whole answer; takes what :meth:`stream` takes."""
        return self.stream(prompt, **options).whole()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the client for one text.

        Raises:
            UsageError: this very thread is in the middle of another text: waiting for it would be for ever.
        """
        if self._writing_thread == threading.get_ident():
            raise UsageError(
                "this client is in the middle of another text in the same thread; finish or close that stream first, "
                "or use a client for each."
            )
        with self._lock:
            self._check_open()
            self._writing_thread = threading.get_ident()
            try:
                yield
            finally:
                self._writing_thread = None

    def close(self) -> None:
        """Leave the server and free the drafter; may be called twice."""
        if self._closed:
            return
        self._closed = True
        with ExitStack() as last_first:  # each, whatever becomes of the others
            if self._own_traces is not None:
                last_first.callback(self._own_traces.shutdown)
            if self.drafter is not None:
                last_first.callback(self.drafter.close)
            if self.link is not None:
                last_first.callback(self.link.close)
            if self._planners is not None:
                last_first.callback(self._planners.remember)

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("this client is closed; make another one.")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _deadline_ns(deadline_ms: float | None) -> int | None:
    """The instant of ``time.perf_counter_ns`` so many milliseconds from now."""
    if deadline_ms is None:
        return None
    return deadline_in(deadline_ms, time.perf_counter_ns())
