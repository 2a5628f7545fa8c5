"""The picture of a report: a sweep's latency against rate, or the course of one run over time."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from .measurement import Measurement
from .report import Report

_P50, _P99, _RATE, _BOUND = "#4c78a8", "#e45756", "#54a24b", "#888888"


def write_picture(report: Report, path: Path) -> None:
    """A PNG. Raises OSError."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    if report.is_sweep:
        _latency_against_rate(report, figure.subplots())
    else:
        upper, lower = figure.subplots(2, sharex=True)
        _course(report.measurements[0], upper, lower)
    figure.suptitle(
        f"{report.scenario}, {report.mode}\n{report.server.precision}, {report.server.device}",
        fontsize="medium",
    )
    figure.savefig(path, format="png", dpi=150)


def _latency_against_rate(report: Report, axes: Axes) -> None:
    steps = sorted(
        (m.rate_asked, m.latencies_ms.p50, m.latencies_ms.p99, m.failed)
        for m in report.measurements
        if m.rate_asked is not None and m.latencies_ms is not None
    )
    rates, p50, p99, failed = zip(*steps, strict=True) if steps else ((), (), (), ())
    for label, color, latencies in (("p50", _P50, p50), ("p99", _P99, p99)):
        axes.plot(rates, latencies, color=color, label=label)
        for rate, latency, lost in zip(rates, latencies, failed, strict=True):
            # Hollow: answers were lost, so that the latency is of the rest only.
            axes.plot(rate, latency, "o", color=color, fillstyle="none" if lost else "full")
    axes.axhline(report.slo_ms, color=_BOUND, linestyle="--", label=f"bound, {report.slo_ms:g} ms")
    if report.highest_rate is not None:
        axes.axvline(
            report.highest_rate, color=_RATE, label=f"highest rate, {report.highest_rate:,.4g}/s"
        )
    axes.set(xlabel="requests a second, asked", ylabel="latency, ms", xscale="log", yscale="log")
    _plain_numbers(axes.xaxis)
    _plain_numbers(axes.yaxis)
    axes.grid(alpha=0.3, which="both")
    axes.legend()


def _course(measurement: Measurement, upper: Axes, lower: Axes) -> None:
    timeline = measurement.timeline
    upper.stairs(timeline.questions_per_second, timeline.edges, color=_RATE)
    upper.set(ylabel="answers a second", ylim=(0, None))
    nan = float("nan")
    for label, color, values in (
        ("p50", _P50, timeline.p50_ms),
        ("p99", _P99, timeline.p99_ms),
    ):
        drawn = [nan if value is None else value for value in values]
        lower.stairs(drawn, timeline.edges, baseline=None, color=color, label=label)
    lower.axhline(
        measurement.slo_ms, color=_BOUND, linestyle="--", label=f"bound, {measurement.slo_ms:g} ms"
    )
    lower.set(xlabel="seconds from the start", ylabel="latency, ms", yscale="log")
    _plain_numbers(lower.yaxis)
    lower.legend()
    for axes in (upper, lower):
        axes.grid(alpha=0.3, which="both")


def _plain_numbers(axis: Axis) -> None:
    """400, not 4 × 10²."""
    axis.set_major_formatter(LogFormatter())
    axis.set_minor_formatter(LogFormatter())
