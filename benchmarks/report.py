"""What is handed out of a benchmark: a table for people, JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .environment import Machine, ServerInfo
from .measurement import Latencies, Measurement
from .workload import Mode

# Fewer than these have no 99th percentile but their longest.
FEW_REQUESTS = 100


@dataclass(frozen=True, slots=True)
class Data:
    """What was asked.

    name: of the file, or the distribution of the lengths of made-up contexts.
    sha256: of the file.
    questions: how many different ones.
    """

    name: str
    sha256: str | None
    questions: int


@dataclass(frozen=True, slots=True)
class Report:
    """One benchmark.

    scenario: of MLPerf inference, as far as it has one for this.
    questions_per_request: the batch size.
    concurrency: requests under way, of a closed loop.
    measurements: one, or each step of a sweep in its order.
    highest_rate: of a sweep: the highest rate, in requests a second, whose 99th percentile was
        within the bound and that lost no answer; None where there was none.
    """

    scenario: str
    mode: Mode
    questions_per_request: int
    concurrency: int | None
    duration_s: float
    warm_up_s: float
    deadline_ms: float
    slo_ms: float
    seed: int
    data: Data
    server: ServerInfo
    machine: Machine
    versions: dict[str, str | None]
    command: str
    is_sweep: bool
    highest_rate: float | None
    measurements: list[Measurement]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, allow_nan=False) + "\n"


def tables(report: Report) -> RenderableType:
    """For a terminal."""
    parts: list[RenderableType] = [_conditions(report), ""]
    if report.is_sweep:
        parts += [_steps(report), _verdict(report)]
    else:
        parts.append(_figures(report.measurements[0]))
    parts += [Text(note, "yellow") for note in _notes(report)]
    return Group(*parts)


def _notes(report: Report) -> Iterator[str]:
    if any(m.generator_is_late for m in report.measurements):
        yield (
            "The load generator was late itself: a tenth of the p99 latency or more is its own "
            "(send lag). Ask for less, or give it a core of its own."
        )
    if any(m.requests < FEW_REQUESTS for m in report.measurements):
        yield (
            f"Fewer than {FEW_REQUESTS} requests: the p99 is the slowest of them. "
            "A longer --duration says more."
        )


def _conditions(report: Report) -> Table:
    server, data, machine = report.server, report.data, report.machine
    grid = Table.grid(padding=(0, 2))
    asked = report.mode + (
        f", {report.questions_per_request} questions a request" if report.mode == "batch" else ""
    )
    if report.concurrency is not None:
        asked += f", {report.concurrency} at a time"
    sum_ = "" if data.sha256 is None else f", sha256 {data.sha256[:12]}"
    for name, value in (
        ("scenario", report.scenario),
        ("mode", asked),
        ("data", f"{data.name}{sum_}, {data.questions:,} questions, seed {report.seed}"),
        ("server", f"{server.source}, {server.precision}, {server.bundle_sha256[:12]}"),
        ("device", server.device),
        ("machine", f"{machine.cpu}, {machine.cores} cores, {machine.memory_gib:g} GiB"),
    ):
        grid.add_row(Text(name, "dim"), Text(value))
    return grid


def _figures(measurement: Measurement) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="cyan")
    table.add_column(justify="right")
    for name, value in _rows(measurement):
        table.add_row(name, value)
    return table


def _rows(m: Measurement) -> Iterator[tuple[str, str]]:
    yield "requests", f"{m.requests:,}"
    if m.rate_asked is not None:
        yield "requests a second, asked", _number(m.rate_asked)
    yield "requests a second, answered", _number(m.rate_reached)
    yield "questions a second", _number(m.questions_per_second)
    yield "windows a second", _number(m.windows_per_second)
    yield f"questions a second within {m.slo_ms:g} ms", _number(m.goodput)
    for status, count in m.statuses.items():
        yield f"questions {status}", f"{count:,}"
    if m.latencies_ms is not None:
        for name, value in _percentiles(m.latencies_ms):
            yield f"latency {name}, ms", _number(value)
    if m.rate_asked is not None and m.send_lags_ms is not None:
        yield "send lag p99, ms", _number(m.send_lags_ms.p99)
    if m.server is not None:
        for name, figure in (
            ("server: windows a batch", m.server.batch_windows),
            ("server: padding, %", _percent(m.server.padding_share)),
            ("server: in the queue, ms", m.server.queue_ms),
            ("server: engine busy, %", _percent(m.server.engine_busy_share)),
            ("server: contexts from its cache, %", _percent(m.server.cached_share)),
        ):
            if figure is not None:
                yield name, _number(figure)


def _percentiles(latencies: Latencies) -> Iterator[tuple[str, float]]:
    names = ("p50", "p90", "p99", "p99.9", "max")
    yield from zip(names, asdict(latencies).values(), strict=True)


def _steps(report: Report) -> Table:
    steps = sorted(report.measurements, key=lambda m: m.rate_asked or 0.0)
    latencies = [m.latencies_ms for m in steps]
    server = [m.server for m in steps]
    columns: dict[str, list[float | None]] = {
        "asked/s": [m.rate_asked for m in steps],
        "done/s": [m.rate_reached for m in steps],
        "p50 ms": [some.p50 if some else None for some in latencies],
        "p99 ms": [some.p99 if some else None for some in latencies],
        "in time/s": [m.goodput for m in steps],
        "failed": [m.failed for m in steps],
        "batch": [some.batch_windows if some else None for some in server],
        "busy %": [_percent(some.engine_busy_share) if some else None for some in server],
    }
    shown = {name: values for name, values in columns.items() if set(values) != {None}}
    table = Table(box=box.SIMPLE_HEAD)
    for name in (*shown, ""):
        table.add_column(name, justify="right")
    for m, *figures in zip(steps, *shown.values(), strict=True):
        mark = Text("✓", "green") if m.within_slo else Text("✗", "red")
        table.add_row(*map(_number, figures), mark)
    return table


def _verdict(report: Report) -> Text:
    bound = f"p99 within {report.slo_ms:g} ms and nothing lost"
    if report.highest_rate is None:
        return Text(f"No rate that was tried has {bound}.", "bold")
    return Text(f"{_number(report.highest_rate)} requests a second: {bound}.", "bold green")


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _number(value: float | None) -> str:
    """Three digits that say something, and all those before the point."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.{max(0, 2 - len(str(int(abs(value)))) + 1)}f}"
