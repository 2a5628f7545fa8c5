"""1, 2 and 4 servers beside the simulation of them: p99, and questions answered in time.

The servers are the real ones, each a process of its own; their engine sleeps for the time that
scale_costs.py measured, so that it takes no core from the others. The same calls at the same times
go to the servers and into the simulation; the client chooses the server by the same rule. A case in
which the client was late itself, as the machine had no time for it, is run again after the others,
once; of its runs that counts in which the client was the least late.

pip install -e '.[bench]'
python benchmarks/scripts/scale_reality.py --data dev-v2.0.json --json reality.json
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import grpc
import numpy as np
from served_share import windows_by_question

from electra_qa.benchmarks.calls import CHANNEL_OPTIONS, UnaryCalls
from electra_qa.benchmarks.environment import this_machine
from electra_qa.benchmarks.load import OK, Floats, open_loop, run
from electra_qa.benchmarks.scale.arrivals import ARRIVALS
from electra_qa.benchmarks.scale.costs import DEFAULT, read_costs
from electra_qa.benchmarks.scale.routing import ROUTERS
from electra_qa.benchmarks.scale.simulation import capacity, simulate
from electra_qa.benchmarks.scale.site import EngineTimes, Site
from electra_qa.bundle import Bundle, default_bundle_path, load_bundle
from electra_qa.engines import EngineSettings, bucket, steps
from electra_qa.engines.null import NullEngine
from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.server.lifecycle import running
from electra_qa.server.settings import ServerSettings
from electra_qa.spans import DecodedWindows
from electra_qa.squad import read_squad
from electra_qa.versions import installed_versions
from electra_qa.windows import WindowBatch

FRONT = "unary, known texts"
# Replicas, router, arrivals, load.
Case = tuple[int, str, str, float]
CASES: list[Case] = [
    *((n, "two choices", "poisson", load) for n in (1, 2, 4) for load in (0.7, 0.9, 2.0)),
    *((n, "two choices", "bursts", 0.6) for n in (1, 4)),
    *((4, router, "poisson", 0.9) for router in ROUTERS if router != "two choices"),
]
PAUSE_S = 1.0
LAG_MS, PASSES = 5.0, 2


class SleepingEngine(NullEngine):
    """Takes the time of an engine, and nothing else.

    due_s, took_s: of all runs; a machine that is busy wakes it late.
    """

    def __init__(self, bundle: Bundle, times: EngineTimes) -> None:
        super().__init__(bundle, EngineSettings("null", max_batch_tokens=times.batch_tokens))
        self.device = "sleeps"
        self._times = times
        self.due_s = self.took_s = 0.0

    def run(self, batch: WindowBatch) -> DecodedWindows:
        times, began = self._times, time.monotonic()
        due_s = times.run_s + times.token_s * batch.input_ids.size
        due_s += times.window_s * len(batch.bounds)
        decoded = super().run(batch)
        time.sleep(max(0.0, began + due_s - time.monotonic()))
        self.due_s += due_s
        self.took_s += time.monotonic() - began
        return decoded


async def serve(times: EngineTimes) -> None:
    """Until standard input ends."""
    bundle = load_bundle(default_bundle_path())
    settings = ServerSettings(address="127.0.0.1:0", warm_up_lengths="none")
    engine = SleepingEngine(bundle, times)
    async with running(bundle, engine, settings) as address:
        print(address, flush=True)
        await asyncio.to_thread(sys.stdin.read)
    print(engine.due_s, engine.took_s, flush=True)


class Servers:
    def __init__(self, count: int, costs: Path, threads: int) -> None:
        command = [sys.executable, __file__, "--serve", "--costs", str(costs)]
        command += ["--threads", str(threads)]
        self._processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(count)
        ]
        self.addresses = [self._address(process) for process in self._processes]

    def _address(self, process: subprocess.Popen[str]) -> str:
        assert process.stdout
        return process.stdout.readline().strip()

    def close(self) -> float:
        """Returns how long the engines took, as a multiple of what was due."""
        due_s = took_s = 0.0
        for process in self._processes:
            out, _ = process.communicate()
            due_s, took_s = (
                a + float(b) for a, b in zip((due_s, took_s), out.split(), strict=True)
            )
        return took_s / due_s


@dataclass(frozen=True, slots=True)
class Figures:
    """Times in ms; in_time: of the calls, the share answered within the deadline."""

    p50_ms: float
    p99_ms: float
    in_time: float


@dataclass(frozen=True, slots=True)
class Run:
    """lag_ms: how late the client sent, at p99. stretch: how long the engines took, of what was
    due."""

    real: Figures
    lag_ms: float
    stretch: float
    load_average: float


def figures(latencies: Floats) -> Figures:
    """latencies: in seconds, NaN for a call that was not answered in time."""
    answered = 1e3 * latencies[~np.isnan(latencies)]
    p50, p99 = np.percentile(answered, (50, 99)) if len(answered) else (np.nan, np.nan)
    return Figures(
        round(float(p50), 1), round(float(p99), 1), round(len(answered) / len(latencies), 4)
    )


async def ask(
    addresses: Sequence[str],
    router: str,
    arrivals: Floats,
    requests: Sequence[bytes],
    deadline_s: float,
    seed: int,
) -> tuple[Floats, float]:
    """Latencies, and the load generator's own lag at p99, in seconds."""
    route = ROUTERS[router](random.Random(seed))
    under_way = [0] * len(addresses)
    async with AsyncExitStack() as stack:
        servers = []
        for address in addresses:
            channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
            await stack.enter_async_context(channel)
            await channel.channel_ready()
            servers.append(UnaryCalls(channel, requests, deadline_s))

        async def send(number: int) -> str:
            place = route(under_way)
            under_way[place] += 1
            try:
                return await servers[place].send(number)
            finally:
                under_way[place] -= 1

        gc.collect()
        gc.disable()
        recording = await open_loop(send, arrivals)
        gc.enable()
    in_time = recording.ok & (recording.latencies <= deadline_s)
    statuses = {status for status in recording.statuses if status != OK}
    assert statuses <= {"RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}, statuses
    latencies = np.where(in_time, recording.latencies, np.nan)
    return latencies, float(np.percentile(recording.send_lags, 99))


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--costs", "costs_path", type=click.Path(exists=True, path_type=Path), default=DEFAULT
)
@click.option("--threads", default=1, show_default=True, help="Of the engine that is stood in for.")
@click.option("--seconds", default=30.0, show_default=True, help="Of a case.")
@click.option("--deadline-ms", default=1000.0, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path))
@click.option("--serve", "is_server", is_flag=True, hidden=True)
def main(
    data: Path | None,
    costs_path: Path,
    threads: int,
    seconds: float,
    deadline_ms: float,
    seed: int,
    json_path: Path | None,
    is_server: bool,
) -> None:
    costs = read_costs(costs_path)
    times = costs.engine_times(threads)
    if is_server:
        asyncio.run(serve(times))
        return
    if data is None:
        raise click.UsageError("--data is missing")
    bundle = load_bundle(default_bundle_path())
    questions = random.Random(seed).sample(read_squad(data), 8_000)
    buckets = steps(16, bundle.manifest.max_seq_length_limit)
    calls = [
        tuple(bucket(buckets, window.length) for window in windows)
        for windows in windows_by_question(bundle, questions)
    ]
    requests = [
        pb.AnswerRequest(question=q.question, context=q.context).SerializeToString()
        for q in questions
    ]
    front_s = costs.front_us[FRONT] * 1e-6
    site = Site(times, front_s, deadline_s=deadline_ms / 1e3)
    one = capacity(site, calls[:4_000])
    click.echo(
        f"{one:.1f} questions a second of a replica\n\n"
        "real / simulated / simulated with the engine as slow as it was\n"
    )

    def due(case: Case) -> Floats:
        replicas, _, kind, load = case
        return ARRIVALS[kind](load * replicas * one, seconds, np.random.default_rng(seed))

    runs: dict[Case, list[Run]] = {case: [] for case in CASES}
    for _ in range(PASSES):
        for case, of_case in runs.items():
            if of_case and best(of_case).lag_ms <= LAG_MS:
                continue
            servers = Servers(case[0], costs_path, threads)
            time.sleep(PAUSE_S)
            try:
                asked = ask(servers.addresses, case[1], due(case), requests, site.deadline_s, seed)
                latencies, lag = run(asked)
            finally:
                stretch = servers.close()
            load_average = round(os.getloadavg()[0], 1)
            of_case.append(
                Run(figures(latencies), round(1e3 * lag, 1), round(stretch, 4), load_average)
            )
            click.echo(f"{case}: {of_case[-1]}", err=True)
    heads = ["replicas", "router, arrivals", "load", "p50, ms", "p99, ms", "in time"]
    heads += ["the engine's sleep", "client late at p99, ms"]
    click.echo("| " + " | ".join(heads) + " |")
    click.echo("| ---: | --- |" + " ---: |" * (len(heads) - 2))
    rows = []
    for case, of_case in runs.items():
        replicas, router, kind, load = case
        chosen, arrivals = best(of_case), due(case)
        sent = [calls[number % len(calls)] for number in range(len(arrivals))]

        there = replace(site, replicas=replicas, router=router)
        slow = replace(
            times,
            run_s=times.run_s * chosen.stretch,
            token_s=times.token_s * chosen.stretch,
            window_s=times.window_s * chosen.stretch,
        )
        models = [there, replace(there, engine=slow)]
        outcomes = [simulate(model, arrivals, sent, seed).latencies for model in models]
        three = (chosen.real, *map(figures, outcomes))
        rows.append(
            {
                "replicas": replicas,
                "router": router,
                "arrivals": kind,
                "load": load,
                "calls": len(sent),
                "real": [asdict(of_run) for of_run in of_case],
                "simulated": asdict(three[1]),
                "simulated_stretched": asdict(three[2]),
            }
        )
        click.echo(
            f"| {replicas} | {router}, {kind} | {load:g} "
            f"| {' / '.join(f'{one.p50_ms:.0f}' for one in three)} "
            f"| {' / '.join(f'{one.p99_ms:.0f}' for one in three)} "
            f"| {' / '.join(f'{one.in_time:.1%}' for one in three)} "
            f"| × {chosen.stretch:.3f} | {chosen.lag_ms:.1f} |"
        )
    if json_path is not None:
        ran = {
            "command": shlex.join(["python", *(Path(part).name for part in sys.argv)]),
            "machine": asdict(this_machine()),
            "versions": installed_versions(),
            "site": asdict(site),
            "replica_rate": one,
            "cases": rows,
        }
        json_path.write_text(json.dumps(ran, indent=1) + "\n", encoding="utf-8")


def best(runs: Sequence[Run]) -> Run:
    return min(runs, key=lambda one: one.lag_ms)


if __name__ == "__main__":
    main()
