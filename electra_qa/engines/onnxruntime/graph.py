"""A bundle's int8 graph for CPUs without VNNI, in ONNX Runtime's own operators.

Their int8 product multiplies unsigned by signed bytes and sums in pairs in 16 bits, which saturate:
2 × 255 × 127 is more than 32,767. With 7 bits on one side it fits: 2 × 127 × 127 or 2 × 255 × 63.
Activations are the side that loses least, since smoothing has moved what is hard to round to the
weights; but in the layer that narrows the feed-forward block, whose input has the outliers, it is
the weights (docs/quantization.md has the figures).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

CONTRIB = "com.microsoft"
# Constants over this size stay out of the graph, which has a limit of 2 GB.
SMALL = 2**20


@dataclass(frozen=True, slots=True)
class Rewritten:
    """weights: what the graph names as external data, for `add_external_initializers`. Sessions
    share them, and need them as long as they live."""

    graph: onnx.ModelProto
    weights: dict[str, onnxruntime.OrtValue]


def without_saturation(model: onnx.ModelProto, folder: Path) -> Rewritten:
    """The graph of an int8 bundle with its linear layers in 7 by 8 bits and the rest in float32.

    folder: with the files that the model names as external data. The model is taken apart.
    """
    graph = _Graph(model, folder)
    graph.widen()
    graph.rewrite_linears()
    graph.rewrite_tables()
    return graph.rewritten()


class _Graph:
    def __init__(self, model: onnx.ModelProto, folder: Path) -> None:
        self._model = model
        self._nodes = list(model.graph.node)
        self._constants: dict[str, npt.NDArray[Any]] = {
            tensor.name: numpy_helper.to_array(tensor, str(folder))
            for tensor in model.graph.initializer
        }
        del model.graph.initializer[:]  # where their bytes are a second time
        self._producers = {output: node for node in self._nodes for output in node.output}

    def widen(self) -> None:
        """float16 becomes float32: x86 has no arithmetic for it."""
        for name, value in self._constants.items():
            if value.dtype == np.float16:
                self._constants[name] = value.astype(np.float32)
        for node in self._nodes:
            if node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT16:
                node.attribute[0].i = TensorProto.FLOAT

    def rewrite_linears(self) -> None:
        """Quantize, dequantize, MatMul and Add become quantize and MatMulIntegerToFloat."""
        adds = {node.input[0]: node for node in self._nodes if node.op_type == "Add"}
        replaced: dict[str, list[onnx.NodeProto]] = {}
        for product in [node for node in self._nodes if node.op_type == "MatMul"]:
            if not all(self._is_dequantized(name) for name in product.input):
                continue
            activation, weight = (self._producers[name] for name in product.input)
            quantize = self._producers[activation.input[0]]
            scale, zero = f"{quantize.input[1]}.unsigned", f"{quantize.input[1]}.zero"
            inputs, outputs = self._constants[weight.input[0]].shape
            if inputs > outputs:
                self._narrow_weight(*weight.input[:2])
                replaced[quantize.output[0]] = self._rounded(quantize, scale, zero, bits=8)
            else:
                replaced[quantize.output[0]] = self._rounded(quantize, scale, zero, bits=7)
            add = adds[product.output[0]]
            for dropped in (activation, weight, product):
                replaced[dropped.output[0]] = []
            replaced[add.output[0]] = [
                helper.make_node(
                    "MatMulIntegerToFloat",
                    [
                        quantize.output[0],
                        weight.input[0],
                        scale,
                        weight.input[1],
                        zero,
                        "",
                        add.input[1],
                    ],
                    [add.output[0]],
                    domain=CONTRIB,
                )
            ]
        self._nodes = [new for node in self._nodes for new in replaced.get(node.output[0], [node])]

    def _is_dequantized(self, name: str) -> bool:
        return name in self._producers and _dequantizes(self._producers[name])

    def _narrow_weight(self, values: str, scale: str) -> None:
        step = np.float32(127 / 63)
        self._constants[values] = np.round(self._constants[values] / step).astype(np.int8)
        self._constants[scale] = self._constants[scale] * step

    def _rounded(
        self, quantize: onnx.NodeProto, scale: str, zero: str, *, bits: int
    ) -> list[onnx.NodeProto]:
        """Rounding to unsigned integers of so many bits, with their scale and zero point."""
        middle = 2 ** (bits - 1)
        step = self._constants[quantize.input[1]] * np.float32(127 / (middle - 1))
        self._constants[scale], self._constants[zero] = step, np.array(middle, np.uint8)
        clipped = f"{quantize.output[0]}.clipped"
        for limit, value in (("lowest", -middle), ("highest", middle - 1)):
            self._constants[f"{clipped}.{limit}"] = (value * step).astype(np.float32)
        return [
            helper.make_node(
                "Clip",
                [quantize.input[0], f"{clipped}.lowest", f"{clipped}.highest"],
                [clipped],
            ),
            helper.make_node("QuantizeLinear", [clipped, scale, zero], [quantize.output[0]]),
        ]

    def rewrite_tables(self) -> None:
        """Of an int8 table only the rows that are looked up are dequantized, in every run."""
        tables = {
            node.output[0]: node
            for node in self._nodes
            if _dequantizes(node) and node.input[0] in self._constants
        }
        nodes = []
        for node in self._nodes:
            if node.op_type == "Gather" and node.input[0] in tables:
                nodes += self._looked_up(tables[node.input[0]], node)
            elif node.output[0] not in tables:
                nodes.append(node)
        self._nodes = nodes

    def _looked_up(self, table: onnx.NodeProto, gather: onnx.NodeProto) -> list[onnx.NodeProto]:
        name, index = gather.output[0], gather.input[1]
        scale = f"{table.input[1]}.rows"
        self._constants[scale] = self._constants[table.input[1]][:, None]
        return [
            helper.make_node("Gather", [table.input[0], index], [f"{name}.int8"], axis=0),
            helper.make_node("Cast", [f"{name}.int8"], [f"{name}.float"], to=TensorProto.FLOAT),
            helper.make_node("Gather", [scale, index], [f"{name}.scale"], axis=0),
            helper.make_node("Mul", [f"{name}.float", f"{name}.scale"], [name]),
        ]

    def rewritten(self) -> Rewritten:
        graph = self._model.graph
        used = {name for node in self._nodes for name in node.input}
        constants = {name: value for name, value in self._constants.items() if name in used}
        weights = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value))
            for name, value in constants.items()
            if value.nbytes > SMALL
        }
        del graph.node[:], graph.value_info[:]
        graph.node.extend(self._nodes)
        graph.initializer.extend(
            _elsewhere(name, value) if name in weights else numpy_helper.from_array(value, name)
            for name, value in constants.items()
        )
        self._model.opset_import.append(helper.make_opsetid(CONTRIB, 1))
        return Rewritten(self._model, weights)


def _elsewhere(name: str, value: npt.NDArray[Any]) -> onnx.TensorProto:
    tensor = TensorProto(
        name=name,
        dims=value.shape,
        data_type=helper.np_dtype_to_tensor_dtype(value.dtype),
        data_location=TensorProto.EXTERNAL,
    )
    tensor.external_data.add(key="location", value="memory")
    return tensor


def _dequantizes(node: onnx.NodeProto) -> bool:
    return node.op_type == "DequantizeLinear"
