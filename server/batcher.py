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
from dataclasses import dataclass
from itertools import islice

from electra_qa.engines import Engine, bucket
from electra_qa.spans import DecodedWindow, DecodedWindows, row
from electra_qa.windows import Window, WindowBatch

from .errors import DeadlineError, EngineFailedError, OverloadedError, RequestError
from .metrics import Metrics
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
    """The windows of one question."""

    windows: Sequence[Window]
    max_answer_length: int


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


@dataclass(eq=False, slots=True)
class _Entry:
    """One window that waits, or waited."""

    turn: int
    question: _Question
    index: int
    window: Window
    waiting: bool = True

    @property
    def wanted(self) -> bool:
        question = self.question
        call = question.call
        return not call.future.done() and call.outcomes[question.index] is None


@dataclass(frozen=True, slots=True)
class _Batch:
    length: int
    entries: list[_Entry]
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
        # By length: heaps of (turn, sequence, entry).
        self._waiting: dict[int, list[tuple[int, int, _Entry]]] = {}
        self._sequence = 0
        self._queued_tokens = 0
        self._queued_windows = 0
        # By turn, in steps of TURN_STEP.
        self._tokens_by_turn: Counter[int] = Counter()
        self._windows_by_turn: Counter[int] = Counter()
        self._running = Work()
        self._dispatched_tokens = 0
        self._dispatch_is_due = False
        metrics.queues.append(self._waiting_tokens)
        metrics.queue_limit_tokens.set(max_queue_tokens)

    @property
    def queued_tokens(self) -> int:
        """Tokens of the windows that wait for the engine."""
        return self._queued_tokens

    def _waiting_tokens(self) -> float:
        return self._queued_tokens

    def check_room(self) -> None:
        """Raises OverloadedError while the queue is full."""
        if self._queued_tokens >= self._max_queue_tokens:
            self._metrics.rejections.labels("queue").inc()
            raise OverloadedError(
                f"the queue is full: {self._queued_tokens} tokens wait, "
                f"max_queue_tokens is {self._max_queue_tokens}; try again later",
                # Until it is half empty.
                retry_delay_s=self._rate.seconds(Work(self._queued_tokens, self._queued_windows))
                * (1 - self._max_queue_tokens / 2 / self._queued_tokens),
            )

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
                entries.append(_Entry(turn, question, place, window))
                turn += SPREAD * window.length
        return entries

    def _check_deadline(self, deadline: float | None, entries: Sequence[_Entry]) -> None:
        if deadline is None or not entries:
            return
        own = Work(sum(entry.window.length for entry in entries), len(entries))
        time_left = max(0.0, deadline - self._loop.time())
        everything = self._running + Work(self._queued_tokens, self._queued_windows) + own
        if self._rate.seconds(everything) <= time_left * DEADLINE_SHARE:
            return
        last_turn = entries[-1].turn // TURN_STEP
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
        length = bucket(self._engine.buckets, entry.window.length)
        heap = self._waiting.setdefault(length, [])
        heapq.heappush(heap, (entry.turn, self._sequence, entry))
        self._sequence += 1
        self._count_waiting(entry, 1)

    def _forget(self, entries: Sequence[_Entry]) -> None:
        """What still waits of a call that ended waits no longer; the heaps drop it later."""
        for entry in entries:
            if entry.waiting:
                self._leave(entry)

    def _leave(self, entry: _Entry) -> None:
        entry.waiting = False
        self._count_waiting(entry, -1)

    def _count_waiting(self, entry: _Entry, sign: int) -> None:
        tokens = sign * entry.window.length
        self._queued_tokens += tokens
        self._queued_windows += sign
        turn = entry.turn // TURN_STEP
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
            length, entries = chosen
            self._free_slots -= 1
            tokens = 0
            for entry in entries:
                tokens += entry.window.length
                question = entry.question
                if question.started_at is None:
                    question.started_at = now
                    self._metrics.queue_seconds.observe(now - question.call.queued_at)
            self._dispatched_tokens += tokens
            work = Work(tokens, len(entries))
            self._running += work
            self._metrics.batch_dispatched(length, len(entries), tokens)
            self._work.put(_Batch(length, entries, work, now))

    def _choose(self, now: float) -> tuple[int, list[_Entry]] | None:
        """The length and the windows of the next batch; None where nothing waits."""
        heads = ((self._head(length, now), length) for length in list(self._waiting))
        turns = [(head[:2], length) for head, length in heads if head is not None]
        if not turns:
            return None
        _, length = min(turns)
        near = sorted(
            (n for n in self._waiting if length * SHORTEST_SHARE <= n <= length), reverse=True
        )
        candidates = (entry for n in near for entry in self._take(n, now))
        return length, list(islice(candidates, max(1, self._engine.batch_tokens // length)))

    def _head(self, length: int, now: float) -> tuple[int, int, _Entry] | None:
        """The next window of a length that is still wanted; those before it are dropped."""
        heap = self._waiting[length]
        while heap:
            entry = heap[0][2]
            _expire(entry.question.call, now)
            if entry.wanted:
                return heap[0]
            heapq.heappop(heap)
            if entry.waiting:  # its question failed, but not its call
                self._leave(entry)
        del self._waiting[length]
        return None

    def _take(self, length: int, now: float) -> Iterator[_Entry]:
        while length in self._waiting and (head := self._head(length, now)):
            heapq.heappop(self._waiting[length])
            self._leave(head[2])
            yield head[2]

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
                [entry.window for entry in batch.entries],
                [entry.question.request.max_answer_length for entry in batch.entries],
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
                "the engine failed on a batch of %d windows", len(batch.entries), exc_info=decoded
            )
            for entry in batch.entries:
                _end(entry.question, EngineFailedError("the engine failed"))
            self._on_failure()
            return
        for call in {entry.question.call for entry in batch.entries}:
            call.batches += 1
        for index, entry in enumerate(batch.entries):
            question, call = entry.question, entry.question.call
            question.decoded[entry.index] = row(decoded, index)
            question.missing -= 1
            if not question.missing:
                started_at = question.started_at or now
                queue_s = started_at - call.queued_at
                whole = [window for window in question.decoded if window is not None]
                _end(question, WindowResult(whole, queue_s, now - started_at, call.batches))

    def close(self) -> None:
        """Wait for the engine's last batch. Nothing may be submitted any more."""
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join()
        self._metrics.queues.remove(self._waiting_tokens)


def _expire(call: _Call, now: float) -> None:
    if call.deadline is None or call.future.done() or now < call.deadline:
        return
    call.future.set_exception(DeadlineError("the deadline came while the question waited"))


def _end(question: _Question, outcome: Outcome) -> None:
    """The first outcome of a question counts; its call ends with the last of its questions."""
    call = question.call
    if call.future.done() or call.outcomes[question.index] is not None:
        return
    call.outcomes[question.index] = outcome
    call.open_questions -= 1
    if not call.open_questions:
        call.future.set_result([one for one in call.outcomes if one is not None])
