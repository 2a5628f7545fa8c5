"""Every rule of the checker is broken once, and the graphs that we make break none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from electra_qa.build_engine.check import check_graph
from electra_qa.build_engine.checkpoint import load_checkpoint
from electra_qa.build_engine.graph import build_graph
from electra_qa.cli import main


def model(
    nodes: list[NodeProto],
    constants: dict[str, np.ndarray] | None = None,
    *,
    kind: int = TensorProto.FLOAT,
    opset: int = 20,
) -> ModelProto:
    """x [n, m] → y, through `nodes`."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", kind, ["n", "m"])],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def node(kind: str, inputs: str, outputs: str = "y", **attributes: object) -> NodeProto:
    return helper.make_node(kind, inputs.split(), outputs.split(), kind, **attributes)


def quantized(
    *,
    scale: object = np.float32(0.1),
    zero: object = np.int8(0),
    zero_name: str = " zero",
    axis: int = 1,
) -> ModelProto:
    """x → Q → DQ → y"""
    return model(
        [
            node("QuantizeLinear", f"x scale{zero_name}", "q", axis=axis),
            node("DequantizeLinear", f"q scale{zero_name}", "y", axis=axis),
        ],
        {"scale": np.asarray(scale), "zero": np.asarray(zero)},
    )


def weights(axis: int) -> ModelProto:
    """x · DQ(int8 weights, per channel along an axis)"""
    constants = {
        "w": np.ones((8, 8), np.int8),
        "scale": np.ones(8, np.float32),
        "zero": np.zeros(8, np.int8),
    }
    return model(
        [node("DequantizeLinear", "w scale zero", "d", axis=axis), node("MatMul", "x d")],
        constants,
    )


@pytest.mark.parametrize("half", [False, True])
def test_the_graphs_that_we_make_break_no_rule(checkpoint: Path, half: bool) -> None:
    graph = build_graph(
        load_checkpoint(str(checkpoint)), half=half, n_best_size=20, max_answer_length_limit=30
    )
    assert check_graph(ir.to_proto(graph)) == []


@pytest.mark.parametrize(
    "good",
    [
        model([node("Relu", "x")]),
        quantized(),
        weights(axis=1),
        model([node("TopK", "x k", "v y")], {"k": np.array([3])}),
    ],
    ids=["plain", "activation", "weights", "top_k"],
)
def test_what_is_allowed(good: ModelProto) -> None:
    assert check_graph(good) == []


def scaled_by_an_input() -> ModelProto:
    return model(
        [
            node("ReduceMax", "x axes", "scale", keepdims=0),
            node("QuantizeLinear", "x scale zero", "q"),
            node("DequantizeLinear", "q scale zero"),
        ],
        {"axes": np.array([0, 1]), "zero": np.int8(0)},
    )


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: model([node("Relu", "x")], opset=8), "opset 8 is not 9 to 24"),
        (lambda: model([node("NonZero", "x")]), "NonZero has a shape that depends on the data"),
        (lambda: model([node("Det", "x")]), "Det is not in TensorRT's table"),
        (
            lambda: model([helper.make_node("Mine", ["x"], ["y"], "Mine", domain="my.own")]),
            "my.own.Mine is not an operator of ONNX's own",
        ),
        (lambda: model([node("Relu", "x")], kind=TensorProto.DOUBLE), "has the type DOUBLE"),
        (lambda: model([node("Cast", "x", to=TensorProto.UINT8)]), "Cast to UINT8"),
        (
            lambda: model([node("Add", "x h")], {"h": np.ones(8, np.float16)}),
            "types or shapes don't fit together",
        ),
        (lambda: quantized(zero=np.int8(3)), "zero point other than 0"),
        (lambda: quantized(zero=np.uint8(0)), "is uint8, not int8"),
        (lambda: quantized(zero_name=""), "no constant zero point"),
        (lambda: quantized(scale=np.float32(0)), "not positive and finite"),
        (lambda: quantized(scale=np.float32("inf")), "not positive and finite"),
        (
            lambda: quantized(scale=np.ones(8, np.float32), zero=np.zeros(8, np.int8)),
            "per channel on an activation",
        ),
        (lambda: weights(axis=0), "along axis 0, not the last one"),
        (scaled_by_an_input, "the scale of QuantizeLinear is not a constant"),
        (
            lambda: model([node("TopK", "x k", "v y")], {"k": np.array([4000])}),
            "TopK's k is over 3840",
        ),
        (
            lambda: model([node("TopK", "x k", "v y", sorted=0)], {"k": np.array([3])}),
            "sorted must be 1",
        ),
        (
            lambda: model([node("Shape", "x", "k"), node("ReduceMax", "x k")]),
            "input 1 of ReduceMax must be a constant",
        ),
    ],
)
def test_what_is_refused(make: Callable[[], ModelProto], rule: str) -> None:
    rules = [str(problem) for problem in check_graph(make())]
    assert any(rule in found for found in rules), rules


def test_the_command(tmp_path: Path) -> None:
    good, bad, broken = (tmp_path / name for name in ("good", "bad", "broken"))
    onnx.save(quantized(), good)
    onnx.save(quantized(zero=np.int8(3)), bad)
    broken.write_bytes(b"\xff\xff not a graph")
    run = CliRunner().invoke
    assert run(main, ["check", str(good)]).exit_code == 0
    result = run(main, ["check", str(bad)])
    assert result.exit_code == 1
    assert "QuantizeLinear: QuantizeLinear has a zero point other than 0" in result.output
    result = run(main, ["check", str(broken)])
    assert result.exit_code == 1
    assert "is not an ONNX file" in result.output
