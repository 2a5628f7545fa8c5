"""What computes the windows of a model: an engine in this process, or one behind a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from electra_qa.engines import Engine
from electra_qa.tokenization import Tokenizer

from ..observe.metrics import Metrics
from ..settings import ServerSettings
from ..threads import on_own_thread
from .batcher import Batcher, Outcome, WindowRequest
from .check import EngineCheck


class Backend(Protocol):
    """What a model needs of it."""

    @property
    def device(self) -> str:
        """What it runs on and with, for people."""

    @property
    def works(self) -> bool:
        """False while it fails on everything, or is not there."""

    def check_room(self) -> None:
        """Raises OverloadedError while the queue is full."""

    def submit(
        self, requests: Sequence[WindowRequest], deadline: float | None = None
    ) -> asyncio.Future[list[Outcome]]:
        """See `Batcher.submit`."""

    async def close(self) -> None:
        """Nothing may be submitted any more."""


class EngineBackend:
    """An engine in this process, with its batcher. Make one inside a running event loop.

    on_change: called whenever `works` has changed.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        settings: ServerSettings,
        metrics: Metrics,
        on_change: Callable[[], Awaitable[None]],
    ) -> None:
        self._engine = engine
        self._check = EngineCheck(engine, tokenizer, on_change)
        self._batcher = Batcher(
            engine,
            pad_id=tokenizer.pad_id,
            max_queue_tokens=settings.max_queue_tokens,
            metrics=metrics,
            on_failure=self._check.start,
        )
        self.check_room = self._batcher.check_room
        self.submit = self._batcher.submit

    @property
    def device(self) -> str:
        return self._engine.device

    @property
    def works(self) -> bool:
        return self._check.works

    @property
    def queued_tokens(self) -> int:
        return self._batcher.queued_tokens

    @property
    def queue_s(self) -> float:
        """How long what waits will take, in seconds, at the present rate."""
        return self._batcher.queue_s

    async def close(self) -> None:
        await self._check.close()
        # On a thread: the batch of a call that was cancelled may still be under way.
        await on_own_thread(self._close)

    def _close(self) -> None:
        self._batcher.close()
        self._engine.close()
