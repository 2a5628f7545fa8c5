"""A bundle's int8 graph for CPUs without VNNI, in ONNX Runtime's own operators.

Their int8 product multiplies unsigned by signed bytes and sums in pairs in 16 bits, which saturate:
2 × 255 × 127 is more than 32,767. With 7 bits on one side it fits: 2 × 127 × 127 or 2 × 255 × 63.
Activations are the side that loses least, since smoothing has moved what is hard to round to the
weights; but in the layer that narrows the feed-forward block, whose input has the outliers, it is
the weights (docs/quantization.md has the figures).
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CONTRIB = "com.microsoft"


def without_saturation(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph of an int8 bundle, with all its weights in it, with its linear layers in 7 by 8
    bits and the rest in float32. It is the same object."""
    graph = _Graph(model)
    graph.widen()
    graph.rewrite_linears()
    graph.fold_tables()
    return graph.model()


class _Graph:
    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._nodes = list(model.graph.node)
        self._constants = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer
        }
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

    def fold_tables(self) -> None:
        """An int8 table is dequantized once, not in every run."""
        kept = []
        for node in self._nodes:
            if _dequantizes(node) and node.input[0] in self._constants:
                values, scale = (self._constants[name] for name in node.input[:2])
                self._constants[node.output[0]] = values.astype(np.float32) * scale[:, None]
            else:
                kept.append(node)
        self._nodes = kept

    def model(self) -> onnx.ModelProto:
        graph = self._model.graph
        used = {name for node in self._nodes for name in node.input}
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(self._nodes)
        graph.initializer.extend(
            numpy_helper.from_array(value, name)
            for name, value in self._constants.items()
            if name in used
        )
        self._model.opset_import.append(helper.make_opsetid(CONTRIB, 1))
        return self._model


def _dequantizes(node: onnx.NodeProto) -> bool:
    return node.op_type == "DequantizeLinear"
