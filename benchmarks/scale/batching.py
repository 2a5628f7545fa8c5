"""The batcher and its engine, by the rules of `server/engine/batcher.py` in their simple form.

As there: work-conserving; turns in tokens of work; a length, what is near to it, and a token
budget; the queue's bound; a call that would take more than its share of the time it has is refused.
Not as there: windows that are the same are not looked for, the costs of a token and a window are
learned as one of tokens, and the estimate for a deadline counts all that waits, not what has its
turn before.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from .clock import Clock, Station
from .site import EngineTimes

SHORTEST_SHARE = 0.75
SPREAD = 4
DEADLINE_SHARE = 0.7
HALF_LIFE_S = 2.0
# How long Python's lock may keep the engine's thread from padding its batch while the event loop of
# the same process has work: `electra-qa serve` sets the interval at which threads are switched.
SWITCH_INTERVAL_S = 0.001


@dataclass(eq=False, slots=True)
class Call:
    """lengths: of its windows, in tokens, as the engine pads them.
    ended: with True when all are computed, with False when it is refused, or expired."""

    lengths: Sequence[int]
    deadline: float
    ended: Callable[[bool], None]
    missing: int = field(init=False)
    is_expired: bool = False

    def __post_init__(self) -> None:
        self.missing = len(self.lengths)


class Batcher:
    """windows, tokens, computed_tokens, batches: how many were computed; the last but one without
    padding, the last with it."""

    def __init__(
        self, clock: Clock, loop: Station, times: EngineTimes, max_queue_tokens: int
    ) -> None:
        self._clock, self._loop, self._times = clock, loop, times
        self.device = Station(clock)
        self._max_queue_tokens = max_queue_tokens
        self._free_slots = times.slots
        self._dispatch_is_due = False
        self._waiting: dict[int, list[tuple[int, int, Call]]] = {}
        self._sequence = 0
        self._queued_tokens = self._running_tokens = self._dispatched_tokens = 0
        self._rate_tokens = self._rate_seconds = self._last_finish = 0.0
        self.windows = self.tokens = self.computed_tokens = self.batches = 0

    def submit(self, call: Call) -> None:
        """Queue it, or refuse it. What the event loop had to do for that is done."""
        own = sum(call.lengths)
        time_left = call.deadline - self._clock.now
        seconds = self._seconds(self._running_tokens + self._queued_tokens + own)
        if (
            self._queued_tokens >= self._max_queue_tokens
            or seconds > max(0.0, time_left) * DEADLINE_SHARE
        ):
            call.ended(False)
            return
        turn = self._dispatched_tokens
        for length in call.lengths:
            heapq.heappush(self._waiting.setdefault(length, []), (turn, self._sequence, call))
            self._sequence += 1
            turn += SPREAD * length
        self._queued_tokens += own
        self._dispatch_soon()

    def _seconds(self, tokens: int) -> float:
        return tokens * self._rate_seconds / self._rate_tokens if self._rate_tokens else 0.0

    def _dispatch_soon(self) -> None:
        """After what is due now: calls that came together ride together."""
        if self._free_slots and not self._dispatch_is_due:
            self._dispatch_is_due = True
            self._clock.at(self._clock.now, self._dispatch)

    def _dispatch(self) -> None:
        self._dispatch_is_due = False
        while self._free_slots and (chosen := self._choose()):
            self._free_slots -= 1
            self._start(*chosen)

    def _start(self, length: int, taken: Sequence[tuple[int, Call]]) -> None:
        times, dispatched_at = self._times, self._clock.now
        tokens, padded = sum(own for own, _ in taken), length * len(taken)
        seconds = times.run_s + times.window_s * len(taken) + times.token_s * padded
        self._running_tokens += tokens
        self._dispatched_tokens += tokens
        self.windows += len(taken)
        self.tokens += tokens
        self.computed_tokens += padded
        self.batches += 1

        def finish() -> None:
            self._learn(tokens, self._clock.now - max(dispatched_at, self._last_finish))
            self._last_finish = self._clock.now
            self._running_tokens -= tokens
            self._free_slots += 1
            self._dispatch_soon()
            for _, call in taken:
                call.missing -= 1
                if not call.missing and not call.is_expired:
                    call.ended(True)

        def start() -> None:
            lock_s = min(self._loop.backlog_s, SWITCH_INTERVAL_S)
            self._clock.at(self._clock.now + lock_s, lambda: self.device.work(seconds, finish))

        # What has not been read from a socket yet does not hold up the loop's next turn.
        self._loop.work(times.host_batch_s, start, is_next=True)

    def _choose(self) -> tuple[int, list[tuple[int, Call]]] | None:
        heads = [(head, n) for n in list(self._waiting) if (head := self._head(n)) is not None]
        if not heads:
            return None
        _, length = min(heads)
        near = sorted(
            (n for n in self._waiting if length * SHORTEST_SHARE <= n <= length), reverse=True
        )
        candidates = (one for n in near for one in self._take(n))
        return length, list(islice(candidates, max(1, self._times.batch_tokens // length)))

    def _head(self, length: int) -> tuple[int, int] | None:
        """The turn of the next window of a length; those that are too late are dropped."""
        heap = self._waiting[length]
        while heap:
            turn, sequence, call = heap[0]
            if not call.is_expired and self._clock.now >= call.deadline:
                call.is_expired = True
                call.ended(False)
            if not call.is_expired:
                return turn, sequence
            heapq.heappop(heap)
            self._queued_tokens -= length
        del self._waiting[length]
        return None

    def _take(self, length: int) -> Iterator[tuple[int, Call]]:
        while length in self._waiting and self._head(length) is not None:
            _, _, call = heapq.heappop(self._waiting[length])
            self._queued_tokens -= length
            yield length, call

    def _learn(self, tokens: int, seconds: float) -> None:
        decay = 0.5 ** (seconds / HALF_LIFE_S)
        self._rate_tokens = self._rate_tokens * decay + tokens
        self._rate_seconds = self._rate_seconds * decay + seconds
