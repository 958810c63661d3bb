"""Where comparisons take place: the target in the cloud's process, the draft here, and networks between them.

Cloud and device compute on cores of their own, and the network is a process of its own beside whichever of them is idle,
so that nobody's computing makes a message late.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from typing_extensions import Self

from foredraft_cloud.arithmetic import check_arithmetic
from foredraft_edge.client import Client
from foredraft_edge.drafters.base import Drafter
from foredraft_edge.drafters.loading import default_draft, load_drafter
from foredraft_shared.errors import PromptTooLong
from foredraft_shared.interrupts import interrupts_wait
from foredraft_shared.messages import TokenId
from foredraft_shared.models import Tokenizer, open_model
from foredraft_shared.transports.link_process import LinkProcess
from foredraft_shared.transports.relay import LinkSettings

from .modes import Place
from .processes import CloudProcess, Cores, choose_cores, pin, watching
from .screen import telling

__all__ = ["Connected", "Pair", "Stage", "drafts_for_itself", "encoded", "short_name"]


@dataclass(frozen=True, slots=True)
class Pair:
    """Target and draft, and how the target is run.

    Raises:
        UsageError: there is no such dtype.
    """

    target: str
    draft: str = "auto"
    dtype: str = "bfloat16"
    exits: str | None = None
    """Layers that hint, as ``foredraft serve`` takes them."""
    offline: bool = False
    heads: Path | None = None
    """Trained heads of the exits; by default those that come with the target."""

    def __post_init__(self) -> None:
        check_arithmetic(self.dtype)

    def named(self) -> Pair:
        """The same with the draft by its name, so that everybody knows what was measured.

        Where nobody says and none was trained, it is the target itself in fewer bits.
        """
        if self.draft != "auto":
            return self
        found = default_draft(self.target, offline=self.offline)
        draft = self.target if found == "ngram" else found
        return dataclasses.replace(self, draft=draft)


class Stage:
    """A cloud and a draft model, ready; a context manager.

    Args:
        pair: named (see :meth:`Pair.named`).
        cores: of the two sides; by default chosen. The calling thread is bound to the edge's.

    Raises:
        ForedraftError: a model cannot be used, or the cloud did not start; with its own reason.
    """

    def __init__(self, pair: Pair, cores: Cores | None = None) -> None:
        self.pair = pair
        self.cores = choose_cores() if cores is None else cores
        self._stack = contextlib.ExitStack()
        self._drafters: list[Drafter] = []
        pin(0, self.cores.edge)
        try:
            self.tokenizer: Tokenizer = open_model(pair.target, offline=pair.offline).tokenizer  # shows its own bar
            options = ["--dtype", pair.dtype, "--threads", "1"]
            options += ["--exits", pair.exits] if pair.exits is not None else []
            options += ["--heads", str(pair.heads)] if pair.heads is not None else []
            options += ["--offline"] if pair.offline else []
            self.cloud = self._stack.enter_context(CloudProcess(pair.target, options, self.cores.cloud))
            waiting = "loading the target in the cloud, and the draft (the first time takes longer)"
            with watching(self.cloud), telling(waiting):
                self._drafter(0)
                self.cloud.wait_until_ready()
        except BaseException:
            self.close()
            raise

    def spell(self, token: int) -> str:
        """The text of a token of the target."""
        return self.tokenizer.decode([token])

    @contextlib.contextmanager
    def connected(
        self, settings: LinkSettings, *, recording: str = "", devices: int = 1, seed: int = 0
    ) -> Iterator[Connected]:
        """So many devices, each with a draft model of its own and a connection through one emulated network.

        While inside, the end of the cloud's or of the network's process raises at once in the main thread. A device's
        planner begins anew. A ``recording`` is played in place of ``settings``.
        """
        with contextlib.ExitStack() as stack:
            with interrupts_wait():
                values: dict[str, Any] = {} if recording else {**asdict(settings), "seed": seed % 2**32}
                link = stack.enter_context(LinkProcess(self.cloud.address, recording=recording or None, **values))
                drafters = [self._drafter(index) for index in range(devices)]
            # Beside whichever side is idle when a message comes: pinned to the edge's core it would wait for the draft model.
            pin(link.pid, (*self.cores.edge, *self.cores.cloud))
            stack.enter_context(watching(self.cloud, link.pid))
            places = []
            for drafter in drafters:
                lent = cast(Drafter, _Lent(drafter))
                client = stack.enter_context(Client(link.address, lent, tokenizer=self.tokenizer, device="bench"))
                pair, cores = self.pair, self.cores.cloud
                places.append(Place(client, pair.target, pair.dtype, pair.draft, pair.offline, cores))
            yield Connected(tuple(places), link.pid)

    def close(self) -> None:
        """Stop the cloud and free the drafts; may be called twice."""
        self._stack.close()
        while self._drafters:
            self._drafters.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _drafter(self, index: int) -> Drafter:
        pair = self.pair
        while len(self._drafters) <= index:
            with interrupts_wait():  # half-imported packages do not take an interrupt well
                drafter, _ = load_drafter(pair.draft, self.tokenizer, target=pair.target, offline=pair.offline)
            self._drafters.append(drafter)
        return self._drafters[index]


@dataclass(frozen=True, slots=True)
class Connected:
    """Devices at one network."""

    places: Sequence[Place]
    link_pid: int


class _Lent:
    """A drafter that its client must not close: the next one needs it, too."""

    def __init__(self, drafter: Drafter) -> None:
        self._drafter = drafter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._drafter, name)

    def close(self) -> None:
        """Stays open; its owner closes it."""


def encoded(client: Client, prompts: Sequence[str], max_tokens: int, option: str) -> list[Sequence[TokenId]]:
    """The prompts as token ids; ``option`` is what asks for so many tokens.

    Raises:
        PromptTooLong: one and its answer are longer than the model's context; says which.
    """
    assert client.welcome is not None
    found = [client.encode(prompt) for prompt in prompts]
    for number, tokens in enumerate(found, start=1):
        if len(tokens) + max_tokens > client.welcome.context:
            raise PromptTooLong(
                f"prompt {number} has {len(tokens)} tokens and {max_tokens} more were asked for, but the model's context "
                f"is {client.welcome.context}; shorten it or lower {option}."
            )
    return list(found)


def drafts_for_itself(draft: str, target: str) -> bool:
    """Whether a draft's spec names the whole target, in whatever arithmetic: no small model of its own."""
    return draft.rpartition(":")[2] == target and not draft.startswith(("draft:", "first:"))


def short_name(draft: str) -> str:
    """A draft's spec without the folders in it."""
    kind, colon, path = draft.rpartition(":")
    return f"{kind}{colon}{Path(path).name}"
