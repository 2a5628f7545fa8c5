"""What the graph is written with: every operator has a chosen type."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnxscript import GraphBuilder

from .errors import BuildError
from .quantized import QuantizedInput, QuantizedLinear, quantize_table, table_scale

Op = Any
Array = npt.NDArray[Any]
Weights = Mapping[str, Array]


class Writer:
    """onnxscript's builder with the checkpoint's weights at hand, and the graph's two types:
    `dtype`, which it computes in, and float32 ("full"), for what needs that.

    Weights are read and converted when the graph is written to a file, one at a time: until then
    it holds none of them.

    inputs: of the linear layers, by name; of one that is used several times the first.
    """

    def __init__(
        self,
        graph: ir.Graph,
        weights: Weights,
        half: bool,
        linears: Mapping[str, QuantizedLinear],
    ) -> None:
        self.builder = GraphBuilder(graph)
        self.op: Op = self.builder.op
        self.dtype = np.dtype(np.float16 if half else np.float32)
        self._half = half
        self.weights = weights
        self._linears = linears
        self.inputs: dict[str, ir.Value] = {}
        self._rounded: dict[ir.Value, ir.Value] = {}
        self._stored: dict[str, ir.Value] = {}

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        self.builder.push_module(name)
        yield
        self.builder.pop_module()

    def constant(self, name: str, array: npt.NDArray[Any]) -> ir.Value:
        return self.builder.initializer(ir.tensor(array, name=name), name)

    def full(self, x: ir.Value) -> ir.Value:
        return self.op.Cast(x, to=ir.DataType.FLOAT) if self._half else x

    def narrow(self, x: ir.Value) -> ir.Value:
        """From float32 to the type that the graph computes in."""
        return self.op.Cast(x, to=ir.DataType.FLOAT16) if self._half else x

    def weight(self, name: str, *, transpose: bool = False) -> ir.Value:
        """In the type that the graph computes in."""
        if not self._half:
            return self.full_weight(name, transpose=transpose)
        return self._store_weight(name, np.dtype(np.float16), transpose)

    def full_weight(self, name: str, *, transpose: bool = False) -> ir.Value:
        """In float32."""
        dtype = self.weights[name].dtype
        value = self._store_weight(name, dtype, transpose)
        return value if dtype == np.float32 else self.op.Cast(value, to=ir.DataType.FLOAT)

    def _store_weight(self, name: str, dtype: np.dtype[Any], transpose: bool = False) -> ir.Value:
        weight = self.weights[name]
        if dtype != weight.dtype:
            with np.errstate(over="ignore"):
                if not np.isfinite(weight.astype(dtype)).all():
                    raise BuildError(f"{name} has values out of float16's range: build with fp32")

        def read() -> Array:
            array = self.weights[name].astype(dtype, copy=False)
            return np.ascontiguousarray(array.T) if transpose else array

        return self._store(name, dtype, weight.shape[::-1] if transpose else weight.shape, read)

    def _store(
        self, name: str, dtype: npt.DTypeLike, shape: tuple[int, ...], read: Callable[[], Array]
    ) -> ir.Value:
        if name not in self._stored:  # ALBERT's layers share theirs
            tensor = ir.LazyTensor(
                lambda: ir.tensor(read(), name=name),
                ir.DataType.from_numpy(np.dtype(dtype)),
                ir.Shape(shape),
                name=name,
            )
            self._stored[name] = self.builder.initializer(tensor, name, qualify=False)
        return self._stored[name]

    def _store_array(self, name: str, array: Array) -> ir.Value:
        return self._store(name, array.dtype, array.shape, lambda: array)

    def embedding(self, name: str, index: ir.Value) -> ir.Value:
        """Rows of a table, in float32. The Cast is behind the Gather: the table stays small."""
        name = f"embeddings.{name}_embeddings.weight"
        dtype = self.dtype if self._half else self.weights[name].dtype
        rows = self.op.Gather(self._store_weight(name, dtype), index, axis=0)
        return rows if dtype == np.float32 else self.op.Cast(rows, to=ir.DataType.FLOAT)

    def int8_embedding(self, name: str, index: ir.Value) -> ir.Value:
        """Rows of a table that is stored in int8, in float32.

        Dequantized before the Gather, not behind it: of a Gather from an int8 table TensorRT's
        documentation says nothing. Engines fold the constant.
        """
        name = f"embeddings.{name}_embeddings.weight"
        table = self.weights[name]
        scale, shape = table_scale(table), table.shape
        values = self.op.DequantizeLinear(
            self._store(name, np.int8, shape, lambda: quantize_table(self.weights[name], scale)),
            self._store_array(f"{name}.scale", scale.astype(self.dtype)),
            self.constant("zero", np.zeros(len(scale), np.int8)),
            axis=0,
        )
        return self.full(self.op.Gather(values, index, axis=0))

    def linear(self, x: ir.Value, name: str) -> ir.Value:
        self.inputs.setdefault(name, x)
        if name in self._linears:
            return self._int8_linear(x, name, self._linears[name])
        product = self.op.MatMul(x, self.weight(f"{name}.weight", transpose=True))
        if f"{name}.bias" not in self.weights:
            return product
        return self.op.Add(product, self.weight(f"{name}.bias"))

    def _int8_linear(self, x: ir.Value, name: str, linear: QuantizedLinear) -> ir.Value:
        if x not in self._rounded:  # query, key and value share one
            self._rounded[x] = self._round(x, linear.input)
        weight = self.op.DequantizeLinear(
            self._store_array(f"{name}.weight", linear.weight),
            self._store_array(f"{name}.weight_scale", linear.weight_scale.astype(self.dtype)),
            self.constant("weight_zero", np.zeros(len(linear.weight_scale), np.int8)),
            axis=1,
        )
        product = self.op.MatMul(self._rounded[x], weight)
        bias = self._store_array(f"{name}.bias", linear.bias.astype(self.dtype))
        return self.op.Add(product, bias)

    def _round(self, x: ir.Value, how: QuantizedInput) -> ir.Value:
        """Through int8 and back, by QuantizeLinear and DequantizeLinear."""
        if not how.folded:
            x = self.op.Mul(x, self.constant("factor", how.factor.astype(self.dtype)))
        scale = self.constant("scale", np.array(how.scale, self.dtype))
        zero = self.constant("zero", np.array(0, np.int8))
        rounded = self.op.QuantizeLinear(x, scale, zero)
        return self.op.DequantizeLinear(rounded, scale, zero)

    def layer_norm(self, x: ir.Value, name: str, epsilon: float) -> ir.Value:
        """Of a float32 sum; the result has the type that the graph computes in."""
        scale = self.full_weight(f"{name}.weight")
        if f"{name}.bias" in self.weights:
            bias = self.full_weight(f"{name}.bias")
        else:
            bias = self.constant("bias", np.zeros(self.weights[f"{name}.weight"].shape, np.float32))
        y = self.op.LayerNormalization(x, scale, bias, axis=-1, epsilon=epsilon)
        return self.narrow(y)
