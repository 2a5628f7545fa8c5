"""Windows a second of engines with no server around them, in turns.

Bundles, and graphs of others that OpenVINO reads and that have Transformers' inputs and outputs,
such as NNCF's (`benchmarks/peers` makes one: exports/…/openvino/int8). All get the same windows,
sorted by length, in the same batches, with as many streams; the batch's spans are decoded where
the graph does it, which Transformers' does not.

pip install 'electra-qa[bench]'
python benchmarks/scripts/engine_speed.py --data dev-v2.0.json --bundle bundle/ --graph model.xml
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from served_share import sorted_batches, windows_a_second, windows_of

from electra_qa.bundle import Bundle, default_bundle_path, load_bundle
from electra_qa.engines import EngineSettings, load_engine
from electra_qa.engines.openvino import openvino_core
from electra_qa.engines.pool import Pool
from electra_qa.squad import read_squad
from electra_qa.windows import WindowBatch

PATH = click.Path(exists=True, path_type=Path)


@dataclass(frozen=True, slots=True)
class Contestant:
    name: str
    slots: int
    run: Callable[[WindowBatch], object]


def bundle_engine(path: Path, streams: int | None) -> Contestant:
    engine = load_engine(load_bundle(path), EngineSettings(streams=streams))
    return Contestant(_name(path, streams), engine.slots, engine.run)


def foreign_graph(path: Path, streams: int | None) -> Contestant:
    config = {"PERFORMANCE_HINT": "THROUGHPUT"}
    if streams is not None:
        config["NUM_STREAMS"] = str(streams)
    compiled = openvino_core().compile_model(str(path), "CPU", config)
    slots = compiled.get_property("NUM_STREAMS") + 1
    requests = Pool(compiled.create_infer_request() for _ in range(slots))
    names = {name for tensor in compiled.inputs for name in tensor.get_names()}

    def run(batch: WindowBatch) -> object:
        feed = {name: value for name, value in transformers_inputs(batch) if name in names}
        with requests.one() as request:
            return request.infer(feed, share_inputs=True)

    return Contestant(_name(path, streams), slots, run)


def transformers_inputs(batch: WindowBatch) -> Iterator[tuple[str, np.ndarray]]:
    """The inputs of a model for question answering, int64 [windows, length]."""
    positions = np.arange(batch.input_ids.shape[1])
    start, end = batch.bounds[:, :1], batch.bounds[:, 1:2]
    yield "input_ids", batch.input_ids.astype(np.int64)
    yield "attention_mask", (positions <= end).astype(np.int64)
    yield "token_type_ids", ((start <= positions) & (positions <= end)).astype(np.int64)


def _name(path: Path, streams: int | None) -> str:
    return f"{path.stem if path.is_file() else path.name}, {streams or 'its own'} streams"


def batches_of(bundle: Bundle, data: Path, questions: int, batch_tokens: int) -> list[WindowBatch]:
    engine = load_engine(bundle, EngineSettings("null", max_batch_tokens=batch_tokens))
    return sorted_batches(
        engine, windows_of(bundle, random.Random(0).sample(read_squad(data), questions))
    )


@click.command()
@click.option("--data", type=PATH, required=True)
@click.option("--bundle", "bundles", type=PATH, multiple=True)
@click.option("--graph", "graphs", type=PATH, multiple=True)
@click.option("--streams", type=int, multiple=True, help="0: the engine's own choice.", default=[0])
@click.option("--questions", default=300, show_default=True)
@click.option("--batch-tokens", default=1024, show_default=True)
@click.option("--rounds", default=7, show_default=True)
def main(
    data: Path,
    bundles: tuple[Path, ...],
    graphs: tuple[Path, ...],
    streams: tuple[int, ...],
    questions: int,
    batch_tokens: int,
    rounds: int,
) -> None:
    bundles = bundles or (default_bundle_path(),)
    batches = batches_of(load_bundle(bundles[0]), data, questions, batch_tokens)
    contestants = [bundle_engine(path, count or None) for path in bundles for count in streams]
    contestants += [foreign_graph(path, count or None) for path in graphs for count in streams]
    rates: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    for number in range(rounds + 1):  # the first one compiles kernels
        for contestant in contestants:
            measured = windows_a_second(contestant.run, contestant.slots, batches)
            if number:
                rates[contestant.name].append(measured)
    first = rates[contestants[0].name]
    for name, measured_rates in rates.items():
        ratios = [mine / its for mine, its in zip(measured_rates, first, strict=True)]
        click.echo(
            f"{name:40} {statistics.median(measured_rates):7.1f} windows/s  "
            f"{statistics.median(ratios):.3f} × the first "
            f"({min(ratios):.3f} to {max(ratios):.3f})"
        )


if __name__ == "__main__":
    main()
