"""The batcher's rules, on an engine whose speed the test decides."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from electra_qa.server.batcher import Batcher, WindowRequest
from electra_qa.server.errors import DeadlineError, EngineFailedError, OverloadedError
from electra_qa.spans import decode
from electra_qa.windows import Window, WindowBatch

from .conftest import GatedEngine


def window(length: int, token: int = 7) -> Window:
    ids = np.full(length, token, dtype=np.int32)
    return Window(ids, 1, length - 1, 1, length - 1, 0)


def request(*lengths: int, token: int = 7, deadline: float | None = None) -> WindowRequest:
    return WindowRequest([window(length, token) for length in lengths], 30, deadline)


def make(engine: GatedEngine, *, budget: int = 1024, queue: int = 100_000) -> Batcher:
    return Batcher(engine, pad_id=0, max_batch_tokens=budget, max_queue_tokens=queue)


async def until(condition: object) -> None:
    for _ in range(2000):
        if condition():  # type: ignore[operator]
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came to that")


async def busy(batcher: Batcher, engine: GatedEngine) -> asyncio.Future:
    """Shut the gate with one window behind it, so that what comes next has to wait."""
    engine.open.clear()
    (first,) = batcher.submit([request(16)])
    await until(lambda: engine.batches)
    return first


def shapes(engine: GatedEngine) -> list[tuple[int, ...]]:
    return [batch.input_ids.shape for batch in engine.batches]


async def test_a_free_engine_takes_a_lone_window_at_once(engine: GatedEngine) -> None:
    (future,) = make(engine).submit([request(20)])
    result = await future
    assert shapes(engine) == [(1, 32)]
    assert result.queue_s >= 0
    assert result.engine_s >= 0


async def test_callers_that_come_together_ride_together(engine: GatedEngine) -> None:
    batcher = make(engine)
    await asyncio.gather(*(batcher.submit([request(20)])[0] for _ in range(5)))
    assert shapes(engine) == [(5, 32)]


async def test_windows_gather_while_the_engine_is_busy(engine: GatedEngine) -> None:
    batcher = make(engine)
    first = await busy(batcher, engine)
    others = [batcher.submit([request(30)])[0] for _ in range(4)]
    await asyncio.sleep(0.02)
    assert shapes(engine) == [(1, 16)]
    engine.open.set()
    await asyncio.gather(first, *others)
    assert shapes(engine) == [(1, 16), (4, 32)]


async def test_a_batch_keeps_to_the_token_budget(engine: GatedEngine) -> None:
    batcher = make(engine, budget=128)
    first = await busy(batcher, engine)
    others = [batcher.submit([request(30)])[0] for _ in range(10)]
    engine.open.set()
    await asyncio.gather(first, *others)
    assert shapes(engine)[1:] == [(4, 32), (4, 32), (2, 32)]


async def test_a_window_over_the_budget_still_runs(engine: GatedEngine) -> None:
    (future,) = make(engine, budget=64).submit([request(300)])
    await future
    assert shapes(engine) == [(1, 304)]


async def test_the_oldest_window_sets_the_length_and_the_nearest_fill_up(
    engine: GatedEngine,
) -> None:
    batcher = make(engine, budget=480)
    first = await busy(batcher, engine)
    waiting = [batcher.submit([request(n)])[0] for n in (160, 320, 30, 150, 120, 20)]
    engine.open.set()
    await asyncio.gather(first, *waiting)
    # 160 is the oldest; 150 and 120 are near enough, 320 is longer, 30 and 20 are too short.
    assert shapes(engine)[1:] == [(3, 160), (1, 320), (2, 32)]


async def test_no_window_waits_forever_behind_a_stream_of_others(engine: GatedEngine) -> None:
    batcher = make(engine, budget=64)
    first = await busy(batcher, engine)
    (lonely,) = batcher.submit([request(300)])
    crowd = [batcher.submit([request(30)])[0] for _ in range(20)]
    engine.open.set()
    await asyncio.gather(first, lonely, *crowd)
    assert shapes(engine)[1] == (1, 304)


async def test_each_caller_gets_its_own_windows_back(engine: GatedEngine) -> None:
    batcher = make(engine, budget=256)
    rng = np.random.default_rng(0)
    requests = [request(*rng.integers(8, 120, 3).tolist(), token=10 + n) for n in range(12)]
    results = await asyncio.gather(*batcher.submit(requests))
    for asked, result in zip(requests, results, strict=True):
        for one, decoded in zip(asked.windows, result.decoded, strict=True):
            alone = WindowBatch.pad([one], [30], length=one.length, pad_id=0)
            logits = alone.input_ids.astype(np.float32) / 30522
            expected = decode(logits, logits, alone.bounds, 64)
            np.testing.assert_array_equal(decoded.spans, expected.spans[0])
            np.testing.assert_array_equal(decoded.span_logits, expected.span_logits[0])


async def test_a_cancelled_question_costs_no_engine_time(engine: GatedEngine) -> None:
    batcher = make(engine)
    first = await busy(batcher, engine)
    (gone,) = batcher.submit([request(30, 30, 30)])
    (stays,) = batcher.submit([request(30)])
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
    (late,) = batcher.submit([request(30, deadline=now + 0.01)])
    (patient,) = batcher.submit([request(30, deadline=now + 60)])
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
    await asyncio.gather(first, *accepted)
    assert batcher.queued_tokens == 0
    await batcher.submit([request(10)])[0]


async def test_an_engine_failure_fails_its_batch_only(engine: GatedEngine) -> None:
    batcher = make(engine)
    engine.fails = True
    (first,) = batcher.submit([request(20)])
    with pytest.raises(EngineFailedError, match=r"^the engine failed$"):
        await first
    engine.fails = False
    await batcher.submit([request(20)])[0]


async def test_every_slot_of_the_engine_is_used() -> None:
    engine = GatedEngine(slots=2)
    batcher = make(engine, budget=32)
    futures = batcher.submit([request(30), request(30), request(30)])
    await until(lambda: len(engine.batches) == 2)
    await asyncio.sleep(0.02)
    assert len(engine.batches) == 2
    engine.open.set()
    await asyncio.gather(*futures)
    assert len(engine.batches) == 3
