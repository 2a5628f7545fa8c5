"""Dynamic batching of windows, across callers, by age and length.

Work-conserving: a free engine takes what waits, at once; windows gather only while it is busy. The
oldest window sets the length of the next batch. The waiting windows nearest to it in length, none
longer and none much shorter, fill the batch up to a token budget. As every batch has the oldest
window in it, none waits forever.

Everything here runs on the event loop's thread, so that nothing is locked; only the engine runs on
threads of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

from electra_qa.engines import Engine, bucket
from electra_qa.spans import DecodedWindow, DecodedWindows, row
from electra_qa.windows import Window, WindowBatch

from .errors import DeadlineError, EngineFailedError, OverloadedError

log = logging.getLogger(__name__)

# The shortest window that may ride in a batch, as a share of the batch's length. Below it the
# padding costs more than a batch of its own.
SHORTEST_SHARE = 0.75


@dataclass(frozen=True, slots=True)
class WindowRequest:
    """The windows of one question.

    deadline: by the event loop's clock, in seconds; None for none.
    """

    windows: Sequence[Window]
    max_answer_length: int
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class WindowResult:
    """The decoded windows of one question, in their order, and what they spent, in seconds."""

    decoded: list[DecodedWindow]
    queue_s: float
    engine_s: float


@dataclass(eq=False, slots=True)
class _Job:
    request: WindowRequest
    future: asyncio.Future[WindowResult]
    queued_at: float
    decoded: dict[int, DecodedWindow] = field(default_factory=dict)
    started_at: float | None = None
    waiting_tokens: int = 0


@dataclass(frozen=True, slots=True)
class _Entry:
    """One window that waits. `sequence` rises with the order of arrival."""

    sequence: int
    job: _Job
    index: int

    @property
    def window(self) -> Window:
        return self.job.request.windows[self.index]


class Batcher:
    """Make one inside a running event loop, and `close` it there."""

    def __init__(
        self, engine: Engine, *, pad_id: int, max_batch_tokens: int, max_queue_tokens: int
    ) -> None:
        self._engine = engine
        self._pad_id = pad_id
        self._max_batch_tokens = max_batch_tokens
        self._max_queue_tokens = max_queue_tokens
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(engine.slots, thread_name_prefix="engine")
        self._free_slots = engine.slots
        self._waiting: dict[int, deque[_Entry]] = {}
        self._queued_tokens = 0
        self._sequence = 0
        self._dispatch_is_due = False

    @property
    def queued_tokens(self) -> int:
        """Tokens of the windows that wait for the engine."""
        return self._queued_tokens

    def check_room(self) -> None:
        """Raises OverloadedError while the queue is full."""
        if self._queued_tokens >= self._max_queue_tokens:
            raise OverloadedError(
                f"the queue is full: {self._queued_tokens} tokens wait, "
                f"max_queue_tokens is {self._max_queue_tokens}; try again later"
            )

    def submit(self, requests: Sequence[WindowRequest]) -> list[asyncio.Future[WindowResult]]:
        """Queue the windows of several questions, all of them or none.

        Cancelling a future takes those of its windows that still wait out of the queue. A future
        fails with DeadlineError or EngineFailedError. Raises OverloadedError while the queue is
        full: what is accepted is never dropped for want of room.
        """
        self.check_room()
        return [self._enqueue(request) for request in requests]

    def _enqueue(self, request: WindowRequest) -> asyncio.Future[WindowResult]:
        job = _Job(request, self._loop.create_future(), self._loop.time())
        for index, window in enumerate(request.windows):
            length = bucket(self._engine.buckets, window.length)
            entry = _Entry(self._sequence, job, index)
            self._sequence += 1
            self._waiting.setdefault(length, deque()).append(entry)
            job.waiting_tokens += window.length
        self._queued_tokens += job.waiting_tokens
        job.future.add_done_callback(lambda _: self._forget(job))
        self._dispatch_soon()
        return job.future

    def _forget(self, job: _Job) -> None:
        self._queued_tokens -= job.waiting_tokens
        job.waiting_tokens = 0

    def _dispatch_soon(self) -> None:
        """After what is ready to run now: callers that came together ride together."""
        if not self._dispatch_is_due:
            self._dispatch_is_due = True
            self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._dispatch_is_due = False
        while self._free_slots and (chosen := self._choose()):
            length, entries = chosen
            self._free_slots -= 1
            now = self._loop.time()
            for entry in entries:
                entry.job.waiting_tokens -= entry.window.length
                self._queued_tokens -= entry.window.length
                if entry.job.started_at is None:
                    entry.job.started_at = now
            run = self._loop.run_in_executor(self._threads, self._run, length, entries)
            run.add_done_callback(partial(self._finish, entries))

    def _choose(self) -> tuple[int, list[_Entry]] | None:
        """The length and the windows of the next batch; None where nothing waits."""
        heads = {length: self._head(length) for length in list(self._waiting)}
        oldest = min(
            (entry for entry in heads.values() if entry is not None),
            key=lambda entry: entry.sequence,
            default=None,
        )
        if oldest is None:
            return None
        length = bucket(self._engine.buckets, oldest.window.length)
        near = sorted(
            (n for n in self._waiting if length * SHORTEST_SHARE <= n <= length), reverse=True
        )
        candidates = (entry for n in near for entry in self._take(n))
        return length, list(islice(candidates, max(1, self._max_batch_tokens // length)))

    def _head(self, length: int) -> _Entry | None:
        """The oldest window of a length that is still wanted; those before it are dropped."""
        waiting = self._waiting[length]
        while waiting:
            entry = waiting[0]
            self._expire(entry.job)
            if not entry.job.future.done():
                return entry
            waiting.popleft()
        del self._waiting[length]
        return None

    def _take(self, length: int) -> Iterator[_Entry]:
        while self._waiting.get(length) and (entry := self._head(length)):
            self._waiting[length].popleft()
            yield entry

    def _expire(self, job: _Job) -> None:
        deadline = job.request.deadline
        if deadline is not None and self._loop.time() >= deadline and not job.future.done():
            job.future.set_exception(DeadlineError("the deadline came while the question waited"))

    def _run(self, length: int, entries: Sequence[_Entry]) -> DecodedWindows:
        batch = WindowBatch.pad(
            [entry.window for entry in entries],
            [entry.job.request.max_answer_length for entry in entries],
            length=length,
            pad_id=self._pad_id,
        )
        return self._engine.run(batch)

    def _finish(self, entries: Sequence[_Entry], run: asyncio.Future[DecodedWindows]) -> None:
        self._free_slots += 1
        self._dispatch_soon()
        try:
            decoded = run.result()
        except Exception:
            log.exception("the engine failed on a batch of %d windows", len(entries))
            for entry in entries:
                if not entry.job.future.done():
                    entry.job.future.set_exception(EngineFailedError("the engine failed"))
            return
        now = self._loop.time()
        for index, entry in enumerate(entries):
            job = entry.job
            job.decoded[entry.index] = row(decoded, index)
            if len(job.decoded) == len(job.request.windows) and not job.future.done():
                started_at = job.started_at if job.started_at is not None else now
                job.future.set_result(
                    WindowResult(
                        decoded=[job.decoded[i] for i in range(len(job.decoded))],
                        queue_s=started_at - job.queued_at,
                        engine_s=now - started_at,
                    )
                )

    def close(self) -> None:
        """Wait for the engine's last batch. Nothing may be submitted any more."""
        self._threads.shutdown()
