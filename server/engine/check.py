"""Whether the engine still works: what health says."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from electra_qa.engines import Engine
from electra_qa.tokenization import Tokenizer

from ..threads import on_own_thread
from .warm_up import warm_up

log = logging.getLogger(__name__)

# How often an engine that fails on everything is tried again, in seconds.
INTERVAL_S = 5.0


class EngineCheck:
    """Tells a batch that failed for what was in it from an engine that fails on everything.

    After a failed batch the engine gets one of our own, which any engine that works can run. Where
    that fails too, `works` is False until one passes.

    on_change: called whenever `works` has changed.
    """

    def __init__(
        self, engine: Engine, tokenizer: Tokenizer, on_change: Callable[[], Awaitable[None]]
    ) -> None:
        self.works = True
        self._engine = engine
        self._tokenizer = tokenizer
        self._on_change = on_change
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def start(self) -> None:
        """A batch failed. Does nothing where a check is under way."""
        if not self._closing.is_set() and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._check())

    async def _check(self) -> None:
        while not await on_own_thread(self._passes):
            if self.works:
                log.error("the engine fails on everything: restart the process")
                await self._changed(works=False)
            try:
                await asyncio.wait_for(self._closing.wait(), INTERVAL_S)
            except TimeoutError:
                continue
            return
        if not self.works:
            log.warning("the engine works again")
            await self._changed(works=True)

    async def _changed(self, *, works: bool) -> None:
        self.works = works
        await self._on_change()

    def _passes(self) -> bool:
        try:
            warm_up(self._engine, self._tokenizer, [])
        except Exception:
            log.debug("the engine failed on a batch of the server's own", exc_info=True)
            return False
        return True

    async def close(self) -> None:
        """Wait for the check that is under way. The engine may be closed afterwards."""
        self._closing.set()
        if self._task is not None:
            await self._task
