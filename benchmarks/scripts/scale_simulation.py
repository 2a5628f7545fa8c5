"""How many replicas, front ends and proxies a rate takes: simulated, with measured service times.

The times are those that scale_costs.py wrote. Prints the tables of docs/scale.md. What a GPU would
do is not known: the rates of engines in the table of walls are assumed ones.

pip install -e '.[bench]'
python benchmarks/scripts/scale_simulation.py --json simulation.json --picture docs/scale.png
"""

from __future__ import annotations

import json
import random
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from electra_qa.benchmarks.environment import this_machine
from electra_qa.benchmarks.scale.arrivals import ARRIVALS
from electra_qa.benchmarks.scale.costs import DEFAULT, Costs, read_costs
from electra_qa.benchmarks.scale.routing import ROUTERS
from electra_qa.benchmarks.scale.simulation import capacity, simulate
from electra_qa.benchmarks.scale.site import EngineTimes, Site
from electra_qa.versions import installed_versions

REPLICAS = (1, 2, 4, 8, 64)
LOADS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0)
LOADS_IN_TABLE = (0.5, 0.7, 0.9, 1.0, 2.0)
# Of a run, at the least.
CALLS, SECONDS = 20_000, 30.0
WARM_UP = 0.1  # of the calls, which don't count
CAPACITY_CALLS = 4_000
UNARY = "unary, known texts"
# Of the walls, and of the cores: ways to ask, and questions a call.
WAYS = {
    "unary, known texts": 1,
    "unary, new texts": 1,
    "batch, known texts": 32,
    "batch, new texts": 32,
}
# CPU time of an Answer in Ray's proxy and its replica, the middle of what docs/ray.md has, in s.
PROXY_S, RAY_REPLICA_S = 2.7e-3, 2.25e-3
# Of the walls: engines of so many windows a second, which nobody has measured, of a GPU's sizes.
ENGINE_RATES = (5_000, 20_000)
GPU_BATCH_TOKENS, GPU_SLOTS = 4_096, 2
FRONTS = (0, 1, 2, 4, 8, 16, 32)
CORE_RATES = (100, 1_000, 5_000, 20_000)
COLORS = {1: "#4c78a8", 8: "#54a24b", 64: "#e45756"}

Calls = list[tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Point:
    """load: as a multiple of what the replicas can do. good: questions a second in time, as one.
    lost: the share of the calls that were refused, expired or late."""

    replicas: int
    router: str
    arrivals: str
    load: float
    calls: int
    p50_ms: float
    p99_ms: float
    good: float
    lost: float


class Study:
    """Runs of one site at loads; each with the seed that was given."""

    def __init__(self, costs: Costs, site: Site, seed: int) -> None:
        self._costs, self._site, self._seed = costs, site, seed
        self.rate = capacity(site, draw(costs, CAPACITY_CALLS, seed), seed)

    def at(self, replicas: int, router: str, arrivals: str, load: float) -> Point:
        began = time.monotonic()
        rate = load * replicas * self.rate
        seconds = max(SECONDS, CALLS / rate)
        due = ARRIVALS[arrivals](rate, seconds, np.random.default_rng(self._seed))
        site = replace(self._site, replicas=replicas, router=router)
        outcome = simulate(site, due, draw(self._costs, len(due), self._seed), self._seed)
        since = int(WARM_UP * len(due))
        good = outcome.good_share(since)
        counted = (len(due) - since) / (seconds - due[since])
        point = Point(
            replicas,
            router,
            arrivals,
            round(load, 3),
            len(due),
            round(1e3 * outcome.percentile(50, since), 1),
            round(1e3 * outcome.percentile(99, since), 1),
            round(float(good * counted) / (replicas * self.rate), 4),
            round(1 - good, 5),
        )
        click.echo(f"{time.monotonic() - began:5.1f} s  {point}", err=True)
        return point

    def highest_load(self, replicas: int, router: str, arrivals: str, slo_ms: float) -> float:
        """With p99 within `slo_ms` and nothing lost, to 0.02; 0 for none over 0.02."""
        borne, too_high = 0.0, 1.28
        while too_high - borne > 0.021:
            middle = (borne + too_high) / 2
            point = self.at(replicas, router, arrivals, middle)
            if point.p99_ms <= slo_ms and not point.lost:
                borne = middle
            else:
                too_high = middle
        return round(borne, 2)


def draw(costs: Costs, count: int, seed: int, questions: int = 1) -> Calls:
    """Calls of so many questions each, with lengths as often as the data has them."""
    lengths, shares = costs.lengths()
    drawn = iter(random.Random(seed).choices(lengths, shares, k=count * questions))
    return [sum((next(drawn) for _ in range(questions)), ()) for _ in range(count)]


def walls(costs: Costs, seed: int) -> list[dict[str, Any]]:
    """Questions a second where all are there from the start."""
    lengths, shares = costs.lengths()
    tokens = sum(sum(one) * share for one, share in zip(lengths, shares, strict=True))
    windows = sum(len(one) * share for one, share in zip(lengths, shares, strict=True))
    rows = []
    for way, size in WAYS.items():
        calls = draw(costs, 2 * CALLS // size, seed, size)
        for rate in ENGINE_RATES:
            engine = EngineTimes(
                window_s=0.0,
                token_s=windows / (rate * tokens),
                host_window_s=costs.window_us * 1e-6,
                host_batch_s=costs.batch_us * 1e-6,
                batch_tokens=GPU_BATCH_TOKENS,
                slots=GPU_SLOTS,
            )
            for fronts in FRONTS:
                front_s = size * costs.front_us[way] * 1e-6
                site = Site(engine, front_s, fronts=fronts)
                questions = size * capacity(site, calls, seed)
                rows.append(
                    {
                        "way": way,
                        "engine": rate,
                        "fronts": fronts,
                        "questions_per_second": round(questions),
                    }
                )
    return rows


def behind_ray(costs: Costs, site: Site, seed: int) -> list[dict[str, Any]]:
    """Questions a second through one of Ray's proxies, and through one for each replica."""
    rows = []
    for replicas in REPLICAS:
        calls = draw(costs, max(CAPACITY_CALLS, 500 * replicas), seed)
        ray = replace(site, replicas=replicas, front_s=RAY_REPLICA_S, proxy_s=PROXY_S)
        rows.append(
            {
                "replicas": replicas,
                "no_ray": round(capacity(replace(site, replicas=replicas), calls, seed)),
                "one_proxy": round(capacity(replace(ray, proxies=1), calls, seed)),
                "a_proxy_each": round(capacity(replace(ray, proxies=replicas), calls, seed)),
            }
        )
    return rows


def cores(costs: Costs) -> list[dict[str, Any]]:
    """CPU seconds a second, by rate: what is to be had at the least."""
    lengths, shares = costs.lengths()
    windows = sum(len(one) * share for one, share in zip(lengths, shares, strict=True))
    engine_s = windows / costs.engine.windows_per_second.median
    # In full batches; those of a GPU hold some 20 windows.
    host_s = windows * (costs.window_us + costs.batch_us / 20) * 1e-6
    ways = {way: costs.front_us[way] * 1e-6 for way in WAYS}
    return [
        {"rate": rate}
        | {way: round(rate * seconds, 2) for way, seconds in ways.items()}
        | {
            "engine process": round(rate * host_s, 2),
            "Ray's proxies": round(rate * PROXY_S, 1),
            "CPU engine": round(rate * engine_s, 1),
        }
        for rate in CORE_RATES
    ]


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    yield "| " + " | ".join(heads) + " |"
    yield "| --- |" + " ---: |" * (len(heads) - 1)
    for row in rows:
        yield (
            "| "
            + " | ".join(f"{one:,}" if isinstance(one, int) else str(one) for one in row)
            + " |"
        )
    yield ""


def load_tables(points: Sequence[Point]) -> Iterator[str]:
    for arrivals in ARRIVALS:
        of = {(p.replicas, p.load): p for p in points if p.arrivals == arrivals}
        yield f"{arrivals}: p50 / p99 in ms, answered in time as a share of what the engines can do"
        yield ""
        heads = ["replicas", *(f"load {load:g}" for load in LOADS_IN_TABLE)]
        rows = [
            [replicas, *(cell(of[replicas, load]) for load in LOADS_IN_TABLE)]
            for replicas in REPLICAS
        ]
        yield from table(heads, rows)


def cell(point: Point) -> str:
    return f"{point.p50_ms:.0f} / {point.p99_ms:.0f}, {point.good:.2f}"


def router_table(points: Sequence[Point]) -> Iterator[str]:
    yield "p99 in ms by router"
    yield ""
    sorts = sorted({(p.replicas, p.arrivals, p.load) for p in points}, key=str)
    of = {(p.router, p.replicas, p.arrivals, p.load): p for p in points}
    heads = ["router", *(f"{n} replicas, {kind}, load {load:g}" for n, kind, load in sorts)]
    rows = [[name, *(f"{of[name, *sort].p99_ms:.0f}" for sort in sorts)] for name in ROUTERS]
    yield from table(heads, rows)


def highest_table(highest: Mapping[tuple[str, str, int], float], slo_ms: float) -> Iterator[str]:
    yield f"highest load with p99 within {slo_ms:g} ms and nothing lost"
    yield ""
    sorts = sorted({(kind, router) for kind, router, _ in highest}, reverse=True)
    heads = ["replicas", *(f"{kind}, {router}" for kind, router in sorts)]
    rows = [[n, *(f"{highest[*sort, n]:.2f}" for sort in sorts)] for n in REPLICAS]
    yield from table(heads, rows)


def wall_table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "questions a second, by front ends (0: one process) and windows a second of the engine"
    yield ""
    of = {(row["way"], row["engine"], row["fronts"]): row["questions_per_second"] for row in rows}
    kinds = [(way, rate) for way in WAYS for rate in ENGINE_RATES]
    heads = ["front ends", *(f"{way}, {rate:,}" for way, rate in kinds)]
    yield from table(heads, [[n, *(of[*kind, n] for kind in kinds)] for n in FRONTS])


def show(lines: Iterator[str]) -> None:
    click.echo("\n".join(lines))


def plain_table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield from table(list(rows[0]), [list(row.values()) for row in rows])


def write_picture(points: Sequence[Point], slo_ms: float, path: Path) -> None:
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for replicas, color in COLORS.items():
        for arrivals, line in (("poisson", "-"), ("bursts", "--")):
            of = [p for p in points if (p.replicas, p.arrivals) == (replicas, arrivals)]
            label = f"{replicas} replica{'s' * (replicas > 1)}, {arrivals}"
            style = {"color": color, "linestyle": line, "marker": "o", "markersize": 3}
            left.plot([p.load for p in of], [p.p99_ms for p in of], label=label, **style)
            right.plot([p.load for p in of], [p.good for p in of], **style)
    left.axhline(slo_ms, color="#888888", linestyle=":", label=f"{slo_ms:g} ms")
    left.set(ylabel="p99, ms", xlabel="load", ylim=(0, None))
    left.legend(fontsize="small", loc="lower right")
    right.plot((0, 1, 2), (0, 1, 1), color="#888888", linestyle=":")
    right.set(ylabel="answered in time", xlabel="load", ylim=(0, 1.2))
    right.yaxis.set_major_formatter(PercentFormatter(1))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.suptitle("Simulated: two choices, deadline 1 s", fontsize="medium")
    figure.savefig(path, format="png", dpi=120)


@click.command()
@click.option(
    "--costs", "costs_path", type=click.Path(exists=True, path_type=Path), default=DEFAULT
)
@click.option("--threads", default=1, show_default=True, help="Of the engine of a replica.")
@click.option("--deadline-ms", default=1000.0, show_default=True)
@click.option("--slo-ms", default=200.0, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path))
@click.option("--picture", type=click.Path(path_type=Path))
def main(
    costs_path: Path,
    threads: int,
    deadline_ms: float,
    slo_ms: float,
    seed: int,
    json_path: Path | None,
    picture: Path | None,
) -> None:
    costs = read_costs(costs_path)
    front_s = costs.front_us[UNARY] * 1e-6
    site = Site(costs.engine_times(threads), front_s, deadline_s=deadline_ms / 1e3)
    study = Study(costs, site, seed)
    click.echo(f"a replica of {threads} threads: {study.rate:.1f} questions a second\n")
    core_rows, wall_rows, ray_rows = cores(costs), walls(costs, seed), behind_ray(costs, site, seed)
    show(plain_table(core_rows))
    show(wall_table(wall_rows))
    show(plain_table(ray_rows))
    points = [
        study.at(replicas, "two choices", arrivals, load)
        for replicas in REPLICAS
        for arrivals in ARRIVALS
        for load in LOADS
    ]
    show(load_tables(points))
    routed = [
        study.at(replicas, router, arrivals, load)
        for replicas in (8, 64)
        for arrivals, load in (("poisson", 0.9), ("bursts", 0.6))
        for router in ROUTERS
    ]
    show(router_table(routed))
    highest = {
        (arrivals, router, replicas): study.highest_load(replicas, router, arrivals, slo_ms)
        for arrivals in ARRIVALS
        for router in ("two choices", "random")
        for replicas in REPLICAS
    }
    show(highest_table(highest, slo_ms))
    if picture is not None:
        write_picture(points, slo_ms, picture)
    if json_path is not None:
        ran = {
            "command": shlex.join(["python", *(Path(part).name for part in sys.argv)]),
            "seed": seed,
            "machine": asdict(this_machine()),
            "versions": installed_versions(),
            "costs": asdict(costs),
            "site": asdict(site),
            "replica_rate": study.rate,
            "cores": core_rows,
            "walls": wall_rows,
            "ray": ray_rows,
            "points": [asdict(point) for point in (*points, *routed)],
            "highest_loads": [
                {"arrivals": kind, "router": router, "replicas": n, "load": load}
                for (kind, router, n), load in highest.items()
            ],
        }
        json_path.write_text(json.dumps(ran, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
