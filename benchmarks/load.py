"""Send requests, on a schedule or as many at a time as wished, and write down when and how each
ended. What is sent, and where to, is the caller's `Send`."""

from __future__ import annotations

import asyncio
import collections
import itertools
import selectors
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Result = TypeVar("Result")

# Sends request number i and returns what became of it: OK, or the name of a gRPC status. Does not
# raise for a call that failed.
Send = Callable[[int], Awaitable[str]]

OK = "OK"


@dataclass(frozen=True, slots=True)
class Recording:
    """What became of every request, in the order of their numbers.

    scheduled: when a request was due, in seconds from the start, float64 [requests].
    sent: when it was sent. Later than `scheduled` where the generator itself was late.
    finished: when its answer, or its failure, had come.
    statuses: what `Send` returned, [requests].
    questions_per_request: how many questions each carries.
    failures: {request: statuses of the questions that failed}, of requests that are OK as a whole.
    """

    scheduled: Floats
    sent: Floats
    finished: Floats
    statuses: list[str]
    questions_per_request: int = 1
    failures: Mapping[int, Sequence[str]] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """From the start until the last request had finished."""
        return float(self.finished.max(initial=0.0))

    @property
    def latencies(self) -> Floats:
        """From when a request was due until it had finished, in seconds, [requests].

        Not from when it was sent: a server that stalls holds up what should have been sent
        meanwhile, and would hide that (coordinated omission).
        """
        return self.finished - self.scheduled

    @property
    def send_lags(self) -> Floats:
        """How late each request was sent, in seconds, [requests]."""
        return self.sent - self.scheduled

    @property
    def ok(self) -> npt.NDArray[np.bool_]:
        """Which requests were answered, [requests]."""
        return np.array([status == OK for status in self.statuses], dtype=np.bool_)

    @property
    def answered(self) -> npt.NDArray[np.int64]:
        """How many questions of each request were answered, [requests]."""
        answered = self.ok * np.int64(self.questions_per_request)
        for request, statuses in self.failures.items():
            answered[request] -= len(statuses)
        return answered

    @property
    def question_statuses(self) -> dict[str, int]:
        """How many questions ended with each status, OK first."""
        counts: collections.Counter[str] = collections.Counter()
        for status in self.statuses:
            counts[status] += self.questions_per_request
        for statuses in self.failures.values():
            counts[OK] -= len(statuses)
            counts.update(statuses)
        return {OK: counts.pop(OK, 0)} | dict(sorted(counts.items()))


def poisson(rate: float, duration_s: float, rng: np.random.Generator) -> Floats:
    """When the requests of a Poisson process are due: seconds in [0, duration_s), ascending.

    Given their number, which is Poisson, the arrivals of such a process are uniform over the
    interval and independent of each other (Kingman, Poisson Processes, 1993, 2.1).
    """
    return np.sort(rng.uniform(0.0, duration_s, rng.poisson(rate * duration_s)))


async def open_loop(
    send: Send, arrivals: npt.ArrayLike, *, questions_per_request: int = 1
) -> Recording:
    """Send each request when it is due, whatever became of those before; wait for all to end.

    arrivals: seconds from the start, ascending, float64 [requests].
    """
    scheduled = np.asarray(arrivals, dtype=np.float64)
    sent, finished = np.zeros_like(scheduled), np.zeros_like(scheduled)
    statuses = [""] * len(scheduled)
    clock = asyncio.get_running_loop().time
    start = clock()

    async def one(request: int) -> None:
        sent[request] = clock() - start
        statuses[request] = await send(request)
        finished[request] = clock() - start

    async with asyncio.TaskGroup() as tasks:
        for request, due in enumerate(scheduled.tolist()):
            # Also where it is late already: answers must get their turn.
            await asyncio.sleep(max(0.0, start + due - clock()))
            tasks.create_task(one(request))
    return Recording(scheduled, sent, finished, statuses, questions_per_request)


async def closed_loop(
    send: Send,
    concurrency: int,
    *,
    duration_s: float | None = None,
    requests: int | None = None,
    questions_per_request: int = 1,
) -> Recording:
    """Keep `concurrency` requests under way, each sent when one before it has ended.

    Stops sending after `duration_s` seconds or `requests` requests, whichever is first, and waits
    for those under way. A request is due when it is sent: a slow server is asked less.
    """
    if duration_s is None and requests is None:
        raise ValueError("set duration_s, or requests, or both")
    sent: list[float] = []
    finished: list[float] = []
    statuses: list[str] = []
    numbers = iter(range(requests)) if requests is not None else itertools.count()
    clock = asyncio.get_running_loop().time
    start = clock()

    async def caller() -> None:
        while duration_s is None or clock() - start < duration_s:
            request = next(numbers, None)
            if request is None:
                return
            sent.append(clock() - start)
            finished.append(0.0)
            statuses.append("")
            statuses[request] = await send(request)
            finished[request] = clock() - start

    async with asyncio.TaskGroup() as tasks:
        for _ in range(concurrency):
            tasks.create_task(caller())
    due = np.array(sent, dtype=np.float64)
    return Recording(
        due, due, np.array(finished, dtype=np.float64), statuses, questions_per_request
    )


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """`asyncio.run` on a loop whose timers are exact to microseconds.

    asyncio's usual one waits in epoll, to which Python rounds times up to whole milliseconds: every
    request would be sent half a millisecond late on average. select takes microseconds.
    """
    with asyncio.Runner(
        loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())
    ) as runner:
        return runner.run(main)
