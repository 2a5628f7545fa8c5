"""Refuse what TensorRT would: one graph for every engine, checked where no GPU is.

Sources of the rules:
    [ops]   github.com/onnx/onnx-tensorrt, docs/operators.md (TensorRT 10.15)
    [quant] docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html
    [qdq]   docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/
            quantized-types-explicit-quantization.html
    [typed] docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/advanced.html
            (Strongly Typed Networks): types follow from the graph and nothing is promoted
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper, shape_inference

from .tensorrt_operators import (
    CONSTANT_INPUTS,
    DATA_DEPENDENT,
    FLOATS,
    MAX_TOP_K,
    OPSETS,
    SIDE_INPUTS,
    SUPPORTED,
)


@dataclass(frozen=True, slots=True)
class Problem:
    """node: its name, or "" for the graph as a whole. rule: what is broken, with its source."""

    node: str
    rule: str

    def __str__(self) -> str:
        return f"{self.node or 'the graph'}: {self.rule}"


def check_graph(model: onnx.ModelProto) -> list[Problem]:
    """What TensorRT 11 would refuse in a graph, as far as its documentation says.

    An empty list is no proof that it builds, which takes a GPU; each entry is a reason that it
    would not.
    """
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if opsets.get("", 0) not in OPSETS:
        last = OPSETS[-1]
        return [Problem("", f"opset {opsets.get('')} is not {OPSETS[0]} to {last} [ops]")]
    foreign = [node for node in model.graph.node if node.domain not in ("", "ai.onnx")]
    if foreign:
        rule = "is not an operator of ONNX's own [ops]"
        return [Problem(node.name, f"{node.domain}.{node.op_type} {rule}") for node in foreign]
    try:
        inferred = shape_inference.infer_shapes(
            model, check_type=True, strict_mode=True, data_prop=True
        )
    except shape_inference.InferenceError as error:
        return [Problem("", f"types or shapes don't fit together [typed]: {error}")]
    graph = _Graph(inferred)
    return [
        Problem(node.name or node.op_type, rule)
        for node in inferred.graph.node
        for rule in _broken_rules(graph, node)
    ]


class _Graph:
    """Types, constants and producers by the name of a value."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.producers = {name: node for node in graph.node for name in node.output}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.constants[node.output[0]] = node.attribute[0].t
        self.types = {
            value.name: value.type.tensor_type.elem_type
            for values in (graph.value_info, graph.input, graph.output)
            for value in values
        } | {name: tensor.data_type for name, tensor in self.constants.items()}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def constant(self, name: str) -> npt.NDArray[np.generic] | None:
        tensor = self.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)


def _broken_rules(graph: _Graph, node: NodeProto) -> Iterator[str]:
    if node.op_type in DATA_DEPENDENT:
        yield f"{node.op_type} has a shape that depends on the data, or a body [ops]"
        return
    if node.op_type not in SUPPORTED:
        yield f"operator {node.op_type} is not in TensorRT's table [ops]"
        return
    yield from _types(graph, node)
    for index in CONSTANT_INPUTS.get(node.op_type, ()):
        if (
            index < len(node.input)
            and node.input[index]
            and node.input[index] not in graph.constants
        ):
            yield f"input {index} of {node.op_type} must be a constant [ops]"
    match node.op_type:
        case "QuantizeLinear" | "DequantizeLinear":
            yield from _quantization(graph, node)
        case "TopK":
            yield from _top_k(graph, node)
        case "LayerNormalization":
            if len(node.output) > 1:
                yield "only the first output of LayerNormalization is supported [ops]"


def _types(graph: _Graph, node: NodeProto) -> Iterator[str]:
    allowed = SUPPORTED[node.op_type]
    aside = SIDE_INPUTS.get(node.op_type, ())
    for index, name in enumerate(node.input):
        if not name or index in aside:
            continue
        kind = graph.types.get(name, TensorProto.UNDEFINED)
        if kind not in allowed:
            yield f"input {index} of {node.op_type} has the type {_type_name(kind)} [ops]"
    if node.op_type == "Cast":
        to = next(a.i for a in node.attribute if a.name == "to")
        if to not in allowed:
            yield f"Cast to {_type_name(to)} [ops]"


def _quantization(graph: _Graph, node: NodeProto) -> Iterator[str]:
    x, scale_name = node.input[0], node.input[1]
    zero_point = graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if zero_point is None:
        # Without one ONNX takes uint8.
        yield f"{node.op_type} has no constant zero point: int8 zeros must be given [quant]"
    elif zero_point.dtype != np.int8:
        yield f"{node.op_type} is {zero_point.dtype}, not int8 [quant]"
    elif np.any(zero_point):
        yield f"{node.op_type} has a zero point other than 0: it is not symmetric [quant]"
    scale = graph.constant(scale_name)
    if scale is None:
        yield f"the scale of {node.op_type} is not a constant [qdq]"
        return
    values = scale.astype(np.float64)
    if not np.all(np.isfinite(values)) or np.any(values <= 0):
        yield f"the scale of {node.op_type} is not positive and finite [quant]"
    if node.op_type == "QuantizeLinear" and graph.types.get(scale_name) != graph.types.get(x):
        yield "QuantizeLinear's input and scale have different types [typed]"
    if graph.types.get(scale_name) not in FLOATS:
        yield f"the scale of {node.op_type} is not a floating-point number [ops]"
    if scale.size > 1:
        yield from _per_channel(graph, node, x)
    if node.op_type == "QuantizeLinear":
        readers = graph.readers.get(node.output[0], [])
        if any(reader.op_type != "DequantizeLinear" for reader in readers):
            yield "int8 goes from QuantizeLinear to DequantizeLinear only [qdq]"


def _per_channel(graph: _Graph, node: NodeProto, x: str) -> Iterator[str]:
    producer = graph.producers.get(x)
    from_weights = x in graph.constants or (
        producer is not None
        and producer.op_type == "QuantizeLinear"
        and producer.input[0] in graph.constants
    )
    if not from_weights:
        yield f"{node.op_type} is per channel on an activation; only weights may be [quant]"
        return
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    for reader in graph.readers.get(node.output[0], []):
        rank = _rank(graph, x)
        if reader.op_type == "MatMul" and rank is not None and axis % rank != rank - 1:
            yield f"weights of MatMul are quantized along axis {axis}, not the last one [quant]"


def _rank(graph: _Graph, name: str) -> int | None:
    tensor = graph.constants.get(name)
    return None if tensor is None else len(tensor.dims)


def _top_k(graph: _Graph, node: NodeProto) -> Iterator[str]:
    k = graph.constant(node.input[1])
    if k is not None and int(k.item()) > MAX_TOP_K:
        yield f"TopK's k is over {MAX_TOP_K} [ops]"
    if any(a.name == "sorted" and a.i != 1 for a in node.attribute):
        yield "TopK's sorted must be 1 [ops]"


def _type_name(kind: int) -> str:
    return (
        str(helper.tensor_dtype_to_string(kind)).removeprefix("TensorProto.") if kind else "unknown"
    )
