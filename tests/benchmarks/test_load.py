"""When requests are sent, and what is written down of them."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
import pytest

from electra_qa.benchmarks.load import Recording, closed_loop, open_loop, poisson, run


def test_poisson_arrivals_have_the_rate_and_exponential_gaps() -> None:
    rate, duration = 50.0, 400.0
    arrivals = poisson(rate, duration, np.random.default_rng(0))
    # Five standard deviations of the count.
    assert abs(len(arrivals) - rate * duration) < 5 * np.sqrt(rate * duration)
    assert arrivals.dtype == np.float64
    assert arrivals[0] >= 0
    assert arrivals[-1] < duration
    gaps = np.sort(np.diff(arrivals))
    assert gaps[0] >= 0
    # Kolmogorov and Smirnov's distance, at a level of 1 in 1,000.
    expected = 1 - np.exp(-rate * gaps)
    distance = np.abs(expected - np.arange(len(gaps)) / len(gaps)).max()
    assert distance < 1.95 / np.sqrt(len(gaps))
    # Fixed gaps with the same mean would fail here, bursts too: counts vary as much as their mean.
    counts = np.histogram(arrivals, np.arange(0, duration + 1))[0]
    assert counts.var() / counts.mean() == pytest.approx(1, abs=0.25)


def test_poisson_arrivals_are_the_same_for_the_same_seed_only() -> None:
    first, again, other = (poisson(20, 10, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert len(first) != len(other) or (first != other).any()


def test_the_open_loop_sends_on_time_whatever_became_of_the_others(in_virtual_time: Any) -> None:
    arrivals = [0.0, 0.5, 0.5, 2.0]
    took = [10.0, 0.25, 3.0, 1.0]
    statuses = ["OK", "UNAVAILABLE", "OK", "INTERNAL"]

    async def send(request: int) -> str:
        await asyncio.sleep(took[request])
        return statuses[request]

    recording = in_virtual_time(open_loop(send, arrivals, questions_per_request=3))
    np.testing.assert_array_equal(recording.scheduled, arrivals)
    np.testing.assert_allclose(recording.sent, arrivals)
    np.testing.assert_allclose(recording.latencies, took)
    assert recording.statuses == statuses
    assert recording.seconds == pytest.approx(10.0)
    assert recording.question_statuses == {"OK": 6, "INTERNAL": 3, "UNAVAILABLE": 3}


def test_a_server_that_stalls_shows_in_what_was_due_meanwhile(in_virtual_time: Any) -> None:
    arrivals = np.arange(0, 0.6, 0.02)
    one_at_a_time = asyncio.Lock()

    async def send(request: int) -> str:
        async with one_at_a_time:
            await asyncio.sleep(0.3 if request == 5 else 0.001)
        return "OK"

    recording = in_virtual_time(open_loop(send, arrivals))
    stall_ends = arrivals[5] + 0.3
    held_up = (arrivals > arrivals[5]) & (arrivals < stall_ends - 0.001)
    assert held_up.sum() == 14
    assert (recording.finished[held_up] >= stall_ends).all()
    assert (recording.latencies[held_up] >= stall_ends - arrivals[held_up]).all()
    # In a closed loop the stall shows once: that is what the open loop is for.
    closed = in_virtual_time(closed_loop(send, 1, requests=30))
    assert (closed.latencies > 0.1).sum() == 1


def test_a_generator_that_stalls_has_it_in_the_latencies_too() -> None:
    arrivals = np.arange(0, 0.2, 0.02)

    async def send(request: int) -> str:
        if request == 0:
            time.sleep(0.3)  # noqa: ASYNC251 – the loop itself is held up
        return "OK"

    recording = run(open_loop(send, arrivals))
    assert (recording.latencies[1:] >= 0.3 - arrivals[1:]).all()
    assert (recording.send_lags[1:] >= 0.3 - arrivals[1:]).all()


def test_the_closed_loop_keeps_so_many_under_way(in_virtual_time: Any) -> None:
    under_way: set[int] = set()
    seen: list[tuple[int, int]] = []

    async def send(request: int) -> str:
        under_way.add(request)
        seen.append((request, len(under_way)))
        await asyncio.sleep(0.1 + 0.01 * (request % 3))
        under_way.remove(request)
        return "OK" if request % 10 else "INTERNAL"

    recording = in_virtual_time(closed_loop(send, 4, requests=50))
    assert [request for request, _ in seen] == list(range(50))
    assert [count for _, count in seen[3:]] == [4] * 47
    assert recording.statuses.count("INTERNAL") == 5
    np.testing.assert_allclose(recording.latencies, 0.1 + 0.01 * (np.arange(50) % 3))
    np.testing.assert_array_equal(recording.send_lags, np.zeros(50))


def test_the_closed_loop_stops_after_its_time_and_waits_for_the_rest(in_virtual_time: Any) -> None:
    async def send(_: int) -> str:
        await asyncio.sleep(0.3)
        return "OK"

    recording = in_virtual_time(closed_loop(send, 2, duration_s=1.0))
    assert len(recording.statuses) == 8
    assert recording.scheduled.max() == pytest.approx(0.9)
    assert recording.seconds == pytest.approx(1.2)
    assert len(in_virtual_time(closed_loop(send, 2, duration_s=1.0, requests=3)).statuses) == 3
    with pytest.raises(ValueError, match="duration_s, or requests"):
        in_virtual_time(closed_loop(send, 2))


def test_an_error_of_the_generator_itself_is_not_swallowed(in_virtual_time: Any) -> None:
    async def send(_: int) -> str:
        raise KeyError("a bug")

    with pytest.raises(ExceptionGroup) as raised:
        in_virtual_time(open_loop(send, [0.0, 1.0]))
    assert raised.group_contains(KeyError)


def test_questions_that_failed_in_a_batch_count_by_their_own_status() -> None:
    times = np.zeros(3)
    recording = Recording(
        times, times, times, ["OK", "UNAVAILABLE", "OK"], 4, {2: ["INTERNAL", "INVALID_ARGUMENT"]}
    )
    assert recording.answered.tolist() == [4, 0, 2]
    assert recording.question_statuses == {
        "OK": 6,
        "INTERNAL": 1,
        "INVALID_ARGUMENT": 1,
        "UNAVAILABLE": 4,
    }
