"""What a question costs each process of a server, in CPU time, which others on the machine don't
change much: all in one process, one front end, two. Of several rounds the cheapest counts, which
others disturbed least. With the null engine; Linux only.

A process has at most one core's time, since it is Python: what it needs a question, or a window, is
the most that it can pass. The callers have connections of their own, so that all front ends are
reached.

pip install 'electra-qa[bench]' psutil
python benchmarks/scripts/front_ends.py --data dev-v2.0.json
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import grpc
import numpy as np
import psutil
from served_share import windows_of

from electra_qa.benchmarks.addresses import free_address
from electra_qa.benchmarks.calls import CHANNEL_OPTIONS, BatchCalls, UnaryCalls
from electra_qa.benchmarks.environment import this_machine
from electra_qa.benchmarks.load import OK, closed_loop
from electra_qa.benchmarks.workload import Mode, Workload, serialized_requests
from electra_qa.bundle import default_bundle_path, load_bundle
from electra_qa.client import Client
from electra_qa.engines import EngineSettings, load_engine
from electra_qa.server.collector import keep_what_is_there
from electra_qa.server.engine.batcher import WindowRequest
from electra_qa.server.observe.metrics import Metrics
from electra_qa.server.processes.engine_process import engine_at
from electra_qa.server.processes.remote import Engines
from electra_qa.server.settings import ServerSettings
from electra_qa.squad import SquadQuestion, read_squad

MODES: tuple[Mode, ...] = ("unary", "batch")
BATCH_QUESTIONS = 32
# So many connections, and callers on each: all processes always have something to do.
CONNECTIONS = 16
CALLERS = {"unary": 16, "batch": 2}
# Of the engine's process alone: calls under way.
CALLS = {"unary": 512, "batch": 32}
OWN_CONNECTION = ("grpc.use_local_subchannel_pool", 1)
# After so many rounds each front end has tokenized each context: which of them gets a request is
# chance.
WARM_UPS = 6
DEADLINE_S = 600.0


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU time in microseconds a question: of the front ends (with none of the one process)
    together, of the engine's process, and of that a window."""

    front_ends: int
    mode: str
    questions: int
    windows: int
    front_us: float
    shares: list[float]
    engine_us: float
    engine_window_us: float


@dataclass(frozen=True, slots=True)
class EngineCost:
    """Of the engine's process, alone with a caller of windows: CPU time in microseconds a window,
    of it and of who asks, and the most windows a second that follow."""

    mode: str
    windows: int
    window_us: float
    asking_us: float
    ceiling: float


@contextmanager
def server(front_ends: int, options: Sequence[str]) -> Iterator[tuple[str, psutil.Process]]:
    address = free_address()
    command = [sys.executable, "-m", "electra_qa", "serve", "--address", address]
    command += ["--engine", "null", "--front-ends", str(front_ends), "--log-level", "warning"]
    process = subprocess.Popen([*command, *options])
    try:
        with Client(address) as client:
            client.wait_until_ready(120)
        yield address, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def roles(process: psutil.Process, front_ends: int) -> tuple[list[psutil.Process], psutil.Process]:
    """The front ends and the engine, which is started first."""
    if not front_ends:
        return [process], process
    children = [one for one in process.children() if "resource_tracker" not in str(one.cmdline())]
    engine, *fronts = sorted(children, key=lambda one: (one.create_time(), one.pid))
    assert len(fronts) == front_ends
    return fronts, engine


def spent(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def ask(address: str, requests: Sequence[bytes], mode: Mode) -> int:
    """Each request once; gives the number of windows."""
    options = [*CHANNEL_OPTIONS, OWN_CONNECTION]
    channels = [grpc.aio.insecure_channel(address, options) for _ in range(CONNECTIONS)]
    kind = BatchCalls if mode == "batch" else UnaryCalls
    parts = [
        kind(channel, requests[n::CONNECTIONS], DEADLINE_S) for n, channel in enumerate(channels)
    ]
    recordings = await asyncio.gather(
        *(
            closed_loop(part.send, CALLERS[mode], requests=len(requests[n::CONNECTIONS]))
            for n, part in enumerate(parts)
        )
    )
    assert all(set(one.statuses) == {OK} for one in recordings)
    for channel in channels:
        await channel.close()
    return sum(part.windows for part in parts)


def measure(
    front_ends: int, mode: Mode, requests: Sequence[bytes], questions: int, options: Sequence[str]
) -> Cost:
    with server(front_ends, options) as (address, process):
        fronts, engine = roles(process, front_ends)
        for _ in range(WARM_UPS):
            asyncio.run(ask(address, requests, mode))
        before = [spent(one) for one in (*fronts, engine)]
        windows = asyncio.run(ask(address, requests, mode))
        after = [spent(one) for one in (*fronts, engine)]
    *of_fronts, of_engine = ((end - begin) * 1e6 for begin, end in zip(before, after, strict=True))
    return Cost(
        front_ends,
        mode,
        questions,
        windows,
        sum(of_fronts) / questions,
        [one / sum(of_fronts) for one in of_fronts],
        of_engine / questions,
        of_engine / windows,
    )


def engine_alone(path: str) -> None:
    """A process with the null engine and nothing else."""

    async def serve() -> None:
        bundle = load_bundle(default_bundle_path())
        engine = load_engine(bundle, EngineSettings("null"))
        settings = ServerSettings(warm_up_lengths="none")
        async with engine_at(path, bundle, engine, Metrics(), settings, None):
            keep_what_is_there()
            await asyncio.Event().wait()

    asyncio.run(serve())


async def submit(path: str, calls: Sequence[Sequence[WindowRequest]], at_a_time: int) -> None:
    engines = Engines([path])
    following = iter(calls)
    async with engines.connected():
        parts = await engines.first()
        backend = parts.backend(ServerSettings(), Metrics(), asyncio.Event().wait)

        async def caller() -> None:
            for call in following:
                outcomes = await backend.submit(call)
                assert len(outcomes) == len(call)

        await asyncio.gather(*(caller() for _ in range(at_a_time)))


def measure_engine(mode: Mode, questions: Sequence[SquadQuestion], rounds: int) -> EngineCost:
    bundle = load_bundle(default_bundle_path())
    # One window each, as most questions have.
    windows = windows_of(bundle, questions)[: len(questions)]
    requests = [WindowRequest([one], bundle.manifest.max_answer_length) for one in windows]
    size = BATCH_QUESTIONS if mode == "batch" else 1
    calls = [requests[n : n + size] for n in range(0, len(requests), size)]
    with TemporaryDirectory() as folder:
        path = f"{folder}/engine"
        process = multiprocessing.get_context("spawn").Process(target=engine_alone, args=(path,))
        process.start()
        asyncio.run(submit(path, calls[: len(calls) // 4], CALLS[mode]))
        engine = psutil.Process(process.pid)
        passes = []
        for _ in range(rounds):
            before, ours = spent(engine), time.process_time()
            asyncio.run(submit(path, calls, CALLS[mode]))
            passes.append((spent(engine) - before, time.process_time() - ours))
        used, ours = min(passes)
        process.kill()
        process.join()
    asked = len(requests)
    return EngineCost(mode, asked, used * 1e6 / asked, ours * 1e6 / asked, asked / used)


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--questions", "count", default=8_000, show_default=True)
@click.option("--rounds", default=3, show_default=True, help="The cheapest counts.")
@click.option("--front-ends", "numbers", default=(0, 1, 2), multiple=True, show_default=True)
@click.option("--no-servers", is_flag=True, help="The engine's process alone.")
@click.option("--output", type=click.Path(path_type=Path), help="A JSON file of all that it saw.")
@click.argument("options", nargs=-1)
def main(
    data: Path,
    count: int,
    rounds: int,
    numbers: Sequence[int],
    no_servers: bool,
    output: Path | None,
    options: Sequence[str],
) -> None:
    """OPTIONS: more of `electra-qa serve`."""
    asked = read_squad(data)[:count]
    workload = Workload([(q.question, q.context) for q in asked], data.name, None)
    rng = np.random.default_rng(0)
    engine_costs = []
    for mode in MODES:
        alone = measure_engine(mode, asked, rounds)
        engine_costs.append(alone)
        click.echo(
            f"engine's process alone, {mode}: {alone.window_us:.1f} µs a window, at most "
            f"{alone.ceiling:,.0f} windows a second; who asks {alone.asking_us:.1f} µs"
        )
    costs = []
    click.echo("front ends  mode   µs a question: front  engine   µs a window   shares")
    for mode in () if no_servers else MODES:
        size = BATCH_QUESTIONS if mode == "batch" else 1
        requests = serialized_requests(workload, mode, size, rng)
        for front_ends in numbers:
            cost = min(
                (
                    measure(front_ends, mode, requests, len(requests) * size, options)
                    for _ in range(rounds)
                ),
                key=lambda one: one.front_us,
            )
            costs.append(cost)
            shares = " ".join(f"{share:.0%}" for share in cost.shares)
            click.echo(
                f"{front_ends:10}  {mode:6} {cost.front_us:19.0f} {cost.engine_us:7.0f} "
                f"{cost.engine_window_us:13.1f}   {shares}"
            )
    if output is not None:
        seen = {
            "command": sys.argv,
            "machine": asdict(this_machine()),
            "versions": {name: version(name) for name in ("electra-qa", "grpcio", "numpy")}
            | {"python": sys.version.split()[0]},
            "engine": [asdict(cost) for cost in engine_costs],
            "costs": [asdict(cost) for cost in costs],
        }
        output.write_text(json.dumps(seen, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
