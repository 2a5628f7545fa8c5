"""The simulation of docs/scale.md, against closed forms and the batcher that it stands for."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_qa.benchmarks.load import poisson
from electra_qa.benchmarks.scale.arrivals import ARRIVALS
from electra_qa.benchmarks.scale.batching import Batcher, Call
from electra_qa.benchmarks.scale.clock import Clock, Station
from electra_qa.benchmarks.scale.costs import DEFAULT, read_costs, write_costs
from electra_qa.benchmarks.scale.routing import ROUTERS
from electra_qa.benchmarks.scale.simulation import Outcome, capacity, simulate
from electra_qa.benchmarks.scale.site import EngineTimes, Site
from electra_qa.engines import steps
from electra_qa.server.engine.batcher import Batcher as RealBatcher
from electra_qa.server.engine.batcher import WindowRequest
from electra_qa.server.observe.metrics import Metrics
from electra_qa.spans import DecodedWindows, decode
from electra_qa.windows import Window, WindowBatch

CALLS = 40_000
# One window a run, a millisecond for each 100 tokens: a queue before a server, and nothing else.
ONE_BY_ONE = Site(EngineTimes(window_s=0.0, token_s=1e-5, batch_tokens=1), front_s=0.0)
# Like a CPU: 10 ms for a window of 128 tokens.
LIKE_A_CPU = Site(
    EngineTimes(0.0, 7.5e-5, run_s=4e-4, host_window_s=2e-5, host_batch_s=5e-5, batch_tokens=512),
    front_s=5e-4,
    deadline_s=1.0,
)


def at_load(
    site: Site, load: float, calls: Sequence[Sequence[int]], kind: str = "poisson", seed: int = 0
) -> Outcome:
    """load: as a multiple of what one replica can do, for each."""
    rate = load * site.replicas * capacity(replace(site, replicas=1), calls[:2000])
    arrivals = ARRIVALS[kind](rate, len(calls) / rate, np.random.default_rng(seed))
    arrivals = arrivals[: len(calls)]
    return simulate(site, arrivals, calls[: len(arrivals)], seed)


def questions(count: int, seed: int = 0) -> list[tuple[int, ...]]:
    draw = random.Random(seed)
    return [
        (draw.choice((96, 128, 144, 176, 240)),) if draw.random() < 0.95 else (384, 240)
        for _ in range(count)
    ]


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_one_server_of_one_speed_waits_as_long_as_the_closed_form_says(load: float) -> None:
    """M/D/1: the mean wait is ρ s / 2 (1 − ρ), by Pollaczek and Khinchine."""
    service_s = 1e-3
    arrivals = poisson(load / service_s, CALLS * service_s / load, np.random.default_rng(1))
    outcome = simulate(ONE_BY_ONE, arrivals, [(100,)] * len(arrivals))
    expected = service_s * (1 + load / (2 * (1 - load)))
    assert np.mean(outcome.latencies) == pytest.approx(expected, rel=0.04)
    assert outcome.busy["device"] == pytest.approx(load, rel=0.02)


def test_exponential_lengths_wait_as_long_as_the_closed_form_says() -> None:
    """M/M/1: latencies are exponential, of mean s / (1 − ρ)."""
    rng = np.random.default_rng(2)
    load, mean_tokens = 0.6, 1000
    rate = load / (mean_tokens * 1e-5)
    arrivals = poisson(rate, CALLS / rate, rng)
    lengths = np.maximum(1, np.rint(rng.exponential(mean_tokens, len(arrivals)))).astype(int)
    outcome = simulate(ONE_BY_ONE, arrivals, [(length,) for length in lengths.tolist()])
    mean = mean_tokens * 1e-5 / (1 - load)
    assert np.mean(outcome.latencies) == pytest.approx(mean, rel=0.05)
    assert outcome.percentile(99) == pytest.approx(mean * np.log(100), rel=0.08)


@given(
    st.lists(st.tuples(st.floats(0, 0.1), st.integers(1, 40)), min_size=1, max_size=40),
    st.sampled_from([1, 100, 10_000]),
)
def test_a_device_never_rests_while_something_waits(
    calls: list[tuple[float, int]], batch_tokens: int
) -> None:
    """Then it ends with the last of what came after some moment, all of it without a pause."""
    calls.sort()
    site = replace(ONE_BY_ONE, engine=replace(ONE_BY_ONE.engine, batch_tokens=batch_tokens))
    arrivals, lengths = zip(*calls, strict=True)
    # All of one length: so that there is no padding.
    outcome = simulate(site, arrivals, [(100,) * count for count in lengths])
    seconds = [1e-3 * count for count in lengths]
    ends = [came + sum(seconds[place:]) for place, came in enumerate(arrivals)]
    assert outcome.seconds == pytest.approx(max(ends))
    assert not outcome.refused + outcome.late


@dataclass
class Recording:
    """An engine that writes down its batches, and a gate that holds it until all calls are in."""

    batch_tokens: int
    slots: int = 1
    device: str = "a test"
    buckets: tuple[int, ...] = steps(16, 512)
    open: threading.Event = field(default_factory=threading.Event)
    batches: list[tuple[int, int]] = field(default_factory=list)

    def run(self, batch: WindowBatch) -> DecodedWindows:
        assert self.open.wait(30)
        count, length = batch.input_ids.shape
        self.batches.append((length, count))
        logits = np.zeros(batch.input_ids.shape, np.float32)
        return decode(logits, logits, batch.bounds, 1)

    def close(self) -> None:
        pass


def real_batches(calls: Sequence[Sequence[int]], batch_tokens: int) -> list[tuple[int, int]]:
    engine = Recording(batch_tokens)
    numbers = iter(range(10**6))

    def window(length: int) -> Window:
        ids = np.full(length, next(numbers), np.int32)  # none is the same as another
        return Window(ids, 1, length - 1, 1, length - 1, 0)

    async def run() -> None:
        batcher = RealBatcher(engine, pad_id=0, max_queue_tokens=2**40, metrics=Metrics())
        ends = [batcher.submit([WindowRequest([window(n) for n in call], 30)]) for call in calls]
        engine.open.set()
        await asyncio.gather(*ends)
        batcher.close()

    asyncio.run(run())
    return engine.batches


def simulated_batches(calls: Sequence[Sequence[int]], batch_tokens: int) -> list[tuple[int, int]]:
    clock = Clock()
    times = EngineTimes(window_s=1.0, token_s=0.0, batch_tokens=batch_tokens)
    batcher = Batcher(clock, Station(clock), times, 2**40)
    started: list[tuple[int, int]] = []
    choose = batcher._choose

    def recorded() -> Any:
        chosen = choose()
        if chosen is not None:
            started.append((chosen[0], len(chosen[1])))
        return chosen

    batcher._choose = recorded  # type: ignore[method-assign]
    for lengths in calls:
        batcher.submit(Call(lengths, float("inf"), lambda _: None))
    clock.run()
    return started


@given(
    st.lists(
        st.lists(st.integers(1, 24).map(lambda n: 16 * n), min_size=1, max_size=5),
        min_size=1,
        max_size=25,
    ),
    st.sampled_from([256, 1024, 4096]),
)
def test_batches_are_those_of_the_servers_batcher(calls: list[list[int]], tokens: int) -> None:
    assert simulated_batches(calls, tokens) == real_batches(calls, tokens)


def test_more_load_is_more_waiting() -> None:
    calls = questions(10_000)
    p99 = [at_load(LIKE_A_CPU, load, calls).percentile(99) for load in (0.3, 0.5, 0.7, 0.85)]
    assert p99 == sorted(p99)
    assert p99[-1] > 2 * p99[0]


@pytest.mark.parametrize("kind", ARRIVALS)
@pytest.mark.parametrize("load", [0.8, 1.2, 3.0])
def test_no_more_is_answered_in_time_than_can_be(load: float, kind: str) -> None:
    site = replace(LIKE_A_CPU, replicas=2)
    # All alike: or else more are answered where the long ones are refused.
    calls = [(128,)] * 8_000
    outcome = at_load(site, load, calls, kind)
    answered = int(np.sum(~np.isnan(outcome.latencies)))
    highest = 2 * capacity(LIKE_A_CPU, calls)
    assert answered / outcome.seconds <= 1.01 * highest
    assert answered + outcome.refused + outcome.late == len(outcome.latencies)
    assert max(outcome.busy.values()) <= 1
    if load == 3.0:  # refusing keeps what is accepted in time
        assert outcome.refused > 0
        assert outcome.late < 0.02 * answered
        assert answered / outcome.seconds > 0.85 * highest


def test_a_seed_says_all() -> None:
    site = replace(LIKE_A_CPU, replicas=4)
    calls = questions(3_000)
    first, again, other = (at_load(site, 0.9, calls, "bursts", seed) for seed in (5, 5, 6))
    assert first.latencies.tobytes() == again.latencies.tobytes()
    assert first.latencies.tobytes() != other.latencies.tobytes()


def test_a_router_that_knows_more_waits_less() -> None:
    calls = questions(12_000)
    sites = {name: replace(LIKE_A_CPU, replicas=8, router=name) for name in ROUTERS}
    p99 = {name: at_load(site, 0.85, calls).percentile(99) for name, site in sites.items()}
    assert p99["least"] <= p99["two choices"] < p99["random"]
    assert p99["round robin"] < p99["random"]


@pytest.mark.parametrize("router", ROUTERS)
def test_routers_choose_what_is_there(router: str) -> None:
    route = ROUTERS[router](random.Random(0))
    assert {route([3, 3, 3]) for _ in range(200)} == {0, 1, 2}
    assert {route([7]) for _ in range(3)} == {0}


def test_each_wall_stands_where_its_service_time_says() -> None:
    calls = [(128,)] * 10_000
    fast = Site(
        EngineTimes(0.0, 1e-7, host_window_s=2.5e-5, batch_tokens=16_384, slots=2), front_s=5e-4
    )
    assert capacity(fast, calls) == pytest.approx(1 / 5.25e-4, rel=0.02)
    assert capacity(replace(fast, fronts=2), calls) == pytest.approx(2 / 5e-4, rel=0.02)
    assert capacity(replace(fast, fronts=8), calls) == pytest.approx(8 / 5e-4, rel=0.02)
    assert capacity(replace(fast, fronts=40), calls) == pytest.approx(1 / 2.5e-5, rel=0.1)
    behind = replace(fast, replicas=8, proxies=1, proxy_s=2.5e-3)
    assert capacity(behind, calls) == pytest.approx(1 / 2.5e-3, rel=0.02)
    assert capacity(replace(behind, proxies=3), calls) == pytest.approx(3 / 2.5e-3, rel=0.02)


def test_what_is_too_late_costs_the_device_nothing() -> None:
    """Calls that expire where they wait are dropped: nothing was known yet to refuse them by."""
    site = replace(ONE_BY_ONE, deadline_s=0.0105)
    outcome = simulate(site, [0.0] * 100, [(100,)] * 100)
    assert int(np.sum(~np.isnan(outcome.latencies))) == 10
    assert outcome.late == 1  # it was with the device when its deadline came
    assert outcome.refused == 89
    assert outcome.seconds == pytest.approx(0.011)


def test_a_full_queue_refuses() -> None:
    site = replace(ONE_BY_ONE, max_queue_tokens=1_000)
    outcome = simulate(site, [0.0] * 100, [(100,)] * 100)
    assert outcome.refused == 89  # one is with the device, ten wait


@pytest.mark.parametrize("kind", ARRIVALS)
def test_arrivals_rise_and_are_as_many_as_asked(kind: str) -> None:
    arrivals = ARRIVALS[kind](200.0, 100.0, np.random.default_rng(3))
    assert len(arrivals) == pytest.approx(20_000, rel=0.03)
    assert (np.diff(arrivals) >= 0).all()
    assert arrivals[0] >= 0
    assert arrivals[-1] < 100
    variance = np.var(np.histogram(arrivals, 400, (0, 100))[0]) / 50
    assert variance > 5 if kind == "bursts" else variance == pytest.approx(1, abs=0.3)


def test_costs_come_back_as_they_were_written(tmp_path: Any) -> None:
    costs = read_costs(DEFAULT)
    write_costs(costs, tmp_path / "costs.json")
    assert read_costs(tmp_path / "costs.json") == costs
    lengths, shares = costs.lengths()
    assert sum(shares) == pytest.approx(1)
    assert max(map(max, lengths)) <= 384
