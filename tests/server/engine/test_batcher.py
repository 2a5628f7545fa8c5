"""The batcher's rules, on an engine whose speed the test decides."""

from __future__ import annotations

import asyncio
import itertools
import threading

import numpy as np
import pytest

from electra_qa.server.engine.batcher import SPREAD, Batcher, Outcome, WindowRequest, WindowResult
from electra_qa.server.errors import DeadlineError, EngineFailedError, OverloadedError
from electra_qa.server.observe.metrics import Metrics
from electra_qa.spans import decode
from electra_qa.windows import Window, WindowBatch

from ..conftest import GatedEngine, until

tokens = itertools.count(7)


def window(length: int, token: int | None = None) -> Window:
    """One that no other is the same as, if its token is not given."""
    ids = np.full(length, next(tokens) if token is None else token, dtype=np.int32)
    return Window(ids, 1, length - 1, 1, length - 1, 0)


def request(*lengths: int, token: int | None = None, longest: int = 30) -> WindowRequest:
    return WindowRequest([window(length, token) for length in lengths], longest)


def make(engine: GatedEngine, *, budget: int = 1024, queue: int = 100_000) -> Batcher:
    engine.batch_tokens = budget
    return Batcher(engine, pad_id=0, max_queue_tokens=queue, metrics=Metrics())


async def one(call: asyncio.Future[list[Outcome]]) -> WindowResult:
    """The result of a call of one question that must not fail."""
    (outcome,) = await call
    assert isinstance(outcome, WindowResult)
    return outcome


async def busy(batcher: Batcher, engine: GatedEngine) -> asyncio.Future[list[Outcome]]:
    """Shut the gate with one window behind it, so that what comes next has to wait."""
    engine.open.clear()
    first = batcher.submit([request(16)])
    await until(lambda: engine.batches)
    return first


def shapes(engine: GatedEngine) -> list[tuple[int, ...]]:
    return [batch.input_ids.shape for batch in engine.batches]


async def test_a_free_engine_takes_a_lone_window_at_once(engine: GatedEngine) -> None:
    result = await one(make(engine).submit([request(20)]))
    assert shapes(engine) == [(1, 32)]
    assert result.queue_s >= 0
    assert result.engine_s >= 0


async def test_callers_that_come_together_ride_together(engine: GatedEngine) -> None:
    batcher = make(engine)
    await asyncio.gather(*(batcher.submit([request(20)]) for _ in range(5)))
    assert shapes(engine) == [(5, 32)]


async def test_windows_gather_while_the_engine_is_busy(engine: GatedEngine) -> None:
    batcher = make(engine)
    first = await busy(batcher, engine)
    others = [batcher.submit([request(30)]) for _ in range(4)]
    await asyncio.sleep(0.02)
    assert shapes(engine) == [(1, 16)]
    engine.open.set()
    await asyncio.gather(first, *others)
    assert shapes(engine) == [(1, 16), (4, 32)]


async def test_a_batch_keeps_to_the_token_budget(engine: GatedEngine) -> None:
    batcher = make(engine, budget=128)
    first = await busy(batcher, engine)
    others = [batcher.submit([request(30)]) for _ in range(10)]
    engine.open.set()
    await asyncio.gather(first, *others)
    assert shapes(engine)[1:] == [(4, 32), (4, 32), (2, 32)]


async def test_a_window_over_the_budget_still_runs(engine: GatedEngine) -> None:
    await make(engine, budget=64).submit([request(300)])
    assert shapes(engine) == [(1, 304)]


async def test_the_oldest_window_sets_the_length_and_the_nearest_fill_up(
    engine: GatedEngine,
) -> None:
    batcher = make(engine, budget=480)
    first = await busy(batcher, engine)
    waiting = [batcher.submit([request(n)]) for n in (160, 320, 30, 150, 120, 20)]
    engine.open.set()
    await asyncio.gather(first, *waiting)
    # 160 is the oldest; 150 and 120 are near enough, 320 is longer, 30 and 20 are too short.
    assert shapes(engine)[1:] == [(3, 160), (1, 320), (2, 32)]


async def test_no_window_waits_forever_behind_a_stream_of_others(engine: GatedEngine) -> None:
    batcher = make(engine, budget=64)
    first = await busy(batcher, engine)
    lonely = batcher.submit([request(300)])
    crowd = [batcher.submit([request(30)]) for _ in range(20)]
    engine.open.set()
    await asyncio.gather(first, lonely, *crowd)
    assert shapes(engine)[1] == (1, 304)


async def test_each_caller_gets_its_own_windows_back(engine: GatedEngine) -> None:
    batcher = make(engine, budget=256)
    rng = np.random.default_rng(0)
    requests = [request(*rng.integers(8, 120, 3).tolist(), token=10 + n) for n in range(12)]
    results = await batcher.submit(requests)
    for asked, result in zip(requests, results, strict=True):
        assert isinstance(result, WindowResult)
        for its, decoded in zip(asked.windows, result.decoded, strict=True):
            alone = WindowBatch.pad([its], [30], length=its.length, pad_id=0)
            logits = alone.input_ids.astype(np.float32) / 30522
            expected = decode(logits, logits, alone.bounds, 64)
            np.testing.assert_array_equal(decoded.spans, expected.spans[0])
            np.testing.assert_array_equal(decoded.span_logits, expected.span_logits[0])


async def test_a_cancelled_question_costs_no_engine_time(engine: GatedEngine) -> None:
    batcher = make(engine)
    first = await busy(batcher, engine)
    gone = batcher.submit([request(30, 30, 30)])
    stays = batcher.submit([request(30)])
    gone.cancel()
    await asyncio.sleep(0)
    assert batcher.queued_tokens == 30
    engine.open.set()
    await asyncio.gather(first, stays)
    assert shapes(engine) == [(1, 16), (1, 32)]


async def test_an_expired_question_fails_and_costs_no_engine_time(engine: GatedEngine) -> None:
    batcher = make(engine)
    first = await busy(batcher, engine)
    now = asyncio.get_running_loop().time()
    late = batcher.submit([request(30)], now + 0.01)
    patient = batcher.submit([request(30)], now + 60)
    await asyncio.sleep(0.05)
    engine.open.set()
    await asyncio.gather(first, patient)
    with pytest.raises(DeadlineError):
        await late
    assert shapes(engine) == [(1, 16), (1, 32)]


async def test_a_full_queue_refuses_all_or_nothing(engine: GatedEngine) -> None:
    batcher = make(engine, queue=100)
    first = await busy(batcher, engine)
    accepted = batcher.submit([request(60), request(60)])
    assert batcher.queued_tokens == 120
    with pytest.raises(OverloadedError, match="max_queue_tokens is 100"):
        batcher.submit([request(10)])
    engine.open.set()
    await asyncio.gather(first, accepted)
    assert batcher.queued_tokens == 0
    await one(batcher.submit([request(10)]))


async def test_an_engine_failure_fails_its_batch_only(engine: GatedEngine) -> None:
    batcher = make(engine)
    engine.failing_lengths = {32}
    failed, answered = await batcher.submit([request(20), request(300)])
    assert isinstance(failed, EngineFailedError)
    assert str(failed) == "the engine failed"
    assert isinstance(answered, WindowResult)


async def test_a_question_that_failed_takes_its_other_windows_along(engine: GatedEngine) -> None:
    batcher = make(engine, budget=32)
    engine.failing_lengths = {32}
    (failed,) = await batcher.submit([request(20, 300, 300)])
    assert isinstance(failed, EngineFailedError)
    await one(batcher.submit([request(16)]))
    assert shapes(engine) == [(1, 32), (1, 16)]
    assert batcher.queued_tokens == 0


async def test_every_slot_of_the_engine_is_used() -> None:
    engine = GatedEngine(slots=2)
    batcher = make(engine, budget=32)
    call = batcher.submit([request(30), request(30), request(30)])
    await until(lambda: len(engine.batches) == 2)
    await asyncio.sleep(0.02)
    assert len(engine.batches) == 2
    engine.open.set()
    await call
    assert len(engine.batches) == 3


async def test_whoever_comes_while_a_long_document_is_served_passes_its_later_windows(
    engine: GatedEngine,
) -> None:
    engine.turns = threading.Semaphore(0)
    batcher = make(engine, budget=96)
    long_document = batcher.submit([request(*[90] * 12)])
    engine.turns.release(3)
    await until(lambda: len(engine.batches) == 4)
    others = [batcher.submit([request(40)]) for _ in range(2)]
    engine.turns.release(100)
    await asyncio.gather(long_document, *others)
    # The fourth of its windows was with the engine already; the others came next, together.
    assert shapes(engine) == [(1, 96)] * 4 + [(2, 48)] + [(1, 96)] * 8


async def test_a_long_document_has_its_share_in_a_crowd(engine: GatedEngine) -> None:
    """At least one of SPREAD tokens is its own, although newcomers wait at any time."""
    engine.turns = threading.Semaphore(0)
    batcher = make(engine, budget=96)
    count = 10
    long_document = batcher.submit([request(*[90] * count)])
    crowd = []
    for served in range(1, 6 * count):
        crowd.append(batcher.submit([request(45, 45)]))
        await until(lambda served=served: len(engine.batches) == served)
        engine.turns.release()
    engine.turns.release(1000)
    await asyncio.gather(long_document, *crowd)
    order = [length for _, length in shapes(engine)]
    last = max(place for place, length in enumerate(order) if length == 96)
    assert (last + 1) / count == pytest.approx(SPREAD, abs=0.5)


async def test_what_cannot_be_done_by_its_deadline_is_refused_at_once(engine: GatedEngine) -> None:
    batcher = make(engine)
    first = await busy(batcher, engine)
    await asyncio.sleep(0.2)
    engine.open.set()
    await first  # 16 tokens in at least 0.2 s: at most 80 tokens a second
    now = asyncio.get_running_loop().time()
    with pytest.raises(DeadlineError, match="the deadline can't be met: it is in"):
        batcher.submit([request(*[16] * 20)], now + 1)
    assert batcher.queued_tokens == 0
    await one(batcher.submit([request(*[16] * 20)], now + 1000))
    await one(batcher.submit([request(*[16] * 20)]))


async def test_short_windows_do_not_say_that_long_ones_are_slow(engine: GatedEngine) -> None:
    """What an engine takes for a window, however short it is, is no cost of its tokens."""
    batcher = make(engine)
    now = asyncio.get_running_loop().time
    began = now()
    first = await busy(batcher, engine)
    await asyncio.sleep(0.2)
    engine.open.set()
    await first
    held = now() - began  # by 16 tokens: 500 would take 31 times as long
    await one(batcher.submit([request(500)], now() + 15 * held))


async def test_a_refused_call_is_told_when_the_queue_will_be_shorter(engine: GatedEngine) -> None:
    batcher = make(engine, budget=64)
    first = await busy(batcher, engine)
    await asyncio.sleep(0.2)
    engine.open.set()
    await first
    engine.open.clear()
    waiting = [batcher.submit([request(16)]) for _ in range(60)]
    await asyncio.sleep(0)
    now = asyncio.get_running_loop().time()
    with pytest.raises(OverloadedError) as caught:
        batcher.submit([request(16)], now + 5)
    assert caught.value.retry_delay_s is not None
    assert caught.value.retry_delay_s > 5  # 976 tokens at 80 a second at most
    engine.open.set()
    await asyncio.gather(*waiting)


async def test_everything_is_counted(engine: GatedEngine) -> None:
    batcher = make(engine, budget=160)
    metrics = batcher._metrics
    value = metrics.registry.get_sample_value
    first = await busy(batcher, engine)
    calls = [batcher.submit([request(30)]) for _ in range(7)]
    assert value("electra_qa_queue_tokens") == 210
    engine.open.set()
    await asyncio.gather(first, *calls)
    assert value("electra_qa_queue_tokens") == 0
    assert value("electra_qa_windows_total") == 8
    assert value("electra_qa_batches_total", {"length": "32"}) == 2
    assert value("electra_qa_batch_windows_sum") == 8
    assert value("electra_qa_window_tokens_total") == 16 + 7 * 30
    assert value("electra_qa_computed_tokens_total") == 16 + 7 * 32
    assert value("electra_qa_queue_seconds_count") == 8
    assert value("electra_qa_engine_seconds_count") == 3
    busy_s = value("electra_qa_engine_busy_seconds_total")
    assert busy_s is not None
    assert 0 < busy_s <= (value("electra_qa_engine_seconds_sum") or 0)


async def test_a_deadline_between_choosing_and_taking_leaves_no_empty_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = GatedEngine()
    batcher = make(engine)
    first = await busy(batcher, engine)
    loop = asyncio.get_running_loop()
    now = loop.time()
    late = batcher.submit([request(32)], deadline=now + 1000)
    # The first look at the clock is before the deadline, the next one behind it.
    times = iter([now])
    monkeypatch.setattr(loop, "time", lambda: next(times, now + 2000))
    batcher._free_slots = 1
    batcher._dispatch()
    monkeypatch.undo()
    engine.open.set()
    await asyncio.gather(first, late, return_exceptions=True)
    await until(lambda: batcher._free_slots >= engine.slots)
    batcher.close()
    assert all(len(batch.input_ids) for batch in engine.batches)
    assert engine.batches[1:], "it was not dispatched at all"
