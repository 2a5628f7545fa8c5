"""What a question costs in each part of the server, as CPU time: what the simulation reckons with.

The server is asked with the null engine, by its own count of CPU seconds, so that what the load
generator and others take does not count. The batcher is measured in this process, with an engine
that returns what it has. The engine runs on one thread.

pip install -e '.[bench]'
python benchmarks/scripts/scale_costs.py --data dev-v2.0.json
"""

from __future__ import annotations

import asyncio
import os
import random
import shlex
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import grpc
import numpy as np
from served_share import sorted_batches, windows_by_question, windows_of

from electra_qa.benchmarks.addresses import free_address
from electra_qa.benchmarks.calls import CHANNEL_OPTIONS, open_calls
from electra_qa.benchmarks.environment import this_machine
from electra_qa.benchmarks.load import OK, closed_loop
from electra_qa.benchmarks.scale.costs import DEFAULT, Costs, EngineCosts, Spread, write_costs
from electra_qa.benchmarks.server_figures import read_counters
from electra_qa.benchmarks.workload import (
    Mode,
    Workload,
    read_workload,
    serialized_requests,
)
from electra_qa.bundle import Bundle, default_bundle_path, load_bundle
from electra_qa.engines import Engine, EngineSettings, bucket, load_engine, steps
from electra_qa.private import ServerProcess
from electra_qa.server.engine.batcher import Batcher, WindowRequest
from electra_qa.server.observe.metrics import Metrics
from electra_qa.spans import DecodedWindows
from electra_qa.squad import SquadQuestion, read_squad
from electra_qa.versions import installed_versions
from electra_qa.windows import Window, WindowBatch

# A way to ask: questions a request, requests under way.
MODES: dict[Mode, tuple[int, int]] = {"unary": (1, 64), "batch": (32, 4), "stream": (1, 64)}
QUESTIONS = 2048  # of a round
ROUNDS = 5
CALLERS = (1, 4, 16, 64, 256)  # of the batcher
BATCHER_WINDOWS = 4096
ENGINE_QUESTIONS = 200
DEADLINE_S = 600.0


@dataclass(frozen=True, slots=True)
class Served:
    """A round: for a question, µs of the server's CPU time, windows and batches."""

    cpu_us: float
    windows: float
    batches: float


def spread(values: Sequence[float]) -> Spread:
    return Spread(
        *(round(value, 1) for value in (statistics.median(values), min(values), max(values)))
    )


async def ask(address: str, url: str, requests: Sequence[bytes], mode: Mode) -> Served:
    size, callers = MODES[mode]
    before = await asyncio.to_thread(read_counters, url)
    async with (
        grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel,
        open_calls(mode, channel, requests, DEADLINE_S) as calls,
    ):
        recording = await closed_loop(calls.send, callers, requests=len(requests))
    assert set(recording.statuses) == {OK}, recording.statuses
    assert not calls.failures, calls.failures
    after = await asyncio.to_thread(read_counters, url)

    def grown(name: str) -> float:
        return (after[name] - before.get(name, 0.0)) / (size * len(requests))

    return Served(
        1e6 * grown("process_cpu_seconds_total"),
        grown("electra_qa_windows_total"),
        grown("electra_qa_batches_total"),
    )


def served(workload: Workload, texts: str, arguments: Sequence[str]) -> dict[str, list[Served]]:
    """{way to ask: its rounds}, in turns, after one that does not count."""
    metrics = free_address()
    arguments = [*arguments, "--engine", "null", "--metrics-address", metrics]
    rng = np.random.default_rng(0)
    requests = {mode: serialized_requests(workload, mode, MODES[mode][0], rng) for mode in MODES}
    rounds: dict[str, list[Served]] = defaultdict(list)
    with ServerProcess(arguments=arguments) as server:
        for number in range(1 + ROUNDS):
            for mode, of_mode in requests.items():
                url = f"http://{metrics}/metrics"
                one = asyncio.run(ask(server.address, url, of_mode, mode))
                if number:
                    rounds[f"{mode}, {texts}"].append(one)
    return rounds


class FreeEngine:
    """Returns what it has: what is left is the batcher's and padding's."""

    device = "free"
    slots = 1
    batch_tokens = 16_384

    def __init__(self) -> None:
        self.buckets = steps(16, 512)
        self.runs = 0
        windows = self.batch_tokens // 16
        self._decoded = DecodedWindows(
            np.zeros((windows, 20, 2), np.int32),
            np.zeros((windows, 20, 2), np.float32),
            np.zeros((windows, 2), np.float32),
            np.zeros((windows, 2), np.float32),
            np.zeros((windows, 512, 2), np.float32),
        )

    def run(self, batch: WindowBatch) -> DecodedWindows:
        self.runs += 1
        count, length = batch.input_ids.shape
        whole = self._decoded
        return DecodedWindows(
            whole.spans[:count],
            whole.span_logits[:count],
            whole.null_logits[:count],
            whole.log_partition[:count],
            whole.logits[:count, :length],
        )

    def close(self) -> None:
        pass


async def batcher_round(windows: Sequence[Window], callers: int) -> tuple[int, int, float]:
    """Windows, batches, and the CPU time of this process, in µs."""
    engine = FreeEngine()
    batcher = Batcher(engine, pad_id=0, max_queue_tokens=2**40, metrics=Metrics())
    waiting = iter(windows)

    async def caller() -> None:
        for window in waiting:
            await batcher.submit([WindowRequest([window], 30)])

    began = time.process_time()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(callers):
            tasks.create_task(caller())
    seconds = time.process_time() - began
    batcher.close()
    return len(windows), engine.runs, 1e6 * seconds


def batcher_costs(windows: Sequence[Window]) -> tuple[float, float]:
    """Of a window and of a batch, in µs, by least squares over the medians."""
    rows, spent = [], []
    for callers in CALLERS:
        rounds = [asyncio.run(batcher_round(windows, callers)) for _ in range(ROUNDS)]
        count, runs, cpu_us = sorted(rounds, key=lambda one: one[2])[ROUNDS // 2]
        click.echo(
            f"batcher, {callers:3} callers: {cpu_us / count:6.1f} µs a window, "
            f"{count / runs:5.1f} windows a batch"
        )
        # Each counts alike, however long it takes.
        rows.append([1.0 / cpu_us * count, runs / cpu_us])
        spent.append(1.0)
    window_us, batch_us = np.linalg.lstsq(np.array(rows), np.array(spent), rcond=None)[0]
    return float(window_us), float(batch_us)


def engine_costs(bundle: Bundle, questions: Sequence[SquadQuestion]) -> EngineCosts:
    engine = load_engine(bundle, EngineSettings(threads=1))
    windows = windows_of(bundle, questions)
    batches = sorted_batches(engine, windows)
    alone = [
        WindowBatch.pad([w], [30], length=bucket(engine.buckets, w.length), pad_id=0)
        for w in windows
    ]
    rows, spent, rates = [], [], []
    for number in range(4):
        began = time.process_time()
        for batch in batches:
            seconds = run(engine, batch)
            if number:
                rows.append((len(batch.bounds), batch.input_ids.size, 1))
                spent.append(seconds)
        rates.append(len(windows) / (time.process_time() - began))
    for number, batch in enumerate(alone * 2):
        seconds = run(engine, batch)
        if number >= len(alone):
            rows.append((1, batch.input_ids.size, 1))
            spent.append(seconds)
    window_us, token_us, run_us = least_squares(rows, spent)
    device, batch_tokens = engine.device, engine.batch_tokens
    engine.close()
    manifest = bundle.manifest
    return EngineCosts(
        device,
        f"{manifest.source}, {manifest.precision}",
        batch_tokens,
        round(window_us, 1),
        round(token_us, 2),
        round(run_us, 1),
        spread(rates[1:]),
    )


def run(engine: Engine, batch: WindowBatch) -> float:
    """Seconds of CPU time."""
    began = time.process_time()
    engine.run(batch)
    return time.process_time() - began


def least_squares(
    rows: Sequence[tuple[int, int, int]], seconds: Sequence[float]
) -> tuple[float, float, float]:
    """Costs in µs, none under 0: what would be is taken out."""
    kept = [0, 1, 2]
    table, spent = np.array(rows, dtype=float), np.array(seconds)
    while True:
        found = np.linalg.lstsq(table[:, kept], spent, rcond=None)[0]
        if found.min() >= 0:
            break
        del kept[int(found.argmin())]
    costs = np.zeros(3)
    costs[kept] = found * 1e6
    return float(costs[0]), float(costs[1]), float(costs[2])


def question_lengths(bundle: Bundle, questions: Sequence[SquadQuestion]) -> Mapping[str, int]:
    buckets = steps(16, bundle.manifest.max_seq_length_limit)
    found = Counter(
        tuple(bucket(buckets, window.length) for window in windows)
        for windows in windows_by_question(bundle, questions)
    )
    return {"+".join(map(str, lengths)): count for lengths, count in sorted(found.items())}


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--json", "path", type=click.Path(path_type=Path), default=DEFAULT)
def main(data: Path, path: Path) -> None:
    """Writes benchmarks/scale/costs.json."""
    load_before = os.getloadavg()[0]
    bundle = load_bundle(default_bundle_path())
    questions = read_squad(data)
    sample = random.Random(0).sample(questions, BATCHER_WINDOWS)
    window_us, batch_us = (round(cost, 1) for cost in batcher_costs(windows_of(bundle, sample)))
    click.echo(f"batcher: {window_us:.1f} µs a window and {batch_us:.1f} µs a batch")
    engine = engine_costs(bundle, sample[:ENGINE_QUESTIONS])
    click.echo(
        f"{engine.device}: {engine.windows_per_second.median:.1f} windows a second and core; "
        f"{engine.window_us:.0f} µs a window, {engine.token_us:.1f} µs a token, "
        f"{engine.run_us:.0f} µs a run"
    )
    known = read_workload(data, QUESTIONS)
    # A question about each text, and nothing kept.
    new = replace(
        known, pairs=list({q.context: (q.question, q.context) for q in questions}.values())
    )
    rounds = served(known, "known texts", []) | served(
        new, "new texts", ["--context-cache-bytes", "0"]
    )
    server_us, front_us = {}, {}
    for way, of_way in rounds.items():
        server_us[way] = spread([one.cpu_us for one in of_way])
        front_us[way] = round(
            statistics.median(
                one.cpu_us - window_us * one.windows - batch_us * one.batches for one in of_way
            ),
            1,
        )
        windows, batches = of_way[0].windows, of_way[0].batches
        click.echo(
            f"{way:20} {server_us[way].median:6.0f} µs a question ({server_us[way].least:.0f} to "
            f"{server_us[way].most:.0f}), {windows / batches:.1f} windows a batch; "
            f"the front part {front_us[way]:.0f}"
        )
    costs = Costs(
        server_us,
        front_us,
        window_us,
        batch_us,
        engine,
        question_lengths(bundle, questions),
        data.name,
        this_machine(),
        (load_before, os.getloadavg()[0]),
        installed_versions(),
        shlex.join(["python", *(Path(part).name for part in sys.argv)]),
    )
    write_costs(costs, path)


if __name__ == "__main__":
    main()
