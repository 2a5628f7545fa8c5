"""A process that is started, and started again where it ends by itself."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import socket
import time
from collections.abc import Callable
from typing import Any

from ..errors import StartError
from .collected import Family, lasting, merged
from .control import Control

log = logging.getLogger(__name__)

# Not fork: gRPC and the engines' libraries have threads.
_SPAWN = multiprocessing.get_context("spawn")

# Before one that ended is started again, in seconds: twice as long each time, until one has lived
# for the longest.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0


class Child:
    """main: called in the process with an end of a pair of sockets, and then with `arguments`.

    up: what it told when it was up, the first time.
    """

    def __init__(
        self,
        name: str,
        main: Callable[..., None],
        arguments: tuple[Any, ...],
        on_change: Callable[[], None],
        on_restart: Callable[[], None],
    ) -> None:
        self.name = name
        self.up: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.ready = False
        self._main = main
        self._arguments = arguments
        self._on_change = on_change
        self._on_restart = on_restart
        self._stopping = asyncio.Event()
        self._failure = ""
        self._process: Any = None
        self._control: Control | None = None
        # Of those that have ended, and of the one that runs as it was last.
        self._counted: list[Family] = []
        self._seen: list[Family] = []

    async def keep_running(self) -> None:
        """Until it is to stop. Raises StartError where the first one ends before it is up."""
        pause = FIRST_PAUSE_S
        while not self._stopping.is_set():
            began = time.monotonic()
            code = await self._run()
            if self._stopping.is_set():
                return
            if not self.up.done():
                raise StartError(self._failure or f"{self.name} ended with {code} at its start")
            why = f": {self._failure}" if self._failure else ""
            self._on_restart()
            log.error("%s ended with %s%s; it is started again", self.name, code, why)
            if time.monotonic() - began > LONGEST_PAUSE_S:
                pause = FIRST_PAUSE_S
            try:
                await asyncio.wait_for(self._stopping.wait(), pause)
            except TimeoutError:
                pause = min(2 * pause, LONGEST_PAUSE_S)

    async def _run(self) -> int:
        """Its exit code, once it has one."""
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        self._failure = ""
        self._control = Control({"up": self._is_up, "failed": self._failed, "ready": self._tell})
        await self._control.open(ours)
        self._process = _SPAWN.Process(
            target=self._main, args=(theirs, *self._arguments), name=self.name, daemon=False
        )
        self._process.start()
        log.info("%s is process %d", self.name, self._process.pid)
        theirs.close()
        ended = asyncio.Event()
        sentinel = self._process.sentinel
        loop.add_reader(sentinel, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(sentinel)
        self._process.join()
        await asyncio.sleep(0)  # what it said at its end
        self._control.close()
        self._counted = merged([self._counted, lasting(self._seen)])
        self._seen = []
        self._tell(False)
        return int(self._process.exitcode)

    def _is_up(self, told: Any) -> None:
        if not self.up.done():
            self.up.set_result(told)
            self._on_change()
        if self._stopping.is_set():
            self._ask_to_stop()

    def _failed(self, why: str) -> None:
        self._failure = why

    def _tell(self, ready: bool) -> None:
        self.ready = ready
        self._on_change()

    async def ask(self, what: str) -> Any:
        """Raises ReloadError."""
        assert self._control is not None
        return await self._control.ask(what)

    async def look(self) -> None:
        """Have its metrics."""
        self._seen = await self.ask("metrics")

    def metrics(self) -> list[Family]:
        """As they were at the last look, with those of the processes before it."""
        return merged([self._counted, self._seen])

    def stop(self) -> None:
        """In order."""
        self._stopping.set()
        self._ask_to_stop()

    def _ask_to_stop(self) -> None:
        if self._control is not None:
            self._control.tell("stop")

    def kill(self) -> None:
        self._stopping.set()
        if self._process is not None and self._process.is_alive():
            self._process.kill()
