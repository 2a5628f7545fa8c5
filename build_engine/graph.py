"""The ONNX graph: encoder, span head and the decode of spans and null, in one.

Written out operator by operator, not traced from PyTorch, so that every type in it is chosen and
every node has a name that says what it belongs to ("encoder/layer.3/attention/query/MatMul_0").
TensorRT, OpenVINO and ONNX Runtime take it as it stands.

Inputs
    input_ids  int32 [windows, length]
    bounds     int32 [windows, 5], the columns of `electra_qa.windows.BOUNDS`: segment ids,
               padding mask and the positions where an answer may start follow from these.
Outputs: see `electra_qa.spans.DecodedWindows`; `electra_qa.spans.decode` is the same decode in
NumPy.
    spans          int32   [windows, n_best_size, 2]
    span_logits    float32 [windows, n_best_size, 2]
    null_logits    float32 [windows, 2]
    log_partition  float32 [windows, 2]
    logits         float32 [windows, length, 2]
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnxscript import GraphBuilder

from electra_qa.spans import MASKED
from electra_qa.windows import BOUNDS

from .checkpoint import Architecture, Checkpoint
from .errors import BuildError
from .quantization import QuantizedInput, QuantizedLinear, quantize_table

OPSET = 20  # Gelu came with 20, LayerNormalization with 17
IR_VERSION = 10

# Added to the attention scores of padding. exp(−1e4) is 0 in float32 and float16 alike, and unlike
# −inf or −1e10 the number exists in float16.
PADDING_BIAS = -1e4


def build_graph(
    checkpoint: Checkpoint,
    *,
    half: bool = False,
    linears: Mapping[str, QuantizedLinear] | None = None,
    int8_embeddings: bool = False,
    n_best_size: int,
    max_answer_length_limit: int,
) -> onnx.ModelProto:
    """The graph of a checkpoint, strongly typed: no engine may choose a type in it.

    half: compute in float16, else in float32.
    linears: linear layers to compute in int8, by name.
    int8_embeddings: store the word embeddings in int8.
    n_best_size: how many spans of a window are decoded.
    max_answer_length_limit: the longest answer that is decoded, in tokens.

    In a float16 graph these stay in float32 on purpose, behind Casts:
    - the residual sums and the layer norms, whose sums of squares leave float16's range;
    - the span head, whose logits would keep three digits only and tie all the time;
    - the decode: span scores, masks of −1e30, and the sums of the softmax denominators.
    The attention stays in float16 as a whole, mask and softmax too: engines fuse it only where it
    is of one type, and their fused kernels sum in float32 by themselves.

    In a float32 graph, weights that came in float16 stay so in the file, with a Cast behind them
    that engines fold away: half the size, the same numbers.

    Raises BuildError where a weight is out of float16's range.
    """
    graph = ir.Graph(inputs=[], outputs=[], nodes=[], opset_imports={"": OPSET}, name="electra_qa")
    writer = _Writer(graph, checkpoint, half, linears or {})
    builder = writer.builder
    input_ids = builder.input("input_ids", ir.DataType.INT32, ["windows", "length"])
    bounds = builder.input("bounds", ir.DataType.INT32, ["windows", len(BOUNDS)])
    columns = _Columns(writer, input_ids, bounds)
    with writer.scope("encoder"):
        words = (writer.int8_embedding if int8_embeddings else writer.embedding)("word", input_ids)
        hidden = _encoder(writer, checkpoint.architecture, words, columns)
    with writer.scope("qa_outputs"):
        head = writer.full_weight("qa_outputs.weight", transpose=True)
        product = writer.op.MatMul(writer.full(hidden), head)
        logits = writer.op.Add(product, writer.full_weight("qa_outputs.bias"))
    with writer.scope("decode"):
        outputs = _decode(writer, logits, columns, n_best_size, max_answer_length_limit)
    for name, value in {**outputs, "logits": logits}.items():
        builder.add_output(value, name)
    for node in graph:
        node.metadata_props.clear()
    proto = ir.to_proto(ir.Model(graph, ir_version=IR_VERSION, producer_name="electra-qa"))
    onnx.checker.check_model(proto)
    return proto


Op = Any


class _Writer:
    """onnxscript's builder with the checkpoint's weights at hand, and the graph's two types:
    `dtype`, which it computes in, and float32 ("full"), for what needs that."""

    def __init__(
        self,
        graph: ir.Graph,
        checkpoint: Checkpoint,
        half: bool,
        linears: Mapping[str, QuantizedLinear],
    ) -> None:
        self.builder = GraphBuilder(graph)
        self.op: Op = self.builder.op
        self.dtype = np.dtype(np.float16 if half else np.float32)
        self._half = half
        self._weights = checkpoint.weights
        self._linears = linears
        self._rounded: dict[ir.Value, ir.Value] = {}

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        self.builder.push_module(name)
        yield
        self.builder.pop_module()

    def constant(self, name: str, array: npt.NDArray[Any]) -> ir.Value:
        return self.builder.initializer(ir.tensor(array, name=name), name)

    def full(self, x: ir.Value) -> ir.Value:
        return self.op.Cast(x, to=ir.DataType.FLOAT) if self._half else x

    def weight(self, name: str, *, transpose: bool = False) -> ir.Value:
        """In the type that the graph computes in."""
        if not self._half:
            return self.full_weight(name, transpose=transpose)
        return self._store(name, self._halved(name), transpose)

    def full_weight(self, name: str, *, transpose: bool = False) -> ir.Value:
        """In float32."""
        value = self._store(name, self._weights[name], transpose)
        if self._weights[name].dtype == np.float32:
            return value
        return self.op.Cast(value, to=ir.DataType.FLOAT)

    def _store(self, name: str, array: npt.NDArray[Any], transpose: bool) -> ir.Value:
        array = np.ascontiguousarray(array.T) if transpose else array
        return self.builder.initializer(ir.tensor(array, name=name), name, qualify=False)

    def _halved(self, name: str) -> npt.NDArray[Any]:
        with np.errstate(over="ignore"):
            array = self._weights[name].astype(np.float16)
        if not np.isfinite(array).all():
            raise BuildError(f"{name} has values out of float16's range: build with fp32")
        return array

    def embedding(self, name: str, index: ir.Value) -> ir.Value:
        """Rows of a table, in float32. The Cast is behind the Gather: the table stays small."""
        name = f"embeddings.{name}_embeddings.weight"
        array = self._halved(name) if self._half else self._weights[name]
        rows = self.op.Gather(self._store(name, array, False), index, axis=0)
        return rows if array.dtype == np.float32 else self.op.Cast(rows, to=ir.DataType.FLOAT)

    def int8_embedding(self, name: str, index: ir.Value) -> ir.Value:
        """Rows of a table that is stored in int8, in float32.

        Dequantized before the Gather, not behind it: of a Gather from an int8 table TensorRT's
        documentation says nothing. Engines fold the constant.
        """
        name = f"embeddings.{name}_embeddings.weight"
        table, scale = quantize_table(self._weights[name])
        values = self.op.DequantizeLinear(
            self._store(name, table, False),
            self._store(f"{name}.scale", scale.astype(self.dtype), False),
            self.constant("zero", np.zeros(len(scale), np.int8)),
            axis=0,
        )
        return self.full(self.op.Gather(values, index, axis=0))

    def linear(self, x: ir.Value, name: str) -> ir.Value:
        if name in self._linears:
            return self._int8_linear(x, name, self._linears[name])
        product = self.op.MatMul(x, self.weight(f"{name}.weight", transpose=True))
        return self.op.Add(product, self.weight(f"{name}.bias"))

    def _int8_linear(self, x: ir.Value, name: str, linear: QuantizedLinear) -> ir.Value:
        if x not in self._rounded:  # query, key and value share one
            self._rounded[x] = self._round(x, linear.input)
        weight = self.op.DequantizeLinear(
            self._store(f"{name}.weight", linear.weight, False),
            self._store(f"{name}.weight_scale", linear.weight_scale.astype(self.dtype), False),
            self.constant("weight_zero", np.zeros(len(linear.weight_scale), np.int8)),
            axis=1,
        )
        product = self.op.MatMul(self._rounded[x], weight)
        bias = self._store(f"{name}.bias", linear.bias.astype(self.dtype), False)
        return self.op.Add(product, bias)

    def _round(self, x: ir.Value, how: QuantizedInput) -> ir.Value:
        """Through int8 and back, by QuantizeLinear and DequantizeLinear."""
        smoothed = self.op.Mul(x, self.constant("factor", how.factor.astype(self.dtype)))
        scale = self.constant("scale", np.array(how.scale, self.dtype))
        zero = self.constant("zero", np.array(0, np.int8))
        rounded = self.op.QuantizeLinear(smoothed, scale, zero)
        return self.op.DequantizeLinear(rounded, scale, zero)

    def layer_norm(self, x: ir.Value, name: str, epsilon: float) -> ir.Value:
        """Of a float32 sum; the result has the type that the graph computes in."""
        scale, bias = (self.full_weight(f"{name}.{part}") for part in ("weight", "bias"))
        y = self.op.LayerNormalization(x, scale, bias, axis=-1, epsilon=epsilon)
        return self.op.Cast(y, to=ir.DataType.FLOAT16) if self._half else y


class _Columns:
    """`bounds` as masks over positions, boolean [windows, length]."""

    def __init__(self, writer: _Writer, input_ids: ir.Value, bounds: ir.Value) -> None:
        op = writer.op
        with writer.scope("bounds"):
            columns = op.Split(bounds, axis=1, num_outputs=len(BOUNDS), _outputs=len(BOUNDS))
            context_start, context_end, start_first, start_end, self.max_answer_length = columns
            self.length = op.Squeeze(op.Shape(input_ids, start=1, end=2), [0])
            zero, one = (
                writer.constant(n, np.array(v, np.int32)) for n, v in (("zero", 0), ("one", 1))
            )
            length = op.Cast(self.length, to=ir.DataType.INT32)
            self.positions = op.Range(zero, length, one)
            positions = op.Unsqueeze(self.positions, [0])
            from_context = op.GreaterOrEqual(positions, context_start)
            # The [SEP] behind the context stands at context_end and is the last real token.
            self.is_token = op.LessOrEqual(positions, context_end)
            self.second_segment = op.And(from_context, self.is_token)
            self.in_context = op.And(from_context, op.Less(positions, context_end))
            self.may_start = op.And(
                op.GreaterOrEqual(positions, start_first), op.Less(positions, start_end)
            )
            self.in_softmax = op.Or(self.in_context, op.Equal(positions, zero))


def _encoder(
    writer: _Writer, architecture: Architecture, words: ir.Value, columns: _Columns
) -> ir.Value:
    """words: float32 [windows, length, embedding_size]."""
    op = writer.op
    epsilon = architecture.layer_norm_eps
    with writer.scope("embeddings"):
        positions = writer.embedding("position", columns.positions)
        segment = op.Cast(columns.second_segment, to=ir.DataType.INT32)
        segments = writer.embedding("token_type", segment)
        hidden = op.Add(op.Add(words, positions), segments)
        hidden = writer.layer_norm(hidden, "embeddings.LayerNorm", epsilon)
        if architecture.embedding_size != architecture.hidden_size:
            hidden = writer.linear(hidden, "embeddings_project")
    with writer.scope("mask"):
        padding = op.Where(
            columns.is_token,
            writer.constant("keep", np.array(0.0, writer.dtype)),
            writer.constant("drop", np.array(PADDING_BIAS, writer.dtype)),
        )
        padding = op.Unsqueeze(padding, [1, 2])
    for index in range(architecture.num_hidden_layers):
        layer = f"encoder.layer.{index}"
        with writer.scope(f"layer.{index}"):
            with writer.scope("attention"):
                attended = _attention(writer, architecture, hidden, padding, f"{layer}.attention")
            attended = op.Add(writer.full(attended), writer.full(hidden))
            hidden = writer.layer_norm(attended, f"{layer}.attention.output.LayerNorm", epsilon)
            with writer.scope("intermediate"):
                inner = writer.linear(hidden, f"{layer}.intermediate.dense")
                inner = _activation(op, architecture.hidden_act, inner)
            with writer.scope("output"):
                inner = writer.linear(inner, f"{layer}.output.dense")
            inner = op.Add(writer.full(inner), writer.full(hidden))
            hidden = writer.layer_norm(inner, f"{layer}.output.LayerNorm", epsilon)
    return hidden


def _attention(
    writer: _Writer, architecture: Architecture, hidden: ir.Value, padding: ir.Value, name: str
) -> ir.Value:
    op = writer.op
    heads = architecture.num_attention_heads
    head_size = architecture.hidden_size // heads
    by_head = {}
    for part in ("query", "key", "value"):
        with writer.scope(part):
            projected = writer.linear(hidden, f"{name}.self.{part}")
            by_head[part] = op.Reshape(projected, [0, 0, heads, head_size])
    # The query is scaled before the product, where engines look for it when they fuse attention.
    scale = writer.constant("scale", np.array(1 / math.sqrt(head_size), writer.dtype))
    query = op.Mul(op.Transpose(by_head["query"], perm=[0, 2, 1, 3]), scale)
    scores = op.MatMul(query, op.Transpose(by_head["key"], perm=[0, 2, 3, 1]))
    weights = op.Softmax(op.Add(scores, padding), axis=-1)
    mixed = op.MatMul(weights, op.Transpose(by_head["value"], perm=[0, 2, 1, 3]))
    mixed = op.Reshape(op.Transpose(mixed, perm=[0, 2, 1, 3]), [0, 0, architecture.hidden_size])
    with writer.scope("output"):
        return writer.linear(mixed, f"{name}.output.dense")


def _activation(op: Op, name: str, x: ir.Value) -> ir.Value:
    if name == "relu":
        return op.Relu(x)
    return op.Gelu(x, approximate="none" if name == "gelu" else "tanh")


def _decode(
    writer: _Writer, logits: ir.Value, columns: _Columns, n_best: int, band: int
) -> dict[str, ir.Value]:
    """The n best spans over all pairs, exactly, without a length × length matrix.

    A pair is (start, start + distance) with distance < band. The n best pairs lie among the n
    starts with the best pairs, so it is enough to look at n starts × band distances.
    """
    op = writer.op
    masked = writer.constant("masked", np.array(MASKED, np.float32))
    start_logits, end_logits = op.Split(logits, axis=2, num_outputs=2, _outputs=2)
    start_logits, end_logits = op.Squeeze(start_logits, [2]), op.Squeeze(end_logits, [2])
    null_logits = op.Gather(logits, writer.constant("cls", np.array(0, np.int64)), axis=1)

    with writer.scope("pairs"):
        starts = op.Where(columns.may_start, start_logits, masked)
        ends = op.Where(columns.in_context, end_logits, masked)
        windows = op.Shape(logits, start=0, end=1)
        # Masked positions behind the last one, so that no index runs out: `band` of them for the
        # ends of the last starts, and n starts more, since TopK wants at least n values.
        ends = op.Concat(ends, op.Expand(masked, op.Concat(windows, [band], axis=0)), axis=1)
        distances = writer.constant("distances", np.arange(band, dtype=np.int32))
        in_band = op.Add(op.Unsqueeze(columns.positions, [1]), op.Unsqueeze(distances, [0]))
        short_enough = op.Less(
            op.Unsqueeze(distances, [0, 1]), op.Unsqueeze(columns.max_answer_length, [2])
        )
        ends_in_band = op.Where(short_enough, op.Gather(ends, in_band, axis=1), masked)
        pairs = op.Add(op.Unsqueeze(starts, [2]), ends_in_band)  # [windows, length, band]
    with writer.scope("best_starts"):
        fill = op.Expand(masked, op.Concat(windows, [n_best], axis=0))
        best_of_start = op.Concat(op.ReduceMax(pairs, [2], keepdims=0), fill, axis=1)
        end = op.Add(columns.length, [n_best])
        order = op.Cast(
            op.Range(
                writer.constant("first", np.array(0, np.int64)),
                op.Squeeze(end, [0]),
                writer.constant("step", np.array(1, np.int64)),
            ),
            to=ir.DataType.FLOAT,
        )
        best_starts = _top(writer, best_of_start, op.Unsqueeze(order, [0]), n_best)
        # A fill stands for the last position, which is [SEP] or padding and masked as well.
        best_starts = op.Min(best_starts, op.Sub(columns.length, [1]))
    with writer.scope("best_pairs"):
        candidates = op.GatherND(pairs, op.Unsqueeze(best_starts, [2]), batch_dims=1)
        candidates = op.Reshape(candidates, [0, n_best * band])
        # Of equal scores the smaller start comes first, then the smaller end.
        order = op.Add(
            op.Mul(op.Unsqueeze(best_starts, [2]), [band]),
            writer.constant("distance", np.arange(band, dtype=np.int64)),
        )
        order = op.Cast(op.Reshape(order, [0, n_best * band]), to=ir.DataType.FLOAT)
        best = _top(writer, candidates, order, n_best)
        best = op.GatherElements(best, _sorted(writer, candidates, order, best, n_best), axis=1)
        scores = op.GatherElements(candidates, best, axis=1)
        rank = op.Div(best, [band])
        first = op.GatherElements(best_starts, rank, axis=1)
        last = op.Add(first, op.Sub(best, op.Mul(rank, [band])))
        found = op.Greater(scores, writer.constant("found", np.array(MASKED / 2, np.float32)))
        span_logits = [
            op.Where(found, op.GatherElements(values, index, axis=1), masked)
            for values, index in ((starts, first), (ends, last))
        ]
    with writer.scope("partition"):
        log_partition = [
            _log_sum_exp(op, op.Where(columns.in_softmax, values, masked))
            for values in (start_logits, end_logits)
        ]
    return {
        "spans": op.Cast(_stack(op, [first, last]), to=ir.DataType.INT32),
        "span_logits": _stack(op, span_logits),
        "null_logits": null_logits,
        "log_partition": op.Concat(*log_partition, axis=1),
    }


# Pairs are ordered by a number in float32, which counts by one up to 2²⁴ only.
MAX_PAIRS = 2**22


def _top(writer: _Writer, values: ir.Value, order: ir.Value, n: int) -> ir.Value:
    """Indices (int64) of the n highest values along axis 1; of equal ones those first in `order`.

    ONNX says that TopK prefers the lower index, but OpenVINO does not keep to it and TensorRT does
    not promise it. So the first TopK only finds the n-th value; the second one chooses by a key
    that no two values share. Logits of a float16 or int8 graph are often equal.
    """
    op = writer.op
    highest, _ = op.TopK(values, [n], axis=1, _outputs=2)
    nth = op.Slice(highest, [n - 1], [n], [1])
    above = op.Sub(writer.constant("above", np.array(float(MAX_PAIRS), np.float32)), order)
    equal = op.Neg(order)
    below = writer.constant("below", np.array(-2.0 * MAX_PAIRS, np.float32))
    key = op.Where(op.Greater(values, nth), above, op.Where(op.Equal(values, nth), equal, below))
    _, indices = op.TopK(key, [n], axis=1, _outputs=2)
    return indices


def _sorted(
    writer: _Writer, values: ir.Value, order: ir.Value, chosen: ir.Value, n: int
) -> ir.Value:
    """How to permute `chosen` (indices into values, int64 [windows, n]) so that the highest value
    comes first, and of equal ones the first in `order`: by counting who comes before whom."""
    op = writer.op
    value, place = (op.GatherElements(x, chosen, axis=1) for x in (values, order))
    mine, other = (op.Unsqueeze(value, [axis]) for axis in (2, 1))
    before = op.Or(
        op.Greater(other, mine),
        op.And(op.Equal(other, mine), op.Less(op.Unsqueeze(place, [1]), op.Unsqueeze(place, [2]))),
    )
    rank = op.ReduceSum(op.Cast(before, to=ir.DataType.FLOAT), [2], keepdims=0)
    _, permutation = op.TopK(rank, [n], axis=1, largest=0, _outputs=2)
    return permutation


def _stack(op: Op, values: list[ir.Value]) -> ir.Value:
    return op.Concat(*(op.Unsqueeze(value, [2]) for value in values), axis=2)


def _log_sum_exp(op: Op, x: ir.Value) -> ir.Value:
    """Along axis 1, kept. By hand: TensorRT's ReduceLogSumExp does not subtract the maximum."""
    highest = op.ReduceMax(x, [1], keepdims=1)
    return op.Add(op.Log(op.ReduceSum(op.Exp(op.Sub(x, highest)), [1], keepdims=1)), highest)
