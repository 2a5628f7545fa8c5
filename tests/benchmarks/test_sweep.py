"""The search for the highest rate."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_qa.benchmarks.load import open_loop, poisson
from electra_qa.benchmarks.measurement import measure
from electra_qa.benchmarks.sweep import TOLERANCE, highest_rate

RATES = st.floats(0.5, 5000)


@given(RATES, RATES)
def test_a_sharp_limit_is_found_from_any_first_rate(limit: float, first: float) -> None:
    tried: list[float] = []

    async def bears(rate: float) -> bool:
        tried.append(rate)
        return rate <= limit

    found = asyncio.run(highest_rate(bears, first))
    if limit < first / 1024:
        assert found is None
        return
    assert found in tried
    assert found is not None
    assert found <= limit <= found * (1 + TOLERANCE) * (1 + 1e-9)
    assert len(tried) == len(set(tried)) <= 20


def test_where_no_rate_is_borne_the_search_ends() -> None:
    tried: list[float] = []

    async def bears(rate: float) -> bool:
        tried.append(rate)
        return False

    assert asyncio.run(highest_rate(bears, 100.0)) is None
    assert len(tried) == 11


def test_the_capacity_of_a_server_is_found_through_the_open_loop(in_virtual_time: Any) -> None:
    """One at a time, 10 ms each. By Kingman's approximation of the wait's tail in M/D/1,
    P(W > t) = exp(-2 t (1 - rho) / (rho s)), the 99th percentile of wait and service is 100 ms at
    rho = 0.8, that is at 80 a second."""

    async def bears(rate: float) -> bool:
        one_at_a_time = asyncio.Lock()

        async def send(_: int) -> str:
            async with one_at_a_time:
                await asyncio.sleep(0.01)
            return "OK"

        arrivals = poisson(rate, 300, np.random.default_rng(0))
        recording = await open_loop(send, arrivals)
        return measure(recording, slo_ms=100.0, windows=0).within_slo

    found = in_virtual_time(highest_rate(bears, 10.0))
    assert found == pytest.approx(80, rel=0.12)
