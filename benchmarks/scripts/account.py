"""Where the engine's time goes, against the peak of a large matrix product on the same machine.

The peak is that of one layer of 2,048 × 2,048 on 2,048 rows, by the same library and in the same
arithmetic as the bundle's linear layers have here. A multiplication or an addition is an operation.

pip install 'electra-qa[bench]'
python benchmarks/scripts/account.py --data dev-v2.0.json
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper
from openvino import opset13 as op
from served_share import sorted_batches, windows_of

from electra_qa.bundle import Bundle, default_bundle_path, load_bundle
from electra_qa.engines import load_engine
from electra_qa.engines.onnxruntime import OnnxRuntimeEngine
from electra_qa.engines.onnxruntime.graph import without_saturation
from electra_qa.engines.openvino import openvino_core, precision_config
from electra_qa.squad import read_squad
from electra_qa.windows import WindowBatch

SIZE = 2048
REPEATS = 8
PASSES = 3
# By what the nodes are called in the libraries' profiles; attention's own products are MatMul.
KINDS = {
    "FullyConnected": "linear layers",
    "MatMulIntegerToFloat": "linear layers",
    "Subgraph": "attention",
    "ScaledDot": "attention",
    "MatMul": "attention",
    "FusedMatMul": "attention",
    "Softmax": "attention",
    "Transpose": "attention",
}


@dataclass(frozen=True, slots=True)
class Work:
    """Operations: of the linear layers for one token, and of attention for a token and a length."""

    linear: int
    attention: int


@dataclass(frozen=True, slots=True)
class Profile:
    """highest: operations a second of the large product. spent: seconds, by node type. Both, and
    `seconds`, of one pass over the batches."""

    highest: float
    seconds: float
    spent: Counter[str]


def work_of(bundle: Bundle) -> Work:
    linear = attention = hidden = 0
    for node in openvino_core().read_model(str(bundle.graph_path)).get_ops():
        if node.get_type_name() != "MatMul":
            continue
        weight = node.input(1).get_partial_shape()
        if weight.is_static and len(weight) == 2:
            linear += 2 * weight[0].get_length() * weight[1].get_length()
            hidden = hidden or weight[0].get_length()
        else:
            attention += 2 * hidden
    return Work(linear, attention)


def feed(batch: WindowBatch) -> dict[str, np.ndarray]:
    return {"input_ids": batch.input_ids, "bounds": batch.bounds}


def openvino_profile(bundle: Bundle, batches: Sequence[WindowBatch]) -> Profile:
    core = openvino_core()
    config = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"} | precision_config(core, bundle)
    x = op.parameter([SIZE, SIZE], np.float32, name="x")
    weight = np.random.default_rng(0).integers(-127, 128, (SIZE, SIZE))
    if bundle.manifest.precision == "int8":
        limits = [np.float32(v) for v in (-128, 127, -128, 127)]
        scaled = op.convert(op.constant(weight.astype(np.int8)), np.float32)
        scaled = op.multiply(scaled, op.constant(np.float32(1 / 127)))
        product = op.matmul(op.fake_quantize(x, *limits, 256), scaled, False, False)
    else:
        product = op.matmul(x, op.constant(weight.astype(np.float32)), False, False)
    large = core.compile_model(openvino.Model([product], [x]), "CPU", config).create_infer_request()
    values = np.random.default_rng(1).integers(-127, 128, (SIZE, SIZE)).astype(np.float32)
    highest = fastest(lambda: large.infer({"x": values}, share_inputs=True))

    config["PERF_COUNT"] = "YES"
    request = core.compile_model(str(bundle.graph_path), "CPU", config).create_infer_request()
    started = time.perf_counter()
    for batch in list(batches) * PASSES:
        request.infer(feed(batch), share_inputs=True)
    seconds = (time.perf_counter() - started) / PASSES
    spent: Counter[str] = Counter()
    for node in request.profiling_info:  # means over all runs
        spent[node.node_type] += node.real_time.total_seconds() * len(batches)
    return Profile(highest, seconds, spent)


def onnxruntime_profile(bundle: Bundle, batches: Sequence[WindowBatch]) -> Profile:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count() or 1
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.integers(-127, 128, (SIZE, SIZE)).astype(np.int8),
        "scale": np.array(1 / 127, np.float32),
        "zero": np.array(64, np.uint8),
    }
    inputs = ["x", "w", "scale", "scale", "zero"]
    node = helper.make_node("MatMulIntegerToFloat", inputs, ["y"], domain="com.microsoft")
    graph = helper.make_graph(
        [node],
        "large",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [SIZE, SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [SIZE, SIZE])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    large = onnxruntime.InferenceSession(model.SerializeToString(), options)
    values = rng.integers(0, 128, (SIZE, SIZE)).astype(np.uint8)
    highest = fastest(lambda: large.run(None, {"x": values}))

    options.enable_profiling = True
    rewritten = without_saturation(onnx.load(bundle.graph_path), bundle.path)
    options.add_external_initializers(list(rewritten.weights), list(rewritten.weights.values()))
    session = onnxruntime.InferenceSession(rewritten.graph.SerializeToString(), options)
    started = time.perf_counter()
    for batch in list(batches) * PASSES:
        session.run(None, feed(batch))
    seconds = (time.perf_counter() - started) / PASSES
    trace = Path(session.end_profiling())
    spent: Counter[str] = Counter()
    for event in json.loads(trace.read_text(encoding="utf-8")):
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
            spent[event["args"]["op_name"]] += event["dur"] / 1e6 / PASSES
    trace.unlink()
    return Profile(highest, seconds, spent)


def fastest(run: Callable[[], object]) -> float:
    """Operations a second of the large product, the best of some."""
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return 2 * SIZE**3 / min(seconds)


def kind_of(node_type: str) -> str:
    exact = KINDS.get(node_type)
    return exact or next((k for p, k in KINDS.items() if node_type.startswith(p)), "all else")


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--bundle", "bundle_path", type=click.Path(exists=True, path_type=Path))
@click.option("--questions", default=300, show_default=True)
def main(data: Path, bundle_path: Path | None, questions: int) -> None:
    bundle = load_bundle(bundle_path or default_bundle_path())
    engine = load_engine(bundle)
    windows = windows_of(bundle, random.Random(0).sample(read_squad(data), questions))
    batches = sorted_batches(engine, windows)
    work = work_of(bundle)
    profiled = (onnxruntime_profile if isinstance(engine, OnnxRuntimeEngine) else openvino_profile)(
        bundle, batches
    )
    seconds = profiled.seconds
    spent: Counter[str] = Counter()
    for node_type, of_type in profiled.spent.items():
        spent[kind_of(node_type)] += of_type
    spent["between nodes and batches"] = seconds - sum(spent.values())

    tokens = sum(batch.input_ids.size for batch in batches)
    padding = 1 - sum(window.length for window in windows) / tokens
    operations = {
        "linear layers": work.linear * tokens,
        "attention": sum(
            work.attention * batch.input_ids.size * batch.input_ids.shape[1] for batch in batches
        ),
    }
    highest = profiled.highest
    click.echo(engine.device)
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
