"""How much of the engine's speed is left when it is served: windows a second, side by side.

The bare engine gets the windows of all questions sorted by length, in batches of the same token
budget, with nothing else to do. The server gets the questions: 64 callers with a question each, and
AnswerBatch. In turns, on the same machine, the load generator beside the server.

pip install 'electra-qa[bench]'
python benchmarks/scripts/served_share.py --data dev-v2.0.json
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click
import grpc
import numpy as np

from electra_qa.benchmarks.calls import CHANNEL_OPTIONS, BatchCalls, UnaryCalls
from electra_qa.benchmarks.load import OK, closed_loop
from electra_qa.benchmarks.server_figures import figures_between, read_counters
from electra_qa.benchmarks.workload import Mode, Workload, serialized_requests
from electra_qa.bundle import Bundle, default_bundle_path, load_bundle
from electra_qa.engines import Engine, EngineSettings, batches_by_length, load_engine
from electra_qa.private import ServerProcess
from electra_qa.squad import SquadQuestion, read_squad
from electra_qa.tokenization import Tokenizer
from electra_qa.windows import Window, WindowBatch, make_windows

CALLERS = 64
BATCH_QUESTIONS = 32
BATCH_CALLERS = 4
DEADLINE_S = 600.0


@dataclass(frozen=True, slots=True)
class Turn:
    """windows a second, and the share of padding among the tokens that were computed."""

    rate: float
    padding: float


def windows_by_question(
    bundle: Bundle, questions: Sequence[SquadQuestion]
) -> Iterator[list[Window]]:
    tokenizer = Tokenizer(bundle.read_tokenizer(), bundle.manifest.special_tokens)
    for question in questions:
        yield make_windows(
            tokenizer.question(question.question),
            tokenizer.context(question.context).ids,
            settings=bundle.manifest.window_settings,
            cls_id=tokenizer.cls_id,
            sep_id=tokenizer.sep_id,
        )


def windows_of(bundle: Bundle, questions: Sequence[SquadQuestion]) -> list[Window]:
    return [window for of_one in windows_by_question(bundle, questions) for window in of_one]


def sorted_batches(engine: Engine, windows: Sequence[Window]) -> list[WindowBatch]:
    """By length, the longest first."""
    return [
        WindowBatch.pad([windows[i] for i in places], [30] * len(places), length=length, pad_id=0)
        for length, places in batches_by_length(
            [window.length for window in windows], engine.buckets, engine.batch_tokens
        )
    ]


def bare(engine: Engine, batches: Sequence[WindowBatch], tokens: int) -> Turn:
    computed = sum(batch.input_ids.size for batch in batches)
    return Turn(windows_a_second(engine.run, engine.slots, batches), 1 - tokens / computed)


def windows_a_second(
    run: Callable[[WindowBatch], object], slots: int, batches: Sequence[WindowBatch]
) -> float:
    started = time.perf_counter()
    with ThreadPoolExecutor(slots) as threads:
        list(threads.map(run, batches))
    return sum(len(batch.bounds) for batch in batches) / (time.perf_counter() - started)


async def served(address: str, metrics: str, requests: Sequence[bytes], mode: Mode) -> Turn:
    before = await asyncio.to_thread(read_counters, metrics)
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        kind = BatchCalls if mode == "batch" else UnaryCalls
        calls = kind(channel, requests, DEADLINE_S)
        callers = BATCH_CALLERS if mode == "batch" else CALLERS
        recording = await closed_loop(calls.send, callers, requests=len(requests))
    assert set(recording.statuses) == {OK}, recording.statuses
    after = await asyncio.to_thread(read_counters, metrics)
    figures = figures_between(before, after, recording.seconds)
    assert figures.padding_share is not None
    return Turn(calls.windows / recording.seconds, figures.padding_share)


def show(turns: Mapping[str, Sequence[Turn]]) -> None:
    """A line each; shares are of the turns of "bare engine"."""
    for name, of_name in turns.items():
        rate = statistics.median(turn.rate for turn in of_name)
        shares = [
            turn.rate / base.rate for turn, base in zip(of_name, turns["bare engine"], strict=True)
        ]
        click.echo(
            f"{name:17} {rate:7.1f} windows/s  {statistics.median(shares):6.1%} of the bare engine"
            f"  ({min(shares):.1%} to {max(shares):.1%})"
            f"  padding {statistics.median(turn.padding for turn in of_name):.1%}"
        )


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--bundle", "bundle_path", type=click.Path(exists=True, path_type=Path))
@click.option("--questions", "count", default=600, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--streams", type=click.IntRange(min=1), help="[default: the engine's own choice]")
@click.option("--max-batch-tokens", type=click.IntRange(min=1))
@click.option("--metrics-port", default=9464, show_default=True)
def main(
    data: Path,
    bundle_path: Path | None,
    count: int,
    rounds: int,
    streams: int | None,
    max_batch_tokens: int | None,
    metrics_port: int,
) -> None:
    bundle = load_bundle(bundle_path or default_bundle_path())
    questions = random.Random(0).sample(read_squad(data), count)
    settings = EngineSettings(streams=streams, max_batch_tokens=max_batch_tokens)
    engine = load_engine(bundle, settings)
    windows = windows_of(bundle, questions)
    tokens = sum(window.length for window in windows)
    batches = sorted_batches(engine, windows)
    workload = Workload([(q.question, q.context) for q in questions], data.name, None)
    rng = np.random.default_rng(0)
    requests: dict[Mode, list[bytes]] = {
        "unary": serialized_requests(workload, "unary", 1, rng),
        "batch": serialized_requests(workload, "batch", BATCH_QUESTIONS, rng),
    }
    metrics = f"127.0.0.1:{metrics_port}"
    arguments = ["--metrics-address", metrics, "--max-batch-tokens", str(engine.batch_tokens)]
    if streams is not None:
        arguments += ["--streams", str(streams)]
    click.echo(f"{engine.device}, {engine.batch_tokens} tokens a batch, {len(windows)} windows")
    turns: dict[str, list[Turn]] = {"bare engine": [], "unary": [], "batch": []}
    bare(engine, batches, tokens)
    with ServerProcess(bundle.path, arguments=arguments) as server:
        url = f"http://{metrics}/metrics"
        for _ in range(rounds):
            turns["bare engine"].append(bare(engine, batches, tokens))
            for mode, of_mode in requests.items():
                turns[mode].append(asyncio.run(served(server.address, url, of_mode, mode)))
    show(turns)
    engine.close()


if __name__ == "__main__":
    main()
