"""Query, key and value as one product, against the graph that has three."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from electra_qa.build_engine import graph_file
from electra_qa.build_engine.build import BuildSettings
from electra_qa.build_engine.check import check_graph
from electra_qa.bundle import load_bundle
from electra_qa.engines.packed import packed
from electra_qa.windows import Window, WindowBatch

from ..checkpoints import KINDS, make_checkpoint
from .conftest import build

DEFAULT_BUNDLE = Path(__file__).parents[2] / "electra_qa" / "default_bundle"
DQ = "DequantizeLinear"
LAYERS = 3  # of those in checkpoints.py


def batch() -> WindowBatch:
    random = np.random.default_rng(0)
    windows = [
        Window(random.integers(5, 200, n, dtype=np.int32), 5, n - 1, 5, n - 1, 0)
        for n in (10, 24, 32)
    ]
    return WindowBatch.pad(windows, [10] * 3, length=32, pad_id=0)


def logits(graph: bytes | str) -> npt.NDArray[np.float32]:
    """As the graph has it, node by node."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(graph, options)
    asked = batch()
    feed = {"input_ids": asked.input_ids, "bounds": asked.bounds}
    found: npt.NDArray[np.float32] = session.run(["logits"], feed)[0]
    return found


def weights(model: onnx.ModelProto) -> dict[str, list[npt.NDArray[Any]]]:
    """What each product's weights are made of, by the scope that it is in."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    makers = {node.output[0]: node for node in model.graph.node}
    return {
        node.name.rpartition("/")[0]: [constants[name] for name in makers[node.input[1]].input]
        for node in model.graph.node
        if node.op_type == "MatMul" and getattr(makers.get(node.input[1]), "op_type", "") == DQ
    }


def products(content: bytes) -> int:
    return sum(node.op_type == "MatMul" for node in onnx.load_from_string(content).graph.node)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_family_is_packed_and_computes_the_same(
    kind: str, precision: str, tmp_path: Path
) -> None:
    folder = make_checkpoint(kind, tmp_path)
    bundle = build(folder, folder / "bundle", BuildSettings(precision=precision))
    content = bundle.graph_path.read_bytes()
    got = packed(content, bundle.path)
    assert products(content) - products(got) == 2 * LAYERS
    assert check_graph(onnx.load_from_string(got)) == []
    # Between operators ONNX Runtime rounds to float16 where it likes.
    tolerance = 1e-6 if precision == "fp32" else 0.05
    np.testing.assert_allclose(logits(got), logits(content), rtol=0, atol=tolerance)


def test_layers_of_unlike_widths_are_packed(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_checkpoint("electra", attention_heads_by_layer=[3, 1])
    content = build(folder, tmp_path / "bundle").graph_path.read_bytes()
    got = packed(content, tmp_path / "bundle")
    assert products(content) - products(got) == 2 * 2
    np.testing.assert_allclose(logits(got), logits(content), rtol=0, atol=1e-6)


def test_int8_is_packed_and_computes_the_same() -> None:
    bundle = load_bundle(DEFAULT_BUNDLE)
    content = bundle.graph_path.read_bytes()
    got = packed(content, bundle.path)
    assert products(content) - products(got) == 2 * 6
    assert check_graph(onnx.load_from_string(got)) == []
    assert len(got) < 1.01 * len(content)  # the parts are gone
    # Half a step of rounding away from each other, where a last bit is: as two engines are.
    assert np.sqrt(np.mean(np.square(logits(got) - logits(content)))) < 0.1
    parts, whole = (weights(onnx.load_from_string(graph)) for graph in (content, got))
    for layer in range(6):
        name = f"encoder/layer.{layer}/attention"
        joined = [parts[f"{name}/{part}"] for part in ("query", "key", "value")]
        for place, axis in enumerate((1, 0, 0)):
            expected = np.concatenate([three[place] for three in joined], axis)
            np.testing.assert_array_equal(whole[f"{name}/query"][place], expected)


@pytest.mark.parametrize("source", ["tiny", "int8"])
def test_weights_may_lie_in_a_file_of_their_own(
    source: str,
    tiny_checkpoint: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if source == "tiny":
        checkpoint = tiny_checkpoint("electra", dtype="float16")  # with a Cast behind each weight
        content = build(checkpoint, tmp_path / "bundle").graph_path.read_bytes()
    else:
        content = load_bundle(DEFAULT_BUNDLE).graph_path.read_bytes()
    monkeypatch.setattr(graph_file, "MOST_INSIDE", 0)
    monkeypatch.setattr(graph_file, "SMALL", 1024)
    path = tmp_path / "model.onnx"
    graph_file.write_graph(ir.from_proto(onnx.load_from_string(content)), path)
    outside = packed(path.read_bytes(), tmp_path)
    assert products(outside) == products(packed(content, tmp_path))
    path.write_bytes(outside)
    np.testing.assert_array_equal(logits(str(path)), logits(packed(content, tmp_path)))


def test_what_is_no_graph_comes_back(tmp_path: Path) -> None:
    assert packed(b"\xff no graph", tmp_path) == b"\xff no graph"


@pytest.mark.parametrize("other", ["Relu", "two", "an activation"])
def test_other_products_of_one_value_stay_apart(other: str, tmp_path: Path) -> None:
    """With something else behind one of them, or two of them, or no constant in one."""
    nodes, weights = [], []
    for number in range(2 if other == "two" else 3):
        weights.append(
            helper.make_tensor(f"w{number}", TensorProto.FLOAT, [4, 4], np.eye(4).flatten())
        )
        by = "x" if other == "an activation" and number == 2 else f"w{number}"
        nodes.append(helper.make_node("MatMul", ["x", by], [f"p{number}"]))
        value = f"p{number}"
        if other == "Relu" and number == 2:
            nodes.append(helper.make_node("Relu", [value], ["r"]))
            value = "r"
        nodes.append(helper.make_node("Reshape", [value, "shape"], [f"s{number}"]))
        nodes.append(helper.make_node("Transpose", [f"s{number}"], [f"y{number}"], perm=[1, 0, 2]))
    weights.append(helper.make_tensor("shape", TensorProto.INT64, [3], [4, 2, 2]))
    outputs = [
        helper.make_tensor_value_info(f"y{number}", TensorProto.FLOAT, [2, 4, 2])
        for number in range(len(weights) - 1)
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 4])
    content = helper.make_model(
        helper.make_graph(nodes, "g", [x], outputs, weights)
    ).SerializeToString()
    assert packed(content, tmp_path) == content
