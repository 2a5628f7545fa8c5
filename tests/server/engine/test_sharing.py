"""Windows that are the same and wait at the same time: computed once, and everybody's own."""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from electra_qa.server.engine.batcher import Batcher, Outcome, WindowRequest, WindowResult
from electra_qa.server.engine.rate import Work
from electra_qa.server.errors import DeadlineError, EngineFailedError
from electra_qa.spans import DecodedWindow, decode
from electra_qa.windows import Window, WindowBatch

from ..conftest import GatedEngine, until
from .test_batcher import busy, make, one, request, shapes


def value(batcher: Batcher, name: str) -> float:
    return batcher._metrics.registry.get_sample_value(f"electra_qa_{name}") or 0.0


async def test_the_same_windows_are_computed_once(engine: GatedEngine) -> None:
    batcher = make(engine)
    first = await busy(batcher, engine)
    same = [batcher.submit([request(30, 40, token=5)]) for _ in range(4)]
    assert batcher.queued_tokens == 4 * 70
    engine.open.set()
    results = [await one(call) for call in same]
    await first
    assert shapes(engine) == [(1, 16), (1, 32), (1, 48)]
    for result in results:
        assert [len(decoded.logits) for decoded in result.decoded] == [32, 48]
    assert value(batcher, "windows_total") == 3
    assert value(batcher, "shared_windows_total") == 6
    assert value(batcher, "queue_seconds_count") == 5
    assert batcher.queued_tokens == 0
    # Nothing is kept: what comes later is computed again.
    await one(batcher.submit([request(30, token=5)]))
    assert len(engine.batches) == 4


async def test_the_same_window_within_a_call_is_computed_once(engine: GatedEngine) -> None:
    batcher = make(engine)
    same = request(30, token=5)
    outcomes = await batcher.submit([same, request(30, token=6), same, request(30, 30, token=5)])
    assert shapes(engine) == [(2, 32)]
    assert [len(o.decoded) for o in outcomes if isinstance(o, WindowResult)] == [1, 1, 1, 2]


@pytest.mark.parametrize("field", ["context_start", "context_end", "start_first", "start_end"])
async def test_other_bounds_are_another_window(engine: GatedEngine, field: str) -> None:
    batcher = make(engine)
    (window,) = request(30, token=5).windows
    other = dataclasses.replace(window, **{field: getattr(window, field) - 1})
    await batcher.submit([WindowRequest([window], 30), WindowRequest([other], 30)])
    assert shapes(engine) == [(2, 32)]


async def test_another_longest_answer_is_another_window(engine: GatedEngine) -> None:
    batcher = make(engine)
    await batcher.submit([request(30, token=5), request(30, token=5, longest=7)])
    assert shapes(engine) == [(2, 32)]


async def test_the_place_in_the_text_makes_no_difference(engine: GatedEngine) -> None:
    batcher = make(engine)
    (window,) = request(30, token=5).windows
    later = dataclasses.replace(window, offset=128)
    await batcher.submit([WindowRequest([window, later], 30)])
    assert shapes(engine) == [(1, 32)]


@pytest.mark.parametrize("gone", [0, 1, 2])
async def test_who_goes_takes_nothing_from_the_others(engine: GatedEngine, gone: int) -> None:
    batcher = make(engine)
    first = await busy(batcher, engine)
    same = [batcher.submit([request(30, token=5)]) for _ in range(3)]
    same.pop(gone).cancel()
    await asyncio.sleep(0)
    assert batcher.queued_tokens == 60
    engine.open.set()
    for call in same:
        await one(call)
    await first
    assert shapes(engine) == [(1, 16), (1, 32)]


async def test_when_all_go_it_costs_no_engine_time(engine: GatedEngine) -> None:
    batcher = make(engine)
    first = await busy(batcher, engine)
    for call in [batcher.submit([request(30, token=5)]) for _ in range(3)]:
        call.cancel()
    await asyncio.sleep(0)
    assert batcher.queued_tokens == 0
    # Who comes then waits for one of its own.
    stays = batcher.submit([request(30, token=5)])
    engine.open.set()
    await asyncio.gather(first, stays)
    assert shapes(engine) == [(1, 16), (1, 32)]
    assert value(batcher, "windows_total") == 2


async def test_whoever_goes_while_it_is_computed_takes_nothing(engine: GatedEngine) -> None:
    batcher = make(engine)
    engine.open.clear()
    same = [batcher.submit([request(30, token=5)]) for _ in range(3)]
    await until(lambda: engine.batches)
    same[0].cancel()
    engine.open.set()
    await one(same[1])
    await one(same[2])


async def test_a_deadline_is_of_one_caller(engine: GatedEngine) -> None:
    batcher = make(engine)
    first = await busy(batcher, engine)
    now = asyncio.get_running_loop().time()
    deadlines = (now + 0.01, None, now + 0.01, now + 60)
    same = [batcher.submit([request(30, token=5)], deadline) for deadline in deadlines]
    await asyncio.sleep(0.05)
    engine.open.set()
    outcomes = await asyncio.gather(*same, return_exceptions=True)
    await first
    assert [isinstance(outcome, DeadlineError) for outcome in outcomes] == [True, False] * 2
    assert shapes(engine) == [(1, 16), (1, 32)]


async def test_a_failure_is_of_all_who_shared(engine: GatedEngine) -> None:
    batcher = make(engine)
    engine.failing_lengths = {32}
    same = [batcher.submit([request(30, token=5)]) for _ in range(3)]
    for (outcome,) in await asyncio.gather(*same):
        assert isinstance(outcome, EngineFailedError)
    engine.failing_lengths = set()
    await one(batcher.submit([request(30, token=5)]))


async def test_it_is_computed_when_the_earliest_turn_comes(engine: GatedEngine) -> None:
    """The last window of a document has a late turn; whoever asks the same alone does not wait for
    it, and the document has it then, too."""
    batcher = make(engine, budget=48)
    first = await busy(batcher, engine)
    windows = [request(40, token=100 + n).windows[0] for n in range(6)]
    document = batcher.submit([WindowRequest(windows, 30)])
    alone = batcher.submit([WindowRequest([windows[-1]], 30)])
    engine.open.set()
    await asyncio.gather(first, document, alone)
    order = [int(batch.input_ids[0, 0]) for batch in engine.batches[1:]]
    assert order == [100, 105, 101, 102, 103, 104]


async def test_a_deadline_is_met_along_with_the_others(engine: GatedEngine) -> None:
    """What a crowd asks in common is one window of work, and in time for all."""
    batcher = make(engine)
    first = await busy(batcher, engine)
    await asyncio.sleep(0.2)
    engine.open.set()
    await first  # 16 tokens in at least 0.2 s
    first = await busy(batcher, engine)
    deadline = asyncio.get_running_loop().time() + 60
    crowd = [batcher.submit([request(16, token=5)], deadline) for _ in range(1000)]
    with pytest.raises(DeadlineError, match="the deadline can't be met"):
        batcher.submit([request(*[16] * 1000)], deadline)
    engine.open.set()
    await asyncio.gather(first, *crowd)


async def test_the_bound_of_the_queue_counts_each(engine: GatedEngine) -> None:
    batcher = make(engine, queue=100)
    first = await busy(batcher, engine)
    crowd = [batcher.submit([request(30, token=5)]) for _ in range(4)]
    assert batcher.queued_tokens == 120
    with pytest.raises(Exception, match="120 tokens wait"):
        batcher.submit([request(30, token=5)])
    engine.open.set()
    await asyncio.gather(first, *crowd)


@dataclass(frozen=True)
class Asked:
    """A call: the numbers of its windows, question by question; whether it is cancelled."""

    questions: list[list[int]]
    longest: int
    cancelled: bool


# Few windows, so that many are the same: by number, their lengths and tokens.
POOL = [(length, token) for length in (9, 20, 33, 34) for token in (5, 6)]
NUMBERS = st.lists(st.integers(0, len(POOL) - 1), min_size=1, max_size=4)
CALLS = st.lists(
    st.builds(
        Asked,
        st.lists(NUMBERS, min_size=1, max_size=3),
        st.sampled_from([3, 30]),
        st.booleans(),
    ),
    max_size=8,
)


def made(number: int) -> Window:
    length, token = POOL[number]
    ids = np.arange(token, token + length, dtype=np.int32)[::-1].copy()
    return Window(ids, 1, length - 1, 1, length - 1, 0)


def expected(number: int, longest: int) -> DecodedWindow:
    """Without a batcher."""
    window = made(number)
    alone = WindowBatch.pad([window], [longest], length=window.length, pad_id=0)
    logits = alone.input_ids.astype(np.float32) / 30522
    decoded = decode(logits, logits, alone.bounds, 64)
    return DecodedWindow(*(getattr(decoded, f.name)[0] for f in dataclasses.fields(decoded)))


def same(got: DecodedWindow, wanted: DecodedWindow) -> bool:
    """Beside the padding."""
    length = len(wanted.logits)
    return all(
        np.array_equal(getattr(got, f.name)[:length], getattr(wanted, f.name))
        if f.name == "logits"
        else np.array_equal(getattr(got, f.name), getattr(wanted, f.name))
        for f in dataclasses.fields(got)
    )


@dataclass
class Ran:
    """What came of some calls that waited at the same time."""

    outcomes: list[list[Outcome] | BaseException] = field(default_factory=list)
    computed: int = 0
    shared: float = 0


async def ran(calls: list[Asked], budget: int) -> Ran:
    engine = GatedEngine()
    batcher = make(engine, budget=budget)
    first = await busy(batcher, engine)
    futures = []
    for call in calls:
        requests = [WindowRequest([made(n) for n in q], call.longest) for q in call.questions]
        futures.append(batcher.submit(requests))
    for call, future in zip(calls, futures, strict=True):
        if call.cancelled:
            future.cancel()
    await asyncio.sleep(0)
    engine.open.set()
    outcomes = await asyncio.gather(*futures, return_exceptions=True)
    await first
    batcher.close()
    assert not batcher._queue._jobs
    assert not batcher._queue.work._steps
    assert batcher._queue.work.all == Work()
    assert batcher.queued_tokens == 0
    computed = sum(len(batch.input_ids) for batch in engine.batches) - 1
    return Ran(list(outcomes), computed, value(batcher, "shared_windows_total"))


@settings(max_examples=150, deadline=None)
@given(CALLS, st.sampled_from([16, 64, 4096]))
def test_everybody_has_what_it_would_have_alone(calls: list[Asked], budget: int) -> None:
    found = asyncio.run(ran(calls, budget))
    asked, wanted = 0, set()
    for call, outcomes in zip(calls, found.outcomes, strict=True):
        if call.cancelled:
            assert isinstance(outcomes, asyncio.CancelledError)
            continue
        asked += sum(map(len, call.questions))
        assert isinstance(outcomes, list)
        for numbers, outcome in zip(call.questions, outcomes, strict=True):
            assert isinstance(outcome, WindowResult)
            for number, decoded in zip(numbers, outcome.decoded, strict=True):
                wanted.add((number, call.longest))
                assert same(decoded, expected(number, call.longest))
    assert found.computed == len(wanted)
    assert found.shared == asked - len(wanted)
