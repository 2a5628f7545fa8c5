"""What a recording says: latencies, rates, statuses, and how they went over time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hdrh.histogram import HdrHistogram

from .load import Floats, Recording
from .server_figures import ServerFigures

# Latencies are kept in microseconds, up to an hour, to three digits.
_LONGEST_US = 3_600_000_000
_DIGITS = 3
# How finely a run is cut for its course over time.
_SLICES = 60
# The share of the time until the last answer in which questions must have come.
_KEPT_UP = 0.9


@dataclass(frozen=True, slots=True)
class Latencies:
    """Percentiles, in milliseconds."""

    p50: float
    p90: float
    p99: float
    p99_9: float
    max: float


@dataclass(frozen=True, slots=True)
class Timeline:
    """A run in slices of time, all as long.

    edges: where the slices begin, and where the last one ends, in seconds.
    questions_per_second: answered within the slice.
    p50_ms, p99_ms: latencies of the requests that were due within the slice; None where none was,
        or none was answered.
    """

    edges: list[float]
    questions_per_second: list[float]
    p50_ms: list[float | None]
    p99_ms: list[float | None]


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run.

    rate_asked: in requests a second; None where as many were sent as were answered.
    rate_reached: requests answered a second.
    seconds: from the start until the last request had finished.
    seconds_of_sending: from the start until the last request was due.
    statuses: questions by how they ended; OK is always in it.
    questions_per_second: answered.
    windows_per_second: of the answered questions.
    goodput: questions answered within `slo_ms` of when they were due, a second.
    latencies_ms: of the requests that were answered, from when they were due; None if none was.
    send_lags_ms: how late the load generator itself was, of all requests.
    histogram: the latencies in microseconds, as HdrHistogram's compressed V2 format in base 64.
    """

    rate_asked: float | None
    rate_reached: float
    requests: int
    seconds: float
    seconds_of_sending: float
    statuses: dict[str, int]
    questions_per_second: float
    windows_per_second: float
    slo_ms: float
    goodput: float
    latencies_ms: Latencies | None
    send_lags_ms: Latencies | None
    server: ServerFigures | None
    histogram: str
    timeline: Timeline

    @property
    def failed(self) -> int:
        """How many questions were not answered."""
        return sum(self.statuses.values()) - self.statuses["OK"]

    @property
    def within_slo(self) -> bool:
        """Every question was answered, the 99th percentile is within `slo_ms`, and the server kept
        up: answers did not come for much longer than questions, as they do where a queue grows."""
        return (
            not self.failed
            and self.latencies_ms is not None
            and self.latencies_ms.p99 <= self.slo_ms
            and self.seconds_of_sending >= _KEPT_UP * self.seconds
        )

    @property
    def generator_is_late(self) -> bool:
        """A tenth of the latency at the 99th percentile, or more, is the load generator's own."""
        return (
            self.send_lags_ms is not None
            and self.latencies_ms is not None
            and self.send_lags_ms.p99 > 0.1 * self.latencies_ms.p99
        )


def measure(
    recording: Recording,
    *,
    slo_ms: float,
    windows: int,
    rate_asked: float | None = None,
    server: ServerFigures | None = None,
) -> Measurement:
    """windows: of all the answered questions."""
    ok, answered, seconds = recording.ok, recording.answered, recording.seconds
    histogram = _histogram(recording.latencies[ok])
    in_time = recording.latencies <= slo_ms / 1e3

    def per_second(count: float) -> float:
        return count / seconds if seconds else 0.0

    return Measurement(
        rate_asked=rate_asked,
        rate_reached=per_second(int(ok.sum())),
        requests=len(ok),
        seconds=seconds,
        seconds_of_sending=float(recording.scheduled.max(initial=0.0)),
        statuses=recording.question_statuses,
        questions_per_second=per_second(int(answered.sum())),
        windows_per_second=per_second(windows),
        slo_ms=slo_ms,
        goodput=per_second(int(answered[in_time].sum())),
        latencies_ms=_latencies(histogram),
        send_lags_ms=_latencies(_histogram(recording.send_lags)),
        server=server,
        histogram=histogram.encode().decode(),
        timeline=_timeline(recording),
    )


def _histogram(seconds: Floats) -> HdrHistogram:
    histogram = HdrHistogram(1, _LONGEST_US, _DIGITS)
    for value in np.clip(np.rint(seconds * 1e6), 1, _LONGEST_US).astype(np.int64).tolist():
        histogram.record_value(value)
    return histogram


def _latencies(histogram: HdrHistogram) -> Latencies | None:
    if not histogram.get_total_count():
        return None
    # The 100th percentile is the longest.
    return Latencies(*(histogram.get_value_at_percentile(p) / 1e3 for p in (50, 90, 99, 99.9, 100)))


def _timeline(recording: Recording) -> Timeline:
    # In slices of whole seconds where a run is long enough to have some.
    width = max(recording.seconds / _SLICES, min(1.0, recording.seconds / 10)) or 1.0
    count = int(np.ceil(recording.seconds / width))
    edges = np.arange(count + 1) * width
    finished, _ = np.histogram(recording.finished, edges, weights=recording.answered)
    ok = recording.ok
    slices = np.digitize(recording.scheduled[ok], edges[1:])
    latencies = 1e3 * recording.latencies[ok]
    by_slice = [latencies[slices == n] for n in range(count)]

    def percentiles(p: float) -> list[float | None]:
        return [float(np.percentile(some, p)) if len(some) else None for some in by_slice]

    return Timeline(
        edges=edges.tolist(),
        questions_per_second=(finished / width).tolist(),
        p50_ms=percentiles(50),
        p99_ms=percentiles(99),
    )
