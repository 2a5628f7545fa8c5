"""The queue, held against its rules written down plainly."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from electra_qa.engines import bucket, steps
from electra_qa.server.engine.calls import Call, Outcome
from electra_qa.server.engine.rate import Work
from electra_qa.server.engine.rows import BOUNDS_BYTES, INT_BYTES, row_tokens
from electra_qa.server.engine.window_queue import SHORTEST_SHARE, SPREAD, Entry, WindowQueue
from electra_qa.server.engine.work_by_turn import TURN_STEP
from electra_qa.server.errors import DeadlineError, EngineFailedError

BUCKETS = steps(16, 512)
# Few rows, so that many are the same. Some tokens are past a step of the work by turn.
ROWS = [
    bytes([kind]) * (BOUNDS_BYTES + INT_BYTES * tokens)
    for tokens in (3, 16, 40, 48, 64, 300, 512)
    for kind in (1, 2)
]


@dataclass(frozen=True)
class Add:
    """A call: the rows of its questions. deadline: how many batches it waits for, at most."""

    questions: list[list[bytes]]
    deadline: int | None = None


@dataclass(frozen=True)
class Cancel:
    call: int


@dataclass(frozen=True)
class Take:
    """A batch. fails: the engine on its first window."""

    fails: bool = False


QUESTIONS = st.lists(
    st.lists(st.sampled_from(ROWS), min_size=1, max_size=6), min_size=1, max_size=4
)
CANCELS = st.builds(Cancel, st.integers(0, 20))
STEPS = st.lists(st.one_of(st.builds(Add, QUESTIONS), CANCELS, st.just(Take())), max_size=25)
STEPS_THAT_END_EARLY = st.lists(
    st.one_of(
        st.builds(Add, QUESTIONS, st.none() | st.integers(0, 5)),
        CANCELS,
        st.builds(Take, st.booleans()),
    ),
    max_size=25,
)
BUDGETS = st.sampled_from([1, 64, 200, 1024])


def new_call(step: Add, loop: asyncio.AbstractEventLoop, now: float) -> Call:
    future: asyncio.Future[list[Outcome]] = loop.create_future()
    deadline = None if step.deadline is None else now + step.deadline
    return Call(step.questions, deadline, future, now)


@dataclass(eq=False)
class PlainJob:
    row: bytes
    turn: int
    order: int
    entries: list[Entry] = field(default_factory=list)

    @property
    def length(self) -> int:
        return bucket(BUCKETS, row_tokens(self.row))


class PlainQueue:
    """Lists, looked through from end to end."""

    def __init__(self) -> None:
        self.jobs: list[PlainJob] = []
        self._order = 0

    def add(self, call: Call, turn: int) -> None:
        for window, row in enumerate(call.rows):
            self._order += 1
            job = next((job for job in self.jobs if job.row == row), None)
            if job is None:
                job = PlainJob(row, turn, self._order)
                self.jobs.append(job)
            elif turn < job.turn:
                job.turn, job.order = turn, self._order
            job.entries.append((call, window))
            turn += SPREAD * row_tokens(row)

    def forget(self, call: Call) -> None:
        for job in self.jobs:
            job.entries = [entry for entry in job.entries if entry[0] is not call]
        self.jobs = [job for job in self.jobs if job.entries]

    def take(self, budget: int) -> tuple[int, list[PlainJob]] | None:
        if not self.jobs:
            return None
        length = min(self.jobs, key=lambda job: (job.turn, job.order)).length
        near = [job for job in self.jobs if length * SHORTEST_SHARE <= job.length <= length]
        near.sort(key=lambda job: (-job.length, job.turn, job.order))
        taken = near[: max(1, budget // length)]
        self.jobs = [job for job in self.jobs if job not in taken]
        return length, taken

    def work(self, until: float = float("inf")) -> Work:
        tokens = [row_tokens(job.row) for job in self.jobs if job.turn // TURN_STEP <= until]
        return Work(sum(tokens), len(tokens))

    @property
    def tokens(self) -> int:
        return sum(row_tokens(job.row) * len(job.entries) for job in self.jobs)


@settings(max_examples=300, deadline=None)
@given(STEPS, BUDGETS)
def test_batches_are_those_of_the_plain_rules(taken_steps: list[object], budget: int) -> None:
    loop = asyncio.new_event_loop()
    queue, plain = WindowQueue(BUCKETS), PlainQueue()
    calls: list[Call] = []
    dispatched = 0
    for step in [*taken_steps, *[Take()] * 100]:
        match step:
            case Add():
                rows = [row for of_question in step.questions for row in of_question]
                last_turn, own = queue.added_work(rows, dispatched)
                expected = queue.work.until(last_turn) + own
                calls.append(new_call(step, loop, 0.0))
                queue.add(calls[-1], dispatched)
                plain.add(calls[-1], dispatched)
                assert queue.work.until(last_turn) == expected
                assert last_turn == max(job.turn for job in plain.jobs if job.row in rows)
            case Cancel(number) if number < len(calls):
                calls[number].future.cancel()
                queue.forget(calls[number])
                plain.forget(calls[number])
            case Take():
                taken, wanted = queue.take(0.0, budget), plain.take(budget)
                if wanted is None or taken is None:
                    assert taken is wanted is None
                    continue
                assert taken[0] == wanted[0]
                assert [(job.row, job.entries) for job in taken[1]] == [
                    (job.row, job.entries) for job in wanted[1]
                ]
                dispatched += sum(job.tokens for job in taken[1])
        assert queue.tokens == plain.tokens
        assert queue.work.all == plain.work()
        for until in range(dispatched // TURN_STEP + 3):
            assert queue.work.until(until * TURN_STEP) == plain.work(until)
    assert not plain.jobs
    loop.close()


@settings(max_examples=300, deadline=None)
@given(STEPS_THAT_END_EARLY, BUDGETS)
def test_what_is_wanted_is_taken_once_and_nothing_else(
    taken_steps: list[object], budget: int
) -> None:
    loop = asyncio.new_event_loop()
    queue = WindowQueue(BUCKETS)
    added: list[tuple[Add, Call]] = []
    seen: set[Entry] = set()
    failed: set[tuple[Call, int]] = set()
    question_of: dict[Entry, tuple[Call, int]] = {}
    deadlines: dict[Call, float] = {}
    now = dispatched = 0
    for step in [*taken_steps, *[Take()] * 100]:
        match step:
            case Add():
                call = new_call(step, loop, now)
                queue.add(call, dispatched)
                added.append((step, call))
                deadlines[call] = float("inf") if step.deadline is None else now + step.deadline
                places = [n for n, rows in enumerate(step.questions) for _ in rows]
                question_of |= {(call, w): (call, n) for w, n in enumerate(places)}
            case Cancel(number) if number < len(added):
                added[number][1].future.cancel()
                queue.forget(added[number][1])
            case Take(fails) if (taken := queue.take(now, budget)) is not None:
                entries = [entry for job in taken[1] for entry in job.entries]
                assert all(job.entries for job in taken[1])
                assert not seen.intersection(entries)
                assert len(set(entries)) == len(entries)
                assert not failed.intersection(question_of[entry] for entry in entries)
                for call, _ in entries:
                    assert not call.future.done()
                    assert now < deadlines[call]
                seen.update(entries)
                dispatched += sum(job.tokens for job in taken[1])
                now += 1
                if fails:
                    for call, window in taken[1][0].entries:
                        call.failed(window, EngineFailedError("it failed"))
                        failed.add(question_of[call, window])
    for entry, question in question_of.items():
        call = question[0]
        late = call.future.done() and not call.future.cancelled() and call.future.exception()
        if late:
            assert isinstance(late, DeadlineError)
            assert now >= deadlines[call]
        elif not call.future.cancelled() and question not in failed:
            assert entry in seen
    assert queue.tokens == 0
    assert queue.work.all == Work()
    assert queue.take(now, budget) is None
    loop.close()
