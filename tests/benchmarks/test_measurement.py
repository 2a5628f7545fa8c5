"""What is made of a recording."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram

from electra_qa.benchmarks.load import Floats, Recording
from electra_qa.benchmarks.measurement import Measurement, measure


def recorded(
    latencies: Floats, *, statuses: list[str] | None = None, every: float = 0.01, lag: float = 0.0
) -> Recording:
    """Requests that came at a steady pace."""
    scheduled = np.arange(len(latencies)) * every
    finished = scheduled + latencies
    return Recording(scheduled, scheduled + lag, finished, statuses or ["OK"] * len(latencies))


def measured(recording: Recording, slo_ms: float = 100.0) -> Measurement:
    return measure(recording, slo_ms=slo_ms, windows=0)


def test_percentiles_are_numpys_to_three_digits() -> None:
    latencies = np.random.default_rng(0).lognormal(-3, 1, 20_000)
    shown = measured(recorded(latencies)).latencies_ms
    assert shown is not None
    for percentile, value in (
        (50, shown.p50),
        (90, shown.p90),
        (99, shown.p99),
        (99.9, shown.p99_9),
        (100, shown.max),
    ):
        exact = 1e3 * np.percentile(latencies, percentile, method="inverted_cdf")
        assert value == pytest.approx(exact, rel=2e-3), percentile


def test_the_histogram_can_be_read_elsewhere() -> None:
    latencies = np.random.default_rng(1).lognormal(-4, 0.5, 500)
    measurement = measured(recorded(latencies))
    histogram = HdrHistogram.decode(measurement.histogram)
    assert histogram.get_total_count() == 500
    assert measurement.latencies_ms is not None
    assert histogram.get_value_at_percentile(99) / 1e3 == measurement.latencies_ms.p99


def test_rates_are_over_the_time_until_the_last_answer() -> None:
    latencies = np.array([0.05, 0.2, 0.05, 1.0])
    statuses = ["OK", "OK", "INTERNAL", "OK"]
    recording = replace(
        recorded(latencies, statuses=statuses, every=1.0),
        questions_per_request=10,
        failures={0: ["INVALID_ARGUMENT"] * 2},
    )
    measurement = measure(recording, slo_ms=100.0, windows=60)
    assert measurement.seconds == pytest.approx(4.0)
    assert measurement.rate_reached == pytest.approx(3 / 4)
    assert measurement.questions_per_second == pytest.approx(28 / 4)
    assert measurement.windows_per_second == pytest.approx(60 / 4)
    # Of the first request, without the two that failed; the third failed, the others were late.
    assert measurement.goodput == pytest.approx(8 / 4)
    assert measurement.failed == 12


def test_a_request_that_failed_has_no_latency() -> None:
    latencies = np.array([0.01] * 10 + [9.0])
    measurement = measured(recorded(latencies, statuses=["OK"] * 10 + ["DEADLINE_EXCEEDED"]))
    assert measurement.latencies_ms is not None
    assert measurement.latencies_ms.max == pytest.approx(10, rel=2e-3)
    nothing = measured(recorded(latencies, statuses=["UNAVAILABLE"] * 11))
    assert nothing.latencies_ms is None
    assert nothing.goodput == nothing.questions_per_second == 0
    assert nothing.statuses == {"OK": 0, "UNAVAILABLE": 11}
    empty = measured(recorded(np.array([])))
    assert (empty.requests, empty.rate_reached, empty.send_lags_ms) == (0, 0, None)


@pytest.mark.parametrize(
    ("latencies", "statuses", "within"),
    [
        (np.full(1000, 0.05), None, True),
        (np.array([0.2] * 9 + [0.05] * 991), None, True),  # under a hundredth
        (np.array([0.2] * 11 + [0.05] * 989), None, False),
        (np.full(1000, 0.05), ["OK"] * 999 + ["RESOURCE_EXHAUSTED"], False),
        (np.array([]), None, False),
    ],
)
def test_the_bound_is_on_the_99th_percentile_and_nothing_may_be_lost(
    latencies: Floats, statuses: list[str] | None, within: bool
) -> None:
    assert measured(recorded(latencies, statuses=statuses)).within_slo is within


def test_a_queue_that_grew_until_the_end_is_not_borne() -> None:
    # All sent within a second, answered in two: every answer is within a bound of two seconds.
    growing = recorded(np.linspace(0, 1, 100), every=0.01)
    assert not measured(growing, slo_ms=2000).within_slo
    assert measured(recorded(np.full(100, 0.05), every=0.01), slo_ms=2000).within_slo


def test_it_is_said_when_the_generator_was_late() -> None:
    assert measured(recorded(np.full(200, 0.05), lag=0.01)).generator_is_late
    assert not measured(recorded(np.full(200, 0.05), lag=0.001)).generator_is_late


def test_the_timeline_has_every_answer_in_its_slice() -> None:
    latencies = np.where(np.arange(1000) < 500, 0.001, 0.5)
    timeline = measured(recorded(latencies, every=0.01)).timeline
    widths = np.diff(timeline.edges)
    assert np.sum(widths * timeline.questions_per_second) == pytest.approx(1000)
    assert np.ptp(widths) < 1e-9
    assert len(timeline.p50_ms) == len(timeline.p99_ms) == len(widths)
    before = [
        value for value, edge in zip(timeline.p99_ms, timeline.edges, strict=False) if edge < 4
    ]
    assert before == pytest.approx([1.0] * len(before))
    assert timeline.p50_ms[6] == pytest.approx(500.0)
    # The first half of second 5 has no answers: they were due then and came later.
    pause = measured(replace(recorded(np.array([0.1, 0.1])), scheduled=np.array([0.0, 5.0])))
    assert None in pause.timeline.p50_ms
