"""Graphs of an operator or two, good and bad, from x (float32 [n, 64]) to y."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Constants = dict[str, npt.ArrayLike]

HALF = ("Cast", "x", "half", {"to": TensorProto.FLOAT16})
INTEGERS = ("Cast", "x", "i", {"to": TensorProto.INT32})
POSITIVE = ("Greater", "x zero", "is_positive", {})
QUANTIZE = ("QuantizeLinear", "x scale zero_point", "q", {})
DEQUANTIZE = ("DequantizeLinear", "q scale zero_point", "y", {})

F32, F16, I8 = np.float32, np.float16, np.int8
ZERO: Constants = {"zero": F32(0)}
SCALE: Constants = {"scale": F32(0.1), "zero_point": I8(0)}


def graph(
    nodes: Sequence[tuple[str, str, str, dict[str, Any]]], kind: int, constants: Constants
) -> onnx.ModelProto:
    """nodes: operator, inputs and outputs, attributes. kind: the type of y."""
    made = [
        helper.make_node(operator.rpartition(".")[2], before.split(), after.split(), **attributes)
        for operator, before, after, attributes in nodes
    ]
    for node, (operator, _, after, _) in zip(made, nodes, strict=True):
        node.domain, node.name = operator.rpartition(".")[0], after
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])
    y = helper.make_tensor_value_info("y", kind, None)
    weights = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(
        helper.make_graph(made, "small", [x], [y], weights), opset_imports=opsets, ir_version=10
    )


def weights(axis: int, size: int) -> onnx.ModelProto:
    """A MatMul whose weights are int8, with a scale for each of `size` along an axis."""
    nodes = [
        ("DequantizeLinear", "w scale zero_point", "weight", {"axis": axis}),
        ("MatMul", "x weight", "y", {}),
    ]
    constants = {"w": np.ones((64, 32), I8), "scale": np.full(size, 0.1, F32)}
    return graph(nodes, TensorProto.FLOAT, constants | {"zero_point": np.zeros(size, I8)})


def rounding(scale: float, zero_point: npt.ArrayLike) -> onnx.ModelProto:
    constants: Constants = {"scale": F32(scale), "zero_point": zero_point}
    return graph([QUANTIZE, DEQUANTIZE], TensorProto.FLOAT, constants)


FLOAT, BOOL = TensorProto.FLOAT, TensorProto.BOOL

# Ours takes them, and so does NVIDIA's compiler.
GOOD = {
    "Add": graph([("Add", "x x", "y", {})], FLOAT, {}),
    "Gelu": graph([("Gelu", "x", "y", {})], FLOAT, {}),
    "TopK": graph([("TopK", "x k", "y i", {})], FLOAT, {"k": [20]}),
    "int8 weights": weights(1, 32),
    "Q and DQ": rounding(0.1, I8(0)),
    "Range": graph(
        [
            ("Shape", "x", "shape", {"start": 0, "end": 1}),
            ("Squeeze", "shape axis", "n", {}),
            ("Range", "zero n one", "y", {}),
        ],
        TensorProto.INT64,
        {"axis": [0], "zero": np.int64(0), "one": np.int64(1)},
    ),
    "GatherND": graph(
        [
            ("Cast", "x", "i", {"to": TensorProto.INT64}),
            ("Unsqueeze", "i axis", "index", {}),
            ("GatherND", "x index", "y", {"batch_dims": 1}),
        ],
        FLOAT,
        {"axis": [2]},
    ),
}

# Ours refuses them, and so does the compiler.
BAD = {
    "a Half and a Float are added": graph([HALF, ("Add", "half x", "y", {})], FLOAT, {}),
    "a Half is multiplied with Float weights": graph(
        [HALF, ("MatMul", "half w", "y", {})], FLOAT, {"w": np.ones((64, 32), F32)}
    ),
    "Where of two types": graph(
        [HALF, POSITIVE, ("Where", "is_positive half x", "y", {})], FLOAT, ZERO
    ),
    "LayerNormalization of two types": graph(
        [("LayerNormalization", "x w", "y", {})], FLOAT, {"w": np.ones(64, F16)}
    ),
    "LayerNormalization with its mean": graph(
        [("LayerNormalization", "x w", "y mean", {}), ("Identity", "mean", "z", {})],
        FLOAT,
        {"w": np.ones(64, F32)},
    ),
    "an operator of somebody's own": graph([("com.microsoft.FusedGelu", "x", "y", {})], FLOAT, {}),
    "an operator that TensorRT lacks": graph([("Det", "w", "y", {})], FLOAT, {"w": np.eye(3)}),
    "NonZero": graph([("NonZero", "x", "y", {})], TensorProto.INT64, {}),
    "Unique": graph([("Unique", "x", "y", {})], FLOAT, {}),
    "a sequence": graph(
        [
            ("SequenceConstruct", "x x", "sequence", {}),
            ("ConcatFromSequence", "sequence", "y", {"axis": 0}),
        ],
        FLOAT,
        {},
    ),
    "an asymmetric zero point": rounding(0.1, I8(3)),
    "a negative scale": rounding(-0.1, I8(0)),
    "a scale of 0": rounding(0, I8(0)),
    "TopK of 4,000": graph(
        [("Tile", "x times", "wide", {}), ("TopK", "wide k", "y i", {})],
        FLOAT,
        {"times": [1, 100], "k": [4000]},
    ),
    "ReduceMax of BOOL": graph(
        [POSITIVE, ("ReduceMax", "is_positive axis", "y", {})], BOOL, ZERO | {"axis": [1]}
    ),
    "axes that are not constant": graph(
        [
            ("Shape", "x", "shape", {"start": 0, "end": 1}),
            ("Sub", "shape shape", "axis", {}),
            ("ReduceSum", "x axis", "y", {}),
        ],
        FLOAT,
        {},
    ),
    "Less of BOOL": graph([POSITIVE, ("Less", "is_positive is_positive", "y", {})], BOOL, ZERO),
    "And of INT32": graph([INTEGERS, ("And", "i i", "y", {})], BOOL, {}),
    "Softmax of INT32": graph([INTEGERS, ("Softmax", "i", "y", {})], TensorProto.INT32, {}),
    "MatMul of INT32": graph(
        [INTEGERS, ("Transpose", "i", "t", {}), ("MatMul", "i t", "y", {})], TensorProto.INT32, {}
    ),
    "UINT8 on the way": graph(
        [("Cast", "x", "u", {"to": TensorProto.UINT8}), ("Cast", "u", "y", {"to": FLOAT})],
        FLOAT,
        {},
    ),
    "INT16": graph(
        [("Cast", "x", "s", {"to": TensorProto.INT16}), ("Cast", "s", "y", {"to": FLOAT})],
        FLOAT,
        {},
    ),
    "shapes that don't fit": graph(
        [("MatMul", "x w", "y", {})], FLOAT, {"w": np.ones((63, 32), F32)}
    ),
    "an input that nothing makes": graph([("Add", "x nothing", "y", {})], FLOAT, {}),
}

# Ours refuses them by TensorRT's documentation, and this compiler takes them.
STRICTER = {
    "no zero point": graph(
        [
            ("QuantizeLinear", "x scale", "q", {}),
            ("DequantizeLinear", "q scale", "y", {}),
        ],
        FLOAT,
        {"scale": F32(0.1)},
    ),
    "UINT8": rounding(0.1, np.uint8(0)),
    "weights with a scale a row": weights(0, 64),
    "a scale that is computed": graph(
        [("ReduceMax", "x", "scale", {"keepdims": 0}), QUANTIZE, DEQUANTIZE],
        FLOAT,
        {"zero_point": I8(0)},
    ),
    "an activation with a scale a column": graph(
        [QUANTIZE, DEQUANTIZE],
        FLOAT,
        {"scale": np.full(64, 0.1, F32), "zero_point": np.zeros(64, I8)},
    ),
    "a scale of another type": graph(
        [QUANTIZE, DEQUANTIZE], TensorProto.FLOAT16, SCALE | {"scale": F16(0.1)}
    ),
    "Gather of INT8": graph(
        [
            QUANTIZE,
            ("Gather", "q i", "g", {"axis": 1}),
            ("DequantizeLinear", "g scale zero_point", "y", {}),
        ],
        FLOAT,
        SCALE | {"i": [1, 2]},
    ),
    "TopK of a size that is not constant": graph(
        [("Shape", "x", "k", {"start": 0, "end": 1}), ("TopK", "x k", "y i", {})], FLOAT, {}
    ),
    "TopK unsorted": graph([("TopK", "x k", "y i", {"sorted": 0})], FLOAT, {"k": [20]}),
    "Equal of BOOL": graph([POSITIVE, ("Equal", "is_positive is_positive", "y", {})], BOOL, ZERO),
    "DOUBLE": graph([("Cast", "x", "y", {"to": TensorProto.DOUBLE})], TensorProto.DOUBLE, {}),
    "RandomNormalLike": graph([("RandomNormalLike", "x", "y", {})], FLOAT, {}),
}
