from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_qa.server.engine.rate import HALF_LIFE_S, Rate, Work

LONG, SHORT = Work(384 * 40, 40), Work(12 * 40, 40)


def seen(*batches: tuple[Work, float]) -> Rate:
    rate = Rate()
    for work, seconds in batches:
        rate.add(work, seconds)
    return rate


def test_nothing_is_known_at_first() -> None:
    assert Rate().seconds(Work(1000, 10)) == 0


def test_a_steady_rate_is_found() -> None:
    assert seen(*[(Work(500, 5), 0.1)] * 5).seconds(Work(10_000, 100)) == pytest.approx(2)


def test_older_batches_count_less() -> None:
    rate = seen((Work(10_000, 100), 1.0), (Work(1_000, 10), HALF_LIFE_S))
    # The first one counts half: 6,000 tokens in 0.5 + HALF_LIFE_S seconds.
    assert rate.seconds(Work(6_000, 60)) == pytest.approx(0.5 + HALF_LIFE_S)


@given(st.floats(0, 1e-4), st.floats(0, 1e-2))
def test_the_costs_of_a_token_and_of_a_window_are_told_apart(token: float, window: float) -> None:
    def takes(work: Work) -> float:
        return work.tokens * token + work.windows * window

    rate = seen(*((work, takes(work)) for work in (LONG, SHORT, Work(16 * 9, 9)) * 3))
    for work in (LONG, SHORT, Work(384, 1), Work(100_000, 1_000)):
        assert rate.seconds(work) == pytest.approx(takes(work), rel=1e-3, abs=1e-6)


def test_after_short_windows_alone_long_ones_are_not_thought_slow() -> None:
    """By the cost of a token alone these 4,096 windows would take 26 s."""
    rate = seen(*[(Work(12, 1), 0.0002)] * 1_000)
    assert rate.seconds(Work(384 * 4_096, 4_096)) < 1


def test_after_long_windows_alone_short_ones_are_not_thought_slow() -> None:
    rate = seen(*[(LONG, 0.5)] * 10)
    assert rate.seconds(SHORT) == pytest.approx(0.5 * 12 / 384)


@given(
    st.lists(
        st.tuples(
            st.builds(
                lambda n, length: Work(n * length, n), st.integers(1, 99), st.integers(3, 512)
            ),
            st.floats(1e-6, 10),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_whatever_was_measured_no_time_is_negative(batches: list[tuple[Work, float]]) -> None:
    rate = seen(*batches)
    for work in (Work(), SHORT, LONG):
        assert 0 <= rate.seconds(work) < float("inf")
