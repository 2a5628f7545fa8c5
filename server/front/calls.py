"""The calls of a server that are open, counted over all of its services."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from ..errors import SHUTTING_DOWN, OverloadedError, RequestError, ShuttingDownError
from ..observe import logs
from ..observe.metrics import Metrics

END = object()

# When to try again with a request that there was no room for, in seconds.
INFLIGHT_DELAY_S = 0.5
# When no late call has come for so long, in seconds, none is on its way: callers take their time on
# a machine that is loaded. And how long it may take.
QUIET_S = 0.25
UNQUIET_S = 2.0


class Calls:
    """The calls of a server that are open, over all of its services."""

    def __init__(self, metrics: Metrics, max_inflight_bytes: int) -> None:
        self._metrics = metrics
        self._draining = asyncio.Event()
        self._open_calls = 0
        self._idle = asyncio.Event()
        self._max_inflight_bytes = max_inflight_bytes
        self._inflight_bytes = 0
        self._late_at = 0.0
        self._leaving = False
        self._left = asyncio.Event()
        metrics.open_calls.set_function(lambda: self._open_calls)
        metrics.inflight_bytes.set_function(lambda: self._inflight_bytes)
        metrics.inflight_limit_bytes.set(max_inflight_bytes)

    @property
    def draining(self) -> bool:
        return self._draining.is_set()

    async def drain(self, timeout_s: float) -> bool:
        """Take nothing new and wait for what was accepted. False if it took over `timeout_s`."""
        self._draining.set()
        if not self._open_calls:
            return True
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def quiet(self) -> None:
        """From now on late calls wait for `tell_late`; returns when no more of them come.

        What is on its way when a gRPC server stops ends with CANCELLED, which clients don't try
        again. A caller who waits sends nothing more, so after a moment nothing is on its way.
        """
        self._leaving = True
        give_up = time.monotonic() + UNQUIET_S
        self._late_at = time.monotonic()
        # For a time to pass, not for an event.
        while (left := min(self._late_at + QUIET_S, give_up) - time.monotonic()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(left)

    def tell_late(self) -> None:
        """Refuse the late calls that wait."""
        self._left.set()

    async def late(self) -> None:
        """A call came while the server drains: returns when it is to be refused."""
        self._late_at = time.monotonic()
        if self._leaving:
            await self._left.wait()

    @contextmanager
    def counted(self, method: str) -> Iterator[None]:
        """Writes down how a call ended and how long it took."""
        started = time.perf_counter()
        code = "OK"
        logs.request_began()
        try:
            yield
        except RequestError as error:
            code = error.code.name
            raise
        except (asyncio.CancelledError, GeneratorExit):
            code = "CANCELLED"
            raise
        except Exception:
            code = "INTERNAL"
            raise
        finally:
            seconds = time.perf_counter() - started
            self._metrics.call_ended(method, code, seconds)
            logs.request_ended(method, code, seconds)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Counts a call as open. Raises ShuttingDownError once the server drains."""
        if self._draining.is_set():
            raise ShuttingDownError(SHUTTING_DOWN)
        self._open_calls += 1
        try:
            yield
        finally:
            self._open_calls -= 1
            if self._draining.is_set() and not self._open_calls:
                self._idle.set()

    @contextmanager
    def holding(self, raw: bytes) -> Iterator[None]:
        """Counts the bytes of a request as under way. Raises OverloadedError where there are too
        many."""
        size = len(raw)
        if self._inflight_bytes + size > self._max_inflight_bytes:
            self._metrics.rejections.labels("bytes").inc()
            raise OverloadedError(
                f"the requests under way hold {self._inflight_bytes} bytes, this one {size}, "
                f"max_inflight_bytes is {self._max_inflight_bytes}; try again later",
                retry_delay_s=INFLIGHT_DELAY_S,
            )
        self._inflight_bytes += size
        try:
            yield
        finally:
            self._inflight_bytes -= size

    async def next_message(self, raws: AsyncIterator[bytes]) -> bytes | object | None:
        """The next message of a stream; END at its end, None when the server is to stop."""
        following = asyncio.ensure_future(anext(raws, END))
        draining = asyncio.create_task(self._draining.wait())
        try:
            await asyncio.wait((following, draining), return_when=asyncio.FIRST_COMPLETED)
            return following.result() if following.done() else None
        finally:
            following.cancel()
            draining.cancel()
