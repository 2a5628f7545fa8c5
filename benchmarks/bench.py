"""The scenarios: what MLPerf inference calls Server, Offline, SingleStream and MultiStream."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace

import grpc
import numpy as np
from rich.progress import Progress

from electra_qa.credentials import Metadata

from .calls import Calls, open_calls
from .load import OK, Recording, Send, closed_loop, open_loop, poisson
from .measurement import Measurement, measure
from .server_figures import ServerFigures, figures_between, read_counters
from .sweep import highest_rate
from .workload import Mode

# How often the terminal is written to, in seconds: each time costs the sending a millisecond.
_REFRESH_S = 0.5
# How many requests are under way where the first rate of a sweep is looked for, and for how long at
# least, in seconds.
_PROBE_CONCURRENCY = 16
_PROBE_S = 1.0


# Sends for so many seconds.
_Run = Callable[[Send, float], Awaitable[Recording]]


class NothingAnsweredError(Exception):
    """The server answered no question, so that there is nothing to measure."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How to ask, and for how long.

    requests: serialized for the mode.
    deadline_s: of a call.
    duration_s, warm_up_s: how long requests are sent, and how long before without counting.
    slo_ms: the latency that an answer must not pass.
    metrics_url: of the server's Prometheus endpoint.
    metadata: sent with every call.
    """

    mode: Mode
    requests: Sequence[bytes]
    questions_per_request: int
    deadline_s: float
    duration_s: float
    warm_up_s: float
    slo_ms: float
    seed: int
    metrics_url: str | None
    metadata: Metadata | None = None


class Bench:
    """Measures one server over one channel."""

    def __init__(self, channel: grpc.aio.Channel, settings: Settings, progress: Progress) -> None:
        self._channel = channel
        self._settings = settings
        self._progress = progress
        self._runs = 0

    async def server(self, qps: float) -> Measurement:
        """Requests come as a Poisson process, whatever became of those before."""
        # A number for each run of a sweep: an unlucky schedule must not come again and again.
        rng = np.random.default_rng([self._settings.seed, self._runs])
        self._runs += 1
        label = f"{qps:,.4g} requests a second"

        async def run(send: Send, seconds: float) -> Recording:
            return await open_loop(send, poisson(qps, seconds, rng), questions_per_request=self._q)

        seconds = self._settings.duration_s
        return await self._measure(label, run, run, seconds=seconds, rate_asked=qps)

    async def closed_loop(self, concurrency: int) -> Measurement:
        """A number of callers who each ask again when they have their answer."""
        label = f"{concurrency} at a time"

        async def run(send: Send, seconds: float) -> Recording:
            return await closed_loop(
                send, concurrency, duration_s=seconds, questions_per_request=self._q
            )

        return await self._measure(label, run, run, seconds=self._settings.duration_s)

    async def offline(self, concurrency: int) -> Measurement:
        """Every question once, as fast as they are answered."""

        async def warm_up(send: Send, seconds: float) -> Recording:
            return await closed_loop(send, concurrency, duration_s=seconds)

        async def run(send: Send, _: float) -> Recording:
            return await closed_loop(
                send,
                concurrency,
                requests=len(self._settings.requests),
                questions_per_request=self._q,
            )

        return await self._measure("offline", warm_up, run, seconds=None)

    async def sweep(self, first: float | None) -> tuple[list[Measurement], float | None]:
        """Every rate that was measured, and the highest that the server bears.

        first: the rate to begin with; by default half of what it answers in a closed loop. Raises
        NothingAnsweredError if that is nothing.
        """
        steps: list[Measurement] = []

        async def bears(rate: float) -> bool:
            steps.append(await self.server(rate))
            return steps[-1].within_slo

        rate = await self._probe() / 2 if first is None else first
        return steps, await highest_rate(bears, rate)

    @property
    def _q(self) -> int:
        return self._settings.questions_per_request

    async def _probe(self) -> float:
        seconds = max(_PROBE_S, self._settings.warm_up_s)
        async with self._calls(self._settings.requests, "first rate", seconds) as calls:
            recording = await closed_loop(calls.send, _PROBE_CONCURRENCY, duration_s=seconds)
        if not (answered := recording.statuses.count(OK)):
            raise NothingAnsweredError(
                f"the server answered nothing: {', '.join(sorted(set(recording.statuses)))}"
            )
        return answered / recording.seconds

    async def _measure(
        self,
        label: str,
        warm_up: _Run,
        run: _Run,
        *,
        seconds: float | None,
        rate_asked: float | None = None,
    ) -> Measurement:
        """seconds: how long `run` sends, where that is known before."""
        settings = self._settings
        if settings.warm_up_s:
            # From the other end, so that the timed part finds no more in the server's caches than
            # the questions make it.
            backwards = settings.requests[::-1]
            async with self._calls(backwards, f"{label}, warm-up", settings.warm_up_s) as calls:
                await warm_up(calls.send, settings.warm_up_s)
        before, since = await self._counters(), time.monotonic()
        # What there is will stay: let the garbage collector not look through it while it counts.
        gc.collect()
        gc.freeze()
        async with self._calls(settings.requests, label, seconds) as calls:
            recording = await run(calls.send, settings.duration_s)
        after, until = await self._counters(), time.monotonic()
        gc.unfreeze()
        figures: ServerFigures | None = None
        if before is not None and after is not None:
            figures = figures_between(before, after, until - since)
        return measure(
            replace(recording, failures=calls.failures),
            slo_ms=settings.slo_ms,
            windows=calls.windows,
            rate_asked=rate_asked,
            server=figures,
        )

    async def _counters(self) -> dict[str, float] | None:
        url = self._settings.metrics_url
        return None if url is None else await asyncio.to_thread(read_counters, url)

    @asynccontextmanager
    async def _calls(
        self, requests: Sequence[bytes], label: str, seconds: float | None
    ) -> AsyncIterator[Calls]:
        """The calls of one run, whose progress is shown."""
        settings = self._settings
        task = self._progress.add_task(label, total=seconds, finished=0)
        start = time.monotonic()

        async def show(calls: Calls) -> None:
            while True:
                self._progress.update(
                    task,
                    completed=time.monotonic() - start,
                    finished=calls.finished,
                    refresh=True,
                )
                await asyncio.sleep(_REFRESH_S)

        async with open_calls(
            settings.mode, self._channel, requests, settings.deadline_s, settings.metadata
        ) as calls:
            showing = asyncio.create_task(show(calls))
            try:
                yield calls
            finally:
                showing.cancel()
                with suppress(asyncio.CancelledError):
                    await showing
                self._progress.remove_task(task)
