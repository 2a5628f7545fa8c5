"""Dynamic batching of windows, across callers, by turn and length.

Work-conserving: a free engine takes what waits, at once; windows gather only while it is busy. The
window whose turn it is sets the length of the next batch. The waiting windows nearest to it in
length, none longer and none much shorter, fill the batch up to a token budget.

Turns are counted in work, not in time. A window's turn is the tokens dispatched when its call came,
and `SPREAD` times the tokens of its own call before it. So a call of a single window is served in
the order of arrival, while a long document's windows are spread over batches: whoever comes while
it is served passes its later windows, until it has had its 1/SPREAD of the engine. As the clock
moves with the work, every turn comes: a call that waits behind n tokens and has m of its own is
done before n + SPREAD × m tokens more are dispatched.

Windows that are the same to the engine (token ids, bounds, longest answer) and wait at the same
time are computed once, when the earliest turn of them comes, whoever asked. Each waits by itself:
one that is cancelled or expires takes nothing from the others. For `max_queue_tokens` each counts,
since each takes memory; for what the engine has to do, and so for deadlines, they count once.

What waits is in `window_queue`, what became of a call in `calls`, what an engine is told of a
window in `rows`. All of it runs on the event loop's thread, so that nothing is locked; only the
engine, and what fills its batches, runs on threads of its own.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from electra_qa.engines import Engine
from electra_qa.spans import DecodedWindows, rows

from ..errors import DeadlineError, EngineFailedError, OverloadedError
from ..observe.metrics import Metrics
from .calls import Call, Outcome, WindowResult
from .rate import Rate, Work
from .rows import RowRequest, WindowRequest, pad_rows, row_tokens
from .window_queue import SPREAD, Job, WindowQueue

__all__ = ["SPREAD", "Batcher", "Outcome", "RowRequest", "WindowRequest", "WindowResult"]

log = logging.getLogger(__name__)

# A call is refused where it would take longer than this share of the time it has: the estimate is
# one of the mean, and what is served late is lost as well.
DEADLINE_SHARE = 0.7


@dataclass(frozen=True, slots=True)
class _Batch:
    length: int
    jobs: list[Job]
    work: Work
    dispatched_at: float


class Batcher:
    """Make one inside a running event loop, and `close` it there."""

    def __init__(
        self,
        engine: Engine,
        *,
        pad_id: int,
        max_queue_tokens: int,
        metrics: Metrics,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        """on_failure: called, on the event loop, when the engine failed on a batch."""
        self._engine = engine
        self._on_failure = on_failure
        self._pad_id = pad_id
        self._max_queue_tokens = max_queue_tokens
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._work: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run_batches, name=f"engine-{n}", daemon=True)
            for n in range(engine.slots)
        ]
        for thread in self._threads:
            thread.start()
        self._free_slots = engine.slots
        self._rate = Rate()
        self._last_finish = 0.0
        self._queue = WindowQueue(engine.buckets)
        # Those that are not done.
        self._calls: dict[asyncio.Future[list[Outcome]], Call] = {}
        self._running = Work()
        self._dispatched_tokens = 0
        self._dispatch_is_due = False
        metrics.queues.append(self._waiting_tokens)
        metrics.queue_limit_tokens.set(max_queue_tokens)

    @property
    def queued_tokens(self) -> int:
        """Tokens of the windows that wait for the engine; the same ones count each."""
        return self._queue.tokens

    @property
    def queue_s(self) -> float:
        """How long what waits will take, in seconds, at the present rate."""
        return self._rate.seconds(self._queue.work.all)

    def _waiting_tokens(self) -> float:
        return self._queue.tokens

    def check_room(self) -> None:
        """Raises OverloadedError while the queue is full."""
        check_room(self.queued_tokens, self._max_queue_tokens, self, self._metrics)

    def submit(
        self, requests: Sequence[WindowRequest | RowRequest], deadline: float | None = None
    ) -> asyncio.Future[list[Outcome]]:
        """Queue the windows of a call's questions, all of them or none.

        deadline: by the event loop's clock, in seconds; None for none.

        The outcomes come in the order of the questions; a question whose batch failed has an
        EngineFailedError. The future fails with DeadlineError when the deadline passes while
        windows wait; cancelling it takes those out of the queue. Raises OverloadedError while the
        queue is full, or so long that the deadline can't be met, and DeadlineError where it could
        not be met alone; what is accepted is never dropped for want of room.
        """
        self.check_room()
        questions = [request.rows for request in requests]
        call = Call(questions, deadline, self._loop.create_future(), self._loop.time())
        if deadline is not None:
            self._check_deadline(deadline, call.rows)
        if not call.future.done():
            self._queue.add(call, self._dispatched_tokens)
            self._calls[call.future] = call
            call.future.add_done_callback(self._forget)
            self._dispatch_soon()
        return call.future

    def _forget(self, future: asyncio.Future[list[Outcome]]) -> None:
        self._queue.forget(self._calls.pop(future))

    def _check_deadline(self, deadline: float, rows: Sequence[bytes]) -> None:
        time_left = max(0.0, deadline - self._loop.time())
        time_for_it = time_left * DEADLINE_SHARE
        at_most = Work(
            self._running.tokens + self._queue.work.tokens + sum(map(row_tokens, rows)),
            self._running.windows + self._queue.work.windows + len(rows),
        )
        # Of most calls no more need be known.
        if not rows or self._rate.seconds(at_most) <= time_for_it:
            return
        last_turn, own = self._queue.added_work(rows, self._dispatched_tokens)
        if self._rate.seconds(self._running + self._queue.work.all + own) <= time_for_it:
            return
        until_done = self._running + self._queue.work.until(last_turn) + own
        seconds = self._rate.seconds(until_done)
        if seconds <= time_for_it:
            return
        self._metrics.rejections.labels("deadline").inc()
        late = (
            f"the deadline can't be met: it is in {time_left * 1e3:.0f} ms, and "
            f"{until_done.tokens} tokens take about {seconds * 1e3:.0f} ms at present"
        )
        if self._rate.seconds(own) > time_for_it:
            raise DeadlineError(late)
        raise OverloadedError(late, retry_delay_s=seconds - time_for_it)

    def _dispatch_soon(self) -> None:
        """After what is ready to run now: callers that came together ride together."""
        if not self._dispatch_is_due:
            self._dispatch_is_due = True
            self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._dispatch_is_due = False
        # One time for all: else a deadline that comes in between leaves a batch of no windows.
        now = self._loop.time()
        queue_seconds = self._metrics.queue_seconds
        while self._free_slots and (taken := self._queue.take(now, self._engine.batch_tokens)):
            length, jobs = taken
            self._free_slots -= 1
            tokens = shared = 0
            for job in jobs:
                tokens += job.tokens
                shared += len(job.entries) - 1
                for call, window in job.entries:
                    if call.starts(window, now):
                        queue_seconds.observe(now - call.queued_at)
            self._dispatched_tokens += tokens
            work = Work(tokens, len(jobs))
            self._running += work
            self._metrics.batch_dispatched(length, len(jobs), tokens, shared)
            self._work.put(_Batch(length, jobs, work, now))

    def _run_batches(self) -> None:
        """What each of the engine's threads does until it is told to stop."""
        while (batch := self._work.get()) is not None:
            decoded: DecodedWindows | Exception
            try:
                decoded = self._run(batch)
            except Exception as error:
                decoded = error
            self._loop.call_soon_threadsafe(self._finish, batch, decoded)

    def _run(self, batch: _Batch) -> DecodedWindows:
        of_jobs = [job.row for job in batch.jobs]
        return self._engine.run(pad_rows(of_jobs, length=batch.length, pad_id=self._pad_id))

    def _finish(self, batch: _Batch, decoded: DecodedWindows | Exception) -> None:
        now = self._loop.time()
        busy = now - max(batch.dispatched_at, self._last_finish)
        self._last_finish = now
        self._rate.add(batch.work, busy)
        self._metrics.engine_busy_seconds.inc(busy)
        self._metrics.engine_seconds.observe(now - batch.dispatched_at)
        self._running -= batch.work
        self._free_slots += 1
        self._dispatch_soon()
        if isinstance(decoded, Exception):
            log.error(
                "the engine failed on a batch of %d windows", len(batch.jobs), exc_info=decoded
            )
            for job in batch.jobs:
                for call, window in job.entries:
                    call.failed(window, EngineFailedError("the engine failed"))
            self._on_failure()
            return
        for call in {call for job in batch.jobs for call, _ in job.entries}:
            call.batches += 1
        for job, computed in zip(batch.jobs, rows(decoded), strict=True):
            for call, window in job.entries:
                call.computed(window, computed, now)

    def close(self) -> None:
        """Wait for the engine's last batch. Nothing may be submitted any more."""
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join()
        self._metrics.queues.remove(self._waiting_tokens)


class Queue(Protocol):
    @property
    def queue_s(self) -> float:
        """How long what waits will take, in seconds."""


def check_room(queued_tokens: int, limit: int, queue: Queue, metrics: Metrics) -> None:
    """Raises OverloadedError where as many as max_queue_tokens wait."""
    if queued_tokens < limit:
        return
    metrics.rejections.labels("queue").inc()
    raise OverloadedError(
        f"the queue is full: {queued_tokens} tokens wait, max_queue_tokens is {limit}; "
        "try again later",
        # Until it is half empty.
        retry_delay_s=queue.queue_s * (1 - limit / 2 / queued_tokens),
    )
