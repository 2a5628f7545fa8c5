"""The windows that wait, by turn and length; see `batcher` for the rules."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from electra_qa.engines import bucket

from .calls import Call
from .rate import Work
from .rows import row_tokens
from .work_by_turn import WorkByTurn

# The shortest window that may ride in a batch, as a share of the batch's length. Below it the
# padding costs more than a batch of its own.
SHORTEST_SHARE = 0.75
SPREAD = 4

# A window of a call, by its place among them.
Entry = tuple[Call, int]


@dataclass(eq=False, slots=True)
class Job:
    """What the engine computes once for all entries that are the same.

    turn: the earliest of its entries'.
    sequence: of its place in the queue; a place that it had before is another.
    waiting: how many of its entries wait; those that don't are dropped from `entries` later. With
        the last of them it leaves the queue.
    """

    row: bytes
    tokens: int
    turn: int
    sequence: int = -1
    entries: list[Entry] = field(default_factory=list)
    waiting: int = 0


class WindowQueue:
    """tokens: of the windows that wait; the same ones count each.

    work: what they are to the engine; the same ones count once.
    """

    def __init__(self, buckets: tuple[int, ...]) -> None:
        self.tokens = 0
        self.work = WorkByTurn()
        self._buckets = [bucket(buckets, tokens) for tokens in range(buckets[-1] + 1)]
        self._jobs: dict[bytes, Job] = {}
        # By length, heaps of (turn, sequence, row): of numbers and bytes, so that the garbage
        # collector need not look into them.
        self._places: dict[int, list[tuple[int, int, bytes]]] = {}
        self._sequence = 0

    def add(self, call: Call, turn: int) -> None:
        """All windows of a call. turn: that of the first one."""
        for window, row in enumerate(call.rows):
            job = self._jobs.get(row)
            if job is None:
                job = self._jobs[row] = Job(row, row_tokens(row), turn)
                self._push(job)
            elif turn < job.turn:
                self.work.remove(job.turn, job.tokens)
                job.turn = turn
                self._push(job)
            job.entries.append((call, window))
            job.waiting += 1
            call.waits[window] = True
            self.tokens += job.tokens
            turn += SPREAD * job.tokens

    def _push(self, job: Job) -> None:
        job.sequence = self._sequence
        self._sequence += 1
        places = self._places.setdefault(self._buckets[job.tokens], [])
        heapq.heappush(places, (job.turn, job.sequence, job.row))
        self.work.add(job.turn, job.tokens)

    def forget(self, call: Call) -> None:
        """What still waits of a call waits no longer."""
        for window, waits in enumerate(call.waits):
            if waits:
                self._leave(call, window)

    def _leave(self, call: Call, window: int) -> None:
        """With the last of its entries a job leaves; its places are dropped later."""
        job = self._jobs[call.rows[window]]
        call.waits[window] = False
        self.tokens -= job.tokens
        job.waiting -= 1
        if not job.waiting:
            del self._jobs[job.row]
            self.work.remove(job.turn, job.tokens)

    def added_work(self, rows: Sequence[bytes], turn: int) -> tuple[int, Work]:
        """The last turn of a call's windows, were it added, and what of them nobody waits for yet,
        or not so early. rows: at least one. turn: that of the first one."""
        # Of those that are the same in a call the first has the earliest turn.
        turns: dict[bytes, int] = {}
        for row in rows:
            turns.setdefault(row, turn)
            turn += SPREAD * row_tokens(row)
        waiting = {row: job.turn for row in turns if (job := self._jobs.get(row))}
        last_turn = max(min(own, waiting.get(row, own)) for row, own in turns.items())
        own_tokens = [
            row_tokens(row)
            for row in turns
            if row not in waiting or WorkByTurn.is_later(waiting[row], last_turn)
        ]
        return last_turn, Work(sum(own_tokens), len(own_tokens))

    def take(self, now: float, batch_tokens: int) -> tuple[int, list[Job]] | None:
        """The length and the jobs of the next batch, with the entries that are wanted, which wait
        no longer. None where nothing waits."""
        heads = ((self._head(length, now), length) for length in list(self._places))
        turns = [(head, length) for head, length in heads if head is not None]
        if not turns:
            return None
        _, length = min(turns)
        near = sorted(
            (n for n in self._places if length * SHORTEST_SHARE <= n <= length), reverse=True
        )
        candidates = (job for n in near for job in self._take(n, now))
        return length, list(islice(candidates, max(1, batch_tokens // length)))

    def _head(self, length: int, now: float) -> tuple[int, int, bytes] | None:
        """Of a length the first place whose job somebody still wants; those before it are
        dropped."""
        places = self._places[length]
        while places:
            job = self._job_at(places[0])
            if job is not None and self._is_wanted(job, now):
                return places[0]
            heapq.heappop(places)
        del self._places[length]
        return None

    def _job_at(self, place: tuple[int, int, bytes]) -> Job | None:
        """None where it has left, or moved."""
        _, sequence, row = place
        job = self._jobs.get(row)
        return job if job is not None and job.sequence == sequence else None

    def _is_wanted(self, job: Job, now: float) -> bool:
        """Whether an entry of it is wanted; those before that one are dropped."""
        while job.waiting:
            call, window = job.entries[0]
            if call.waits[window] and call.wants(window, now):
                return True
            del job.entries[0]
            if call.waits[window]:  # its question failed, but not its call, or the call just now
                self._leave(call, window)
        return False

    def _take(self, length: int, now: float) -> Iterator[Job]:
        places = self._places[length]
        while places:
            job = self._job_at(heapq.heappop(places))
            if job is None:
                continue
            del self._jobs[job.row]
            self.work.remove(job.turn, job.tokens)
            waited, job.entries = job.entries, []
            for call, window in waited:
                if call.waits[window]:
                    call.waits[window] = False
                    self.tokens -= job.tokens
                    if call.wants(window, now):
                        job.entries.append((call, window))
            if job.entries:
                yield job
