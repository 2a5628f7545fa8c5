"""Where the engine's time goes, against the peak of a large matrix product on the same machine.

The peak is that of one OpenVINO layer of 2,048 × 2,048 on 2,048 rows, in the arithmetic that the
bundle's linear layers have here: int8 where the CPU has VNNI or AMX, else bfloat16 or float32. One
operation is a multiplication or an addition.

pip install 'electra-qa[bench]'
python benchmarks/scripts/account.py --data dev-v2.0.json
"""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import openvino
from openvino import opset13 as op
from served_share import sorted_batches, windows_of

from electra_qa.bundle import default_bundle_path, load_bundle
from electra_qa.engines import load_engine
from electra_qa.engines.openvino import make_plan
from electra_qa.squad import read_squad

SIZE = 2048
REPEATS = 8
PASSES = 3
KINDS = {"FullyConnected": "linear layers", "Subgraph": "attention", "ScaledDot": "attention"}


@dataclass(frozen=True, slots=True)
class Work:
    """Operations: of the linear layers for one token, and of attention for a token and a length."""

    linear: int
    attention: int


def work_of(model: openvino.Model) -> Work:
    linear = attention = hidden = 0
    for node in model.get_ops():
        if node.get_type_name() != "MatMul":
            continue
        weight = node.input(1).get_partial_shape()
        if weight.is_static and len(weight) == 2:
            linear += 2 * weight[0].get_length() * weight[1].get_length()
            hidden = hidden or weight[0].get_length()
        else:
            attention += 2 * hidden
    return Work(linear, attention)


def peak(core: openvino.Core, config: dict[str, str], int8: bool) -> float:
    """Operations a second of the large product."""
    x = op.parameter([SIZE, SIZE], np.float32, name="x")
    limits = [np.float32(v) for v in (-128, 127, -128, 127)]
    random_weight = np.random.default_rng(0).integers(-127, 128, (SIZE, SIZE))
    if int8:
        weight = op.convert(op.constant(random_weight.astype(np.int8)), np.float32)
        weight = op.multiply(weight, op.constant(np.float32(1 / 127)))
        product = op.matmul(op.fake_quantize(x, *limits, 256), weight, False, False)
    else:
        product = op.matmul(x, op.constant(random_weight.astype(np.float32)), False, False)
    request = core.compile_model(
        openvino.Model([product], [x]), "CPU", config
    ).create_infer_request()
    values = np.random.default_rng(1).integers(-127, 128, (SIZE, SIZE)).astype(np.float32)
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        request.infer({"x": values}, share_inputs=True)
        seconds.append(time.perf_counter() - started)
    return 2 * SIZE**3 / min(seconds)


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--bundle", "bundle_path", type=click.Path(exists=True, path_type=Path))
@click.option("--questions", default=300, show_default=True)
def main(data: Path, bundle_path: Path | None, questions: int) -> None:
    bundle = load_bundle(bundle_path or default_bundle_path())
    engine = load_engine(bundle)
    windows = windows_of(bundle, random.Random(0).sample(read_squad(data), questions))
    batches = sorted_batches(engine, windows)

    core = openvino.Core()
    plan = make_plan(core, bundle)
    work = work_of(plan.model)
    config = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "PERF_COUNT": "YES"} | plan.config
    highest = peak(core, config, plan.linear == "int8")
    request = core.compile_model(plan.model, "CPU", config).create_infer_request()
    started = time.perf_counter()
    for batch in batches * PASSES:
        request.infer({"input_ids": batch.input_ids, "bounds": batch.bounds}, share_inputs=True)
    seconds = (time.perf_counter() - started) / PASSES
    spent: Counter[str] = Counter()
    for node in request.profiling_info:  # means over all runs
        kind = next((k for prefix, k in KINDS.items() if node.node_type.startswith(prefix)), "")
        spent[kind or "all else"] += node.real_time.total_seconds() * len(batches)
    spent["between layers and batches"] = seconds - sum(spent.values())

    tokens = sum(batch.input_ids.size for batch in batches)
    padding = 1 - sum(window.length for window in windows) / tokens
    operations = {
        "linear layers": work.linear * tokens,
        "attention": sum(
            work.attention * batch.input_ids.size * batch.input_ids.shape[1] for batch in batches
        ),
    }
    click.echo(f"{engine.device}, linear layers in {plan.linear}")
    click.echo(f"peak of a {SIZE} × {SIZE} × {SIZE} product: {highest / 1e9:.0f} billion op/s")
    click.echo(
        f"{len(windows)} windows in {len(batches)} batches, {len(windows) / seconds:.1f} "
        f"windows/s, {padding:.1%} of the tokens are padding"
    )
    for kind, of_kind in spent.most_common():
        speed = rate(operations[kind] / of_kind, highest) if kind in operations else ""
        click.echo(f"{kind:27} {of_kind / seconds:6.1%} of the time  {speed}")
    speed = rate(sum(operations.values()) / seconds, highest)
    click.echo(f"{'all':27} {1:6.1%} of the time  {speed}")


def rate(operations: float, highest: float) -> str:
    return f"{operations / 1e9:6.0f} billion op/s, {operations / highest:.0%} of the peak"


if __name__ == "__main__":
    main()
