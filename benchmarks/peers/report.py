"""What the comparison found: results.json, table.md and picture.png."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..environment import Machine
from .agreement import Agreement
from .roster import OURS

_OURS_COLOR, _PEER_COLOR, _P50_COLOR = "#e45756", "#4c78a8", "#222222"


@dataclass(frozen=True, slots=True)
class Row:
    """A peer's line.

    questions_per_second: of each round; slower_by: electra-qa's of the same round over it.
    p50_ms, p99_ms: at the rate that all were asked at; None where nothing was answered.
    exact, f1: None with random weights.
    agreement: with the reference; None where that was not asked.
    """

    name: str
    how: str
    versions: dict[str, str]
    questions_per_second: list[float]
    single_per_second: float
    slower_by: list[float]
    p50_ms: float | None
    p99_ms: float | None
    latency_questions: int
    memory_mb: float
    exact: float | None
    f1: float | None
    agreement: Agreement | None
    errors: dict[str, int]
    failed: str | None


@dataclass(frozen=True, slots=True)
class Report:
    """rate: questions a second of the latency run; left_out: {peer: why it did not start}.

    null_score_diff_threshold: that everybody answered at.
    """

    machine: Machine
    instructions: list[str]
    when: str
    command: str
    checkpoint: str
    random_weights: bool
    bundle: str
    data: str
    questions: int
    rounds: int
    rate: float | None
    latency_seconds: float
    null_score_diff_threshold: float
    rows: list[Row]
    left_out: dict[str, str]


def write(report: Report, folder: Path) -> None:
    """Raises OSError."""
    content = json.dumps(dataclasses.asdict(report), indent=2)
    (folder / "results.json").write_text(content + "\n", encoding="utf-8")
    (folder / "table.md").write_text(table(report), encoding="utf-8")
    _picture(report).savefig(folder / "picture.png", dpi=150)


def table(report: Report) -> str:
    rate = f"{report.rate:.1f}" if report.rate else "–"
    lines = [
        f"| | how | questions a second | electra-qa is faster by | p50, p99 at {rate}/s | memory "
        "| EM / F1 | same answers | same best spans | error of the null score difference |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *(_line(report, row) for row in _sorted(report)),
        "",
        f"{report.questions:,} questions of {report.data} in {report.rounds} rounds, in each of "
        "which every peer answers the same ones while the others are stopped: median of the "
        "rounds (lowest–highest). Faster by: the ratio within each round, likewise. Latency from "
        f"when a question was due, Poisson arrivals, {report.latency_seconds:g} s; none for those "
        "that do not carry that rate. Memory: "
        "proportional set size of all its processes. Everybody answers at one "
        f"null_score_diff_threshold, {report.null_score_diff_threshold:.3g}. Same answers, same "
        "best spans (their texts, answer or not) and the error of the null score difference (root "
        "mean square, in logits): against Transformers in float32.",
        "",
        f"{report.machine.cpu}, {report.machine.cores} cores "
        f"({', '.join(report.instructions) or 'no AVX'}), {report.machine.memory_gib:g} GiB; "
        f"checkpoint {report.checkpoint}, bundle {report.bundle}; {report.when}.",
        "",
        "Versions: "
        + "; ".join(
            f"{row.name}: " + ", ".join(f"{name} {v}" for name, v in sorted(row.versions.items()))
            for row in report.rows
        )
        + ".",
        "",
        f"    {report.command}",
        "",
    ]
    for row in report.rows:
        if row.errors or row.failed:
            lines += [f"- {row.name}: {row.failed or ''} {row.errors or ''}".rstrip()]
    lines += [f"- {name} was left out: {why}" for name, why in report.left_out.items()]
    return "\n".join(lines).rstrip() + "\n"


def _line(report: Report, row: Row) -> str:
    name = f"**{row.name}**" if row.name.startswith(OURS) else row.name
    cells = [
        name,
        row.how,
        _spread(row.questions_per_second, ".1f"),
        _spread(row.slower_by, ".2f", "×") if row.name != OURS else "",
        f"{row.p50_ms:.0f} ms, {row.p99_ms:.0f} ms"
        if row.p50_ms is not None and row.p99_ms is not None
        else "–",
        f"{row.memory_mb:,.0f} MB",
        _score(report, row),
        *_agreement(row.agreement),
    ]
    return f"| {' | '.join(cells)} |"


def _agreement(agreement: Agreement | None) -> tuple[str, str, str]:
    if agreement is None:
        return "–", "–", "–"
    rms = agreement.null_score_diff_rms
    return (
        f"{100 * agreement.same_answers:.1f} %",
        f"{100 * agreement.same_spans:.1f} %",
        f"{rms:.3f}" if rms is not None else "–",
    )


def _score(report: Report, row: Row) -> str:
    if report.random_weights:
        return "random weights"
    return f"{row.exact:.2f} / {row.f1:.2f}" if row.exact is not None else "–"


def _spread(values: list[float], form: str, unit: str = "") -> str:
    if not values:
        return "–"
    median, lowest, highest = np.median(values), min(values), max(values)
    return f"{median:{form}}{unit} ({lowest:{form}}–{highest:{form}})"


def _sorted(report: Report) -> list[Row]:
    """The fastest first; what never got to the end of a round last."""
    return sorted(
        report.rows,
        key=lambda row: -float(np.median(row.questions_per_second or [0.0])),
    )


def _picture(report: Report) -> Figure:
    rows = [row for row in reversed(_sorted(report)) if row.questions_per_second]
    figure = Figure(figsize=(11, 1.6 + 0.36 * len(rows)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    colors = [_OURS_COLOR if row.name.startswith(OURS) else _PEER_COLOR for row in rows]
    _speeds(left, rows, colors)
    _latencies(right, rows, colors, report.rate)
    figure.suptitle(
        f"{report.checkpoint}, {report.questions:,} SQuAD 2.0 dev questions, "
        f"{report.machine.cores} cores of {report.machine.cpu}",
        fontsize="medium",
    )
    return figure


def _speeds(axes: Axes, rows: list[Row], colors: list[str]) -> None:
    medians = np.array([np.median(row.questions_per_second) for row in rows])
    ranges: Any = [
        [m - min(row.questions_per_second) for m, row in zip(medians, rows, strict=True)],
        [max(row.questions_per_second) - m for m, row in zip(medians, rows, strict=True)],
    ]
    places = range(len(rows))
    axes.barh(places, medians, color=colors, xerr=ranges, error_kw={"capsize": 2, "lw": 1})
    for place, median, row in zip(places, medians, rows, strict=True):
        end = max(row.questions_per_second)
        axes.annotate(
            f"{median:.1f}", (end, place), (4, 0), textcoords="offset points", va="center"
        )
    axes.set_yticks(places, [row.name for row in rows])
    axes.set(xlabel="questions a second: median and range of the rounds")
    axes.margins(x=0.12, y=0.02)
    _frame(axes)


def _latencies(axes: Axes, rows: list[Row], colors: list[str], rate: float | None) -> None:
    for place, (row, color) in enumerate(zip(rows, colors, strict=True)):
        if row.p50_ms is None or row.p99_ms is None:
            continue
        axes.barh(place, row.p99_ms, color=color)
        axes.plot(row.p50_ms, place, "|", color=_P50_COLOR, markersize=11, markeredgewidth=2)
        axes.annotate(
            f"{row.p99_ms:.0f}",
            (row.p99_ms, place),
            (4, 0),
            textcoords="offset points",
            va="center",
        )
    at = f" at {rate:.1f} a second" if rate else ""
    axes.set(xlabel=f"ms{at}: p99, p50 as a stroke")
    axes.margins(x=0.14, y=0.02)
    _frame(axes)


def _frame(axes: Axes) -> None:
    axes.set_xlim(left=0)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
