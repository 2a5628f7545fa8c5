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

Everything here runs on the event loop's thread, so that nothing is locked; only the engine runs on
threads of its own.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

from electra_qa.engines import Engine, bucket
from electra_qa.spans import DecodedWindow, DecodedWindows, row
from electra_qa.windows import Window, WindowBatch

from ..errors import DeadlineError, EngineFailedError, OverloadedError, RequestError
from ..observe.metrics import Metrics
from .rate import Rate, Work

log = logging.getLogger(__name__)

# The shortest window that may ride in a batch, as a share of the batch's length. Below it the
# padding costs more than a batch of its own.
SHORTEST_SHARE = 0.75
SPREAD = 4
# A call is refused where it would take longer than this share of the time it has: the estimate is
# one of the mean, and what is served late is lost as well.
DEADLINE_SHARE = 0.7
# Waiting tokens are summed up by turn, in steps of this many, for that estimate.
TURN_STEP = 4096


@dataclass(frozen=True, slots=True)
class WindowRequest:
    """The windows of one question. with_logits: whether `DecodedWindow.logits` is looked at."""

    windows: Sequence[Window]
    max_answer_length: int
    with_logits: bool = False


@dataclass(frozen=True, slots=True)
class WindowResult:
    """The decoded windows of one question, in their order, and what they spent, in seconds.

    batches: how many batches its call had taken part in when it was done.
    """

    decoded: list[DecodedWindow]
    queue_s: float
    engine_s: float
    batches: int = 1


Outcome = WindowResult | RequestError


@dataclass(eq=False, slots=True)
class _Call:
    """outcomes: of its questions; None while one is open."""

    deadline: float | None
    future: asyncio.Future[list[Outcome]]
    queued_at: float
    outcomes: list[Outcome | None]
    open_questions: int
    batches: int = 0


@dataclass(eq=False, slots=True)
class _Question:
    call: _Call
    index: int
    request: WindowRequest
    decoded: list[DecodedWindow | None]
    missing: int
    started_at: float | None = None


# All that an engine is told of a window, by content: the bytes of its token ids, and its bounds.
_Key = tuple[bytes, tuple[int, int, int, int, int]]


@dataclass(eq=False, slots=True)
class _Entry:
    """One window of a question, which waits for its job, or waited."""

    turn: int
    question: _Question
    index: int
    window: Window
    key: _Key
    waiting: bool = True

    @property
    def wanted(self) -> bool:
        question = self.question
        call = question.call
        return not call.future.done() and call.outcomes[question.index] is None


@dataclass(eq=False, slots=True)
class _Job:
    """What the engine computes once for all entries that are the same.

    turn: the earliest of its entries'.
    waiting: how many of its entries wait; those that don't are dropped from `entries` later. With
        the last of them it leaves the queue.
    """

    key: _Key
    turn: int
    window: Window
    max_answer_length: int
    entries: list[_Entry] = field(default_factory=list)
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class _Batch:
    length: int
    jobs: list[_Job]
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
        # The jobs that wait, and, by length, heaps of (turn, sequence, job). A job whose turn moved
        # is in its heap once more: only where it has its turn does it count.
        self._jobs: dict[_Key, _Job] = {}
        self._waiting: dict[int, list[tuple[int, int, _Job]]] = {}
        self._sequence = 0
        # Of all entries.
        self._queued_tokens = 0
        # Of all jobs; then by turn, in steps of TURN_STEP.
        self._job_tokens = 0
        self._job_windows = 0
        self._tokens_by_turn: Counter[int] = Counter()
        self._windows_by_turn: Counter[int] = Counter()
        self._running = Work()
        self._dispatched_tokens = 0
        self._dispatch_is_due = False
        metrics.queues.append(self._waiting_tokens)
        metrics.queue_limit_tokens.set(max_queue_tokens)

    @property
    def queued_tokens(self) -> int:
        """Tokens of the windows that wait for the engine; the same ones count each."""
        return self._queued_tokens

    @property
    def queue_s(self) -> float:
        """How long what waits will take, in seconds, at the present rate."""
        return self._rate.seconds(Work(self._job_tokens, self._job_windows))

    def _waiting_tokens(self) -> float:
        return self._queued_tokens

    def check_room(self) -> None:
        """Raises OverloadedError while the queue is full."""
        check_room(self._queued_tokens, self._max_queue_tokens, self, self._metrics)

    def submit(
        self, requests: Sequence[WindowRequest], deadline: float | None = None
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
        call = _Call(
            deadline,
            self._loop.create_future(),
            self._loop.time(),
            [None] * len(requests),
            len(requests),
        )
        entries = self._entries(call, requests)
        self._check_deadline(deadline, entries)
        for entry in entries:
            self._enqueue(entry)
        if not entries:
            call.future.set_result([])
            return call.future
        call.future.add_done_callback(lambda _: self._forget(entries))
        self._dispatch_soon()
        return call.future

    def _entries(self, call: _Call, requests: Sequence[WindowRequest]) -> list[_Entry]:
        entries = []
        turn = self._dispatched_tokens
        for index, request in enumerate(requests):
            count = len(request.windows)
            question = _Question(call, index, request, [None] * count, count)
            for place, window in enumerate(request.windows):
                key = window.input_ids.tobytes(), window.bounds(request.max_answer_length)
                entries.append(_Entry(turn, question, place, window, key))
                turn += SPREAD * window.length
        return entries

    def _check_deadline(self, deadline: float | None, entries: Sequence[_Entry]) -> None:
        if deadline is None or not entries:
            return
        # Of those that are the same in a call the first has the earliest turn.
        windows = {entry.key: entry for entry in reversed(entries)}
        waiting = {key: job.turn for key in windows if (job := self._jobs.get(key))}
        last_turn = max(min(e.turn, waiting.get(key, e.turn)) for key, e in windows.items())
        last_turn //= TURN_STEP
        # What nobody waits for yet, or not so early.
        own_lengths = [
            entry.window.length
            for key, entry in windows.items()
            if key not in waiting or waiting[key] // TURN_STEP > last_turn
        ]
        own = Work(sum(own_lengths), len(own_lengths))
        time_left = max(0.0, deadline - self._loop.time())
        everything = self._running + Work(self._job_tokens, self._job_windows) + own
        if self._rate.seconds(everything) <= time_left * DEADLINE_SHARE:
            return
        ahead = self._running + Work(
            sum(n for turn, n in self._tokens_by_turn.items() if turn <= last_turn),
            sum(n for turn, n in self._windows_by_turn.items() if turn <= last_turn),
        )
        until_done = ahead + own
        seconds = self._rate.seconds(until_done)
        if seconds <= time_left * DEADLINE_SHARE:
            return
        self._metrics.rejections.labels("deadline").inc()
        late = (
            f"the deadline can't be met: it is in {time_left * 1e3:.0f} ms, and "
            f"{until_done.tokens} tokens take about {seconds * 1e3:.0f} ms at present"
        )
        if self._rate.seconds(own) > time_left * DEADLINE_SHARE:
            raise DeadlineError(late)
        raise OverloadedError(late, retry_delay_s=seconds - time_left * DEADLINE_SHARE)

    def _enqueue(self, entry: _Entry) -> None:
        job = self._jobs.get(entry.key)
        if job is None:
            longest = entry.question.request.max_answer_length
            job = self._jobs[entry.key] = _Job(entry.key, entry.turn, entry.window, longest)
            self._push(job)
        elif entry.turn < job.turn:
            self._count_work(job, -1)
            job.turn = entry.turn
            self._push(job)
        job.entries.append(entry)
        job.waiting += 1
        self._queued_tokens += entry.window.length

    def _push(self, job: _Job) -> None:
        length = bucket(self._engine.buckets, job.window.length)
        heap = self._waiting.setdefault(length, [])
        heapq.heappush(heap, (job.turn, self._sequence, job))
        self._sequence += 1
        self._count_work(job, 1)

    def _forget(self, entries: Sequence[_Entry]) -> None:
        """What still waits of a call that ended waits no longer."""
        for entry in entries:
            if entry.waiting:
                self._leave(entry)

    def _leave(self, entry: _Entry) -> None:
        """With the last of its entries a job leaves; the heaps drop it later."""
        entry.waiting = False
        self._queued_tokens -= entry.window.length
        job = self._jobs[entry.key]
        job.waiting -= 1
        if not job.waiting:
            del self._jobs[job.key]
            self._count_work(job, -1)

    def _count_work(self, job: _Job, sign: int) -> None:
        tokens = sign * job.window.length
        self._job_tokens += tokens
        self._job_windows += sign
        turn = job.turn // TURN_STEP
        self._tokens_by_turn[turn] += tokens
        self._windows_by_turn[turn] += sign
        if not self._windows_by_turn[turn]:
            del self._tokens_by_turn[turn], self._windows_by_turn[turn]

    def _dispatch_soon(self) -> None:
        """After what is ready to run now: callers that came together ride together."""
        if not self._dispatch_is_due:
            self._dispatch_is_due = True
            self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._dispatch_is_due = False
        # One time for all: else a deadline that comes in between leaves a batch of no windows.
        now = self._loop.time()
        while self._free_slots and (chosen := self._choose(now)):
            length, jobs = chosen
            self._free_slots -= 1
            tokens = shared = 0
            for job in jobs:
                tokens += job.window.length
                shared += len(job.entries) - 1
                for entry in job.entries:
                    question = entry.question
                    if question.started_at is None:
                        question.started_at = now
                        self._metrics.queue_seconds.observe(now - question.call.queued_at)
            self._dispatched_tokens += tokens
            work = Work(tokens, len(jobs))
            self._running += work
            self._metrics.batch_dispatched(length, len(jobs), tokens, shared)
            self._work.put(_Batch(length, jobs, work, now))

    def _choose(self, now: float) -> tuple[int, list[_Job]] | None:
        """The length and the jobs of the next batch; None where nothing waits."""
        heads = ((self._head(length, now), length) for length in list(self._waiting))
        turns = [(head[:2], length) for head, length in heads if head is not None]
        if not turns:
            return None
        _, length = min(turns)
        near = sorted(
            (n for n in self._waiting if length * SHORTEST_SHARE <= n <= length), reverse=True
        )
        candidates = (job for n in near for job in self._take(n, now))
        return length, list(islice(candidates, max(1, self._engine.batch_tokens // length)))

    def _head(self, length: int, now: float) -> tuple[int, int, _Job] | None:
        """The next job of a length that somebody still wants; those before it are dropped."""
        heap = self._waiting[length]
        while heap:
            turn, _, job = heap[0]
            if turn == job.turn and self._is_wanted(job, now):
                return heap[0]
            heapq.heappop(heap)
        del self._waiting[length]
        return None

    def _is_wanted(self, job: _Job, now: float) -> bool:
        """Whether an entry of it is wanted; those before that one are dropped."""
        while job.waiting:
            entry = job.entries[0]
            _expire(entry.question.call, now)
            if entry.waiting and entry.wanted:
                return True
            del job.entries[0]
            if entry.waiting:  # its question failed, but not its call, or the call just now
                self._leave(entry)
        return False

    def _take(self, length: int, now: float) -> Iterator[_Job]:
        """Jobs with the entries that are wanted, which wait no longer."""
        while length in self._waiting and (head := self._head(length, now)):
            heapq.heappop(self._waiting[length])
            job = head[2]
            waited = [entry for entry in job.entries if entry.waiting]
            job.entries.clear()
            for entry in waited:
                self._leave(entry)
                _expire(entry.question.call, now)
                if entry.wanted:
                    job.entries.append(entry)
            yield job

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
        return self._engine.run(
            WindowBatch.pad(
                [job.window for job in batch.jobs],
                [job.max_answer_length for job in batch.jobs],
                length=batch.length,
                pad_id=self._pad_id,
            )
        )

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
                for entry in job.entries:
                    _end(entry.question, EngineFailedError("the engine failed"))
            self._on_failure()
            return
        for call in {entry.question.call for job in batch.jobs for entry in job.entries}:
            call.batches += 1
        for index, job in enumerate(batch.jobs):
            computed = row(decoded, index)
            for entry in job.entries:
                _computed(entry, computed, now)

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


def _expire(call: _Call, now: float) -> None:
    if call.deadline is None or call.future.done() or now < call.deadline:
        return
    call.future.set_exception(DeadlineError("the deadline came while the question waited"))


def _computed(entry: _Entry, decoded: DecodedWindow, now: float) -> None:
    question, call = entry.question, entry.question.call
    question.decoded[entry.index] = decoded
    question.missing -= 1
    if not question.missing:
        started_at = question.started_at or now
        queue_s = started_at - call.queued_at
        whole = [window for window in question.decoded if window is not None]
        _end(question, WindowResult(whole, queue_s, now - started_at, call.batches))


def _end(question: _Question, outcome: Outcome) -> None:
    """The first outcome of a question counts; its call ends with the last of its questions."""
    call = question.call
    if call.future.done() or call.outcomes[question.index] is not None:
        return
    call.outcomes[question.index] = outcome
    call.open_questions -= 1
    if not call.open_questions:
        call.future.set_result([one for one in call.outcomes if one is not None])
