"""The SDK for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, TypeVar

from typing_extensions import Self

from foredraft_shared.errors import UsageError

from .client import Client, Prompt
from .stream import Generation, TokenEvent

__all__ = ["AsyncClient"]

_Result = TypeVar("_Result")


class AsyncClient:
    """The same for asyncio: every call runs on one thread of the client's own. Takes what :class:`Client` takes.

    A text waits until the one before it is complete or its iteration was left.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._make = lambda: Client(*arguments, **options)
        self._client: Client | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="foredraft-edge")
        self._turn = asyncio.Lock()
        self._writer: asyncio.Task[Any] | None = None

    async def __aenter__(self) -> Self:
        self._client = await self._run(self._make)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            await self._run(self._client.close)
        self._thread.shutdown(wait=False)

    async def stream(self, prompt: Prompt, **options: Any) -> AsyncIterator[TokenEvent]:
        """As :meth:`Client.stream`. Leaving the iteration early stops the writing."""
        client = self._connected()
        async with self._writing():
            stream = await self._run(lambda: client.stream(prompt, **options))
            stop = stream.stopper()
            try:
                while (event := await self._run(lambda: next(stream, None))) is not None:
                    yield event
            finally:
                stop()
                await asyncio.shield(self._run(stream.close))

    async def generate(self, prompt: Prompt, **options: Any) -> Generation:
        """As :meth:`Client.generate`. Cancelled, it stops the writing."""
        client = self._connected()
        async with self._writing():
            stream = await self._run(lambda: client.stream(prompt, **options))
            stop = stream.stopper()
            try:
                return await self._run(stream.whole)
            finally:
                stop()
                await asyncio.shield(self._run(stream.close))

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[None]:
        """Hold the client for one text."""
        # A stream that this task has left is closed in a moment; one that it is still reading would never be.
        patience_s = 5.0 if self._writer is asyncio.current_task() else None
        try:
            await asyncio.wait_for(self._turn.acquire(), patience_s)
        except asyncio.TimeoutError:
            raise UsageError(
                "this client is in the middle of another text; finish it first, or use a client for each."
            ) from None
        self._writer = asyncio.current_task()
        try:
            yield
        finally:
            self._writer = None
            self._turn.release()

    def _connected(self) -> Client:
        if self._client is None:
            raise UsageError("use AsyncClient in an `async with` statement.")
        return self._client

    async def _run(self, call: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)
