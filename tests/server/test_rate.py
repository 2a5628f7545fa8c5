from __future__ import annotations

import pytest

from electra_qa.server.rate import HALF_LIFE_S, Rate


def test_nothing_is_known_at_first() -> None:
    assert Rate().seconds(1000) == 0


def test_a_steady_rate_is_found() -> None:
    rate = Rate()
    for _ in range(5):
        rate.add(500, 0.1)
    assert rate.seconds(10_000) == pytest.approx(2)


def test_older_batches_count_less() -> None:
    rate = Rate()
    rate.add(10_000, 1.0)
    rate.add(1_000, HALF_LIFE_S)
    # The first one counts half: 6,000 tokens in 0.5 + HALF_LIFE_S seconds.
    assert rate.seconds(6_000) == pytest.approx(0.5 + HALF_LIFE_S)
