"""The decode in the graph: logits in, the best spans and the null score out.

`electra_qa.spans.decode` is the same in NumPy.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from electra_qa.spans import MASKED

from .columns import Columns
from .writer import Op, Writer


def decode(
    writer: Writer, logits: ir.Value, columns: Columns, n_best: int, band: int
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


def _top(writer: Writer, values: ir.Value, order: ir.Value, n: int) -> ir.Value:
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
    writer: Writer, values: ir.Value, order: ir.Value, chosen: ir.Value, n: int
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
