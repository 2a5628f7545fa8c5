"""A GPU's settings, one against the other, to a Markdown table: for who has one.

    python benchmarks/scripts/gpu_sweep.py --model models/electra-minilm-squad2

All combinations of what the options list are measured, on the engine alone, with windows of random
tokens: how fast that is does not depend on what they say. Each pair of a precision and a token
budget is an engine to build, which takes minutes the first time; numbers of streams share theirs.
A row is printed as soon as it is measured, or says what went wrong.
"""

from __future__ import annotations

import importlib
import itertools
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from electra_qa.bundle import Bundle, load_bundle
from electra_qa.engines import Engine, EngineError, EngineSettings, bucket
from electra_qa.models import bundle_for
from electra_qa.windows import WindowBatch

LENGTHS = (128, 384)
LONE_LENGTH = 384
LONE_RUNS = 300

HEADER = (
    "precision | tokens a batch | streams | auxiliary streams | optimization level | start, s | "
    + " | ".join(f"windows of {length} a second" for length in LENGTHS)
    + f" | one window of {LONE_LENGTH}, ms | of 100 one takes over, ms"
)


@dataclass(frozen=True, slots=True)
class Setting:
    """auxiliary_streams: None for TensorRT's own choice."""

    precision: str
    batch_tokens: int
    streams: int
    auxiliary_streams: int | None
    optimization_level: int


@click.command()
@click.option("--model", required=True, help="A checkpoint's folder, or a hub id.")
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(["fp32", "fp16", "int8"]),
    multiple=True,
    default=["fp16", "int8"],
    show_default=True,
)
@click.option("--batch-tokens", type=int, multiple=True, default=[4096, 16384], show_default=True)
@click.option("--streams", type=int, multiple=True, default=[1, 2], show_default=True)
@click.option(
    "--auxiliary-streams",
    type=int,
    multiple=True,
    default=[0],
    show_default=True,
    help="−1 for as many as TensorRT likes.",
)
@click.option("--optimization-level", type=int, multiple=True, default=[3], show_default=True)
@click.option("--seconds", type=float, default=5.0, show_default=True, help="For each length.")
def main(
    model: str,
    precisions: tuple[str, ...],
    batch_tokens: tuple[int, ...],
    streams: tuple[int, ...],
    auxiliary_streams: tuple[int, ...],
    optimization_level: tuple[int, ...],
    seconds: float,
) -> None:
    """Measure a GPU's settings one against the other."""
    for module in ("tensorrt", "cuda.bindings.driver"):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise click.ClickException(f"{error}: pip install 'electra-qa[gpu]'") from error
    bundles: dict[str, Bundle] = {}
    for name in precisions:
        precision: Any = name
        bundles[name] = load_bundle(bundle_for(Path(model).expanduser(), precision=precision))
    print(f"| {HEADER} |")
    print("|" + " --- |" * (HEADER.count("|") + 1))
    auxiliary = [None if count < 0 else count for count in auxiliary_streams]
    said = set()
    for values in itertools.product(
        precisions, batch_tokens, auxiliary, optimization_level, streams
    ):
        setting = Setting(values[0], values[1], values[4], values[2], values[3])
        device, row = measure(bundles[setting.precision], setting, seconds)
        print(f"| {row} |", flush=True)
        said.add(device)
    for device in said - {""}:
        print(f"\n{device}")


def measure(bundle: Bundle, setting: Setting, seconds: float, cuda: Any = None) -> tuple[str, str]:
    """What it ran on ("" where it did not), and the row.

    cuda: the library to use; None for the one that is installed.
    """
    from electra_qa.engines.tensorrt import TensorRTEngine, TensorRTOptions

    options = TensorRTOptions(
        auxiliary_streams=setting.auxiliary_streams,
        optimization_level=setting.optimization_level,
    )
    settings = EngineSettings("gpu", streams=setting.streams, max_batch_tokens=setting.batch_tokens)
    auxiliary = setting.auxiliary_streams
    cells = [
        setting.precision,
        str(setting.batch_tokens),
        str(setting.streams),
        "TensorRT's choice" if auxiliary is None else str(auxiliary),
        str(setting.optimization_level),
    ]
    started = time.monotonic()
    try:
        engine = TensorRTEngine(bundle, settings, options=options, cuda=cuda)
        try:
            cells.append(f"{time.monotonic() - started:.0f}")
            cells += [f"{throughput(engine, length, seconds):.0f}" for length in LENGTHS]
            took = lone(engine)
            cells += [f"{np.quantile(took, q):.2f}" for q in (0.5, 0.99)]
        finally:
            engine.close()
    except EngineError as error:
        return "", " | ".join([*cells, str(error)])
    return engine.device, " | ".join(cells)


def throughput(engine: Engine, length: int, seconds: float) -> float:
    """Windows a second, in full batches, with one more that waits than there are streams."""
    length = bucket(engine.buckets, min(length, engine.buckets[-1]))
    batch = windows(max(1, engine.batch_tokens // length), length)
    over = threading.Event()

    def work() -> int:
        runs = 0
        while not over.is_set():
            engine.run(batch)
            runs += 1
        return runs

    started = time.monotonic()
    with ThreadPoolExecutor(engine.slots + 1) as pool:
        counts = [pool.submit(work) for _ in range(engine.slots + 1)]
        over.wait(seconds)
        over.set()
    runs = sum(count.result() for count in counts)
    return runs * len(batch.bounds) / (time.monotonic() - started)


def lone(engine: Engine) -> list[float]:
    """Milliseconds of one window at a time, on a GPU that has nothing else to do."""
    batch = windows(1, bucket(engine.buckets, min(LONE_LENGTH, engine.buckets[-1])))
    took = []
    for _ in range(LONE_RUNS):
        started = time.perf_counter()
        engine.run(batch)
        took.append(1e3 * (time.perf_counter() - started))
    return took


def windows(count: int, length: int) -> WindowBatch:
    """Full of random tokens; the first eight are the question's."""
    input_ids = np.random.default_rng(0).integers(100, 1000, (count, length), np.int32)
    bounds = np.array([[8, length - 1, 8, length - 1, 30]], np.int32)
    return WindowBatch(input_ids, np.repeat(bounds, count, axis=0))


if __name__ == "__main__":
    sys.exit(main())
