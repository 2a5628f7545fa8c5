"""Query, key and value of each layer as one product.

A bundle's graph has three, each with a bias, a reshape and a transposition. NVIDIA's compiler makes
one product of them by itself, but a kernel for what is behind each; where bias and scale stand
behind one product, they go into it, and one kernel transposes (docs/gpu.md has the figures).

On a CPU it is the other way round: OpenVINO fuses the attention with the transpositions of query
and value, and would have to copy them out of a common product first. So it is done here, for the
plan, and the graph in the bundle stays as it is. The numbers are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError
from onnx import NodeProto, helper, numpy_helper


def packed(content: bytes, folder: Path) -> bytes:
    """The graph with what can be packed in one product; what is no graph comes back as it is.

    folder: with the files that the graph names as external data.
    """
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError:
        return content
    graph = _Graph(model, folder)
    found = graph.shared_by_three()
    for projections in found:
        graph.pack(projections)
    return graph.finished() if found else content


@dataclass(frozen=True, slots=True)
class _Projection:
    """A product with a constant, and what is behind it: an Add of the bias, if there is one, a
    Reshape, a Transpose, and of the query a Mul with the scale of the scores, in most families."""

    product: NodeProto
    bias: str | None
    reshape: NodeProto
    transpose: NodeProto
    scale: NodeProto | None

    @property
    def weight(self) -> str:
        return str(self.product.input[1])


class _Graph:
    def __init__(self, model: onnx.ModelProto, folder: Path) -> None:
        self._model = model
        self._folder = folder
        self._nodes = list(model.graph.node)
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._producers = {name: node for node in self._nodes for name in node.output}
        self._readers: dict[str, list[NodeProto]] = {}
        for node in self._nodes:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def shared_by_three(self) -> list[list[_Projection]]:
        """The three of each layer: products of one value, with the same behind them."""
        found = []
        for value, readers in self._readers.items():
            multiplied = [n for n in readers if n.op_type == "MatMul" and n.input[0] == value]
            products = [self._projection(node) for node in multiplied]
            three = [one for one in products if one is not None]
            alike = {(self._kind(one.weight), self._kind(one.bias or "")) for one in three}
            if len(products) == len(three) == 3 and len(alike) == 1:
                found.append(three)
        return found

    def _projection(self, product: NodeProto) -> _Projection | None:
        if self._kind(product.input[1]) is None:
            return None
        behind, bias = self._only_reader(product), None
        if behind is not None and behind.op_type == "Add":
            bias = _other(behind, product)
            behind = self._only_reader(behind)
            if self._kind(bias) is None:
                return None
        transpose = self._only_reader(behind)
        if behind is None or behind.op_type != "Reshape":
            return None
        if transpose is None or transpose.op_type != "Transpose":
            return None
        scale = self._only_reader(transpose)
        if scale is None or scale.op_type != "Mul" or not self._is_number(_other(scale, transpose)):
            scale = None
        return _Projection(product, bias, behind, transpose, scale)

    def _only_reader(self, node: NodeProto | None) -> NodeProto | None:
        readers = self._readers.get(node.output[0], []) if node is not None else []
        return readers[0] if len(readers) == 1 else None

    def _kind(self, name: str) -> str | None:
        """Constant, or the operator for what is made of constants, or None for all else."""
        if name in self._constants:
            return "Constant"
        maker = self._producers.get(name)
        if maker is None or maker.op_type not in ("Cast", "DequantizeLinear"):
            return None
        return maker.op_type if all(one in self._constants for one in maker.input) else None

    def _is_number(self, name: str) -> bool:
        return name in self._constants and not self._constants[name].dims

    def pack(self, three: Sequence[_Projection]) -> None:
        first = three[0].product
        place, name = self._nodes.index(first), f"{first.name}.packed"
        self._nodes, behind = self._nodes[:place], self._nodes[place:]
        weight = self._joined([one.weight for one in three], 1, f"{name}.weight")
        value = self._add("MatMul", [first.input[0], weight], name)
        if biases := [one.bias for one in three if one.bias is not None]:
            bias = self._joined(biases, 0, f"{name}.bias")
            value = self._add("Add", [value, bias], f"{name}.sum")
        sizes = [self._width(one.weight) for one in three]
        value = self._add("Mul", [value, self._factors(three, sizes, name)], f"{name}.scaled")
        parts = [f"{name}.{number}" for number in range(len(three))]
        split = [value, self._constant(f"{name}.sizes", np.array(sizes, np.int64))]
        self._nodes.append(helper.make_node("Split", split, parts, name=f"{name}.split", axis=-1))
        self._nodes += behind
        for one, part in zip(three, parts, strict=True):
            one.reshape.input[0] = part
            if one.scale is not None:
                self._read_instead(one.scale.output[0], one.transpose.output[0])

    def _factors(self, three: Sequence[_Projection], sizes: Sequence[int], name: str) -> str:
        """What each column is multiplied by. It stands there for the compiler where it is 1 in all
        of them, too: without a Mul it adds biases and transposes in a kernel each."""
        dtype = helper.tensor_dtype_to_np_dtype(self._type(three[0].weight))
        columns = np.ones(sum(sizes), dtype)
        for one, end, size in zip(three, np.cumsum(sizes), sizes, strict=True):
            if one.scale is not None:
                columns[end - size : end] = self._array(_other(one.scale, one.transpose))
        return self._constant(f"{name}.factors", columns)

    def _type(self, weight: str) -> int:
        if weight in self._constants:
            return self._constants[weight].data_type
        maker = self._producers[weight]
        if maker.op_type == "Cast":
            return int(maker.attribute[0].i)
        return self._constants[maker.input[1]].data_type

    def _width(self, weight: str) -> int:
        stored = weight if weight in self._constants else self._producers[weight].input[0]
        return int(self._constants[stored].dims[1])

    def _joined(self, names: Sequence[str], axis: int, name: str) -> str:
        """Constants one after the other, and what is made of them.

        By a Concat, which TensorRT computes once: so weights may stay in a file of their own. What
        a DequantizeLinear reads it wants as constants.
        """
        if names[0] in self._constants:
            return self._add("Concat", names, name, axis=axis)
        makers = [self._producers[one] for one in names]
        if makers[0].op_type == "Cast":
            stored = self._joined([maker.input[0] for maker in makers], axis, f"{name}.stored")
            return self._add("Cast", [stored], name, to=makers[0].attribute[0].i)
        inputs = []
        for place, kind in enumerate(("values", "scale", "zero")):
            arrays = [self._array(maker.input[place]) for maker in makers]
            joined = np.concatenate(arrays, axis if kind == "values" else 0)
            inputs.append(self._constant(f"{name}.{kind}", joined))
        return self._add("DequantizeLinear", inputs, name, axis=axis)

    def _array(self, name: str) -> npt.NDArray[Any]:
        return numpy_helper.to_array(self._constants[name], str(self._folder))

    def _constant(self, name: str, array: npt.NDArray[Any]) -> str:
        self._constants[name] = numpy_helper.from_array(array, name)
        return name

    def _add(self, op_type: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        return name

    def _read_instead(self, old: str, new: str) -> None:
        for reader in self._readers[old]:
            for place, name in enumerate(reader.input):
                if name == old:
                    reader.input[place] = new

    def finished(self) -> bytes:
        """Without what nothing reads any more; what nothing has read stays."""
        graph = self._model.graph
        used = {output.name for output in graph.output}
        kept = []
        for node in reversed(self._nodes):
            if used.intersection(node.output) or self._readers.keys().isdisjoint(node.output):
                used.update(node.input)
                kept.append(node)
        constants = [tensor for name, tensor in self._constants.items() if name in used]
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(reversed(kept))
        graph.initializer.extend(constants)
        return self._model.SerializeToString()


def _other(node: NodeProto, known: NodeProto) -> str:
    """The input of a node that does not come from `known`, "" where both do."""
    return next((str(name) for name in node.input if name != known.output[0]), "")
