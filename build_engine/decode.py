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
        # TopK wants n starts at least. The fill is masked, as are positions behind the last one, so
        # that no index of an end runs out.
        length = op.Unsqueeze(columns.length, [0])
        count = op.Max(length, [n_best])
        windows = op.Shape(logits, start=0, end=1)
        fill = op.Expand(masked, op.Concat(windows, [n_best + band], axis=0))
        starts = op.Concat(op.Where(columns.may_start, start_logits, masked), fill, axis=1)
        starts = op.Slice(starts, [0], count, [1])
        ends = op.Concat(op.Where(columns.in_context, end_logits, masked), fill, axis=1)
        places = op.Range(
            writer.constant("first", np.array(0, np.int64)),
            op.Squeeze(count, [0]),
            writer.constant("step", np.array(1, np.int64)),
        )
        distances = np.arange(band)
        short_enough = op.Less(
            writer.constant("distances", distances.astype(np.int32)), columns.max_answer_length
        )
        # Added, not chosen by a Where: float32 has no room for a logit beside MASKED.
        too_long = op.Where(short_enough, writer.constant("no", np.array(0, np.float32)), masked)
        in_band = op.Add(op.Unsqueeze(places, [1]), writer.constant("distance", distances))
        pairs = op.Add(  # [windows, count, band]
            op.Add(op.Unsqueeze(starts, [2]), op.Gather(ends, in_band, axis=1)),
            op.Unsqueeze(too_long, [1]),
        )
    with writer.scope("best_starts"):
        best_of_start = op.ReduceMax(pairs, [2], keepdims=0)
        order = op.Unsqueeze(op.Cast(places, to=ir.DataType.FLOAT), [0])
        best_starts = _top(writer, best_of_start, order, n_best)
        # A fill stands for the last position, which is [SEP] or padding and masked as well.
        best_starts = op.Min(best_starts, op.Sub(length, [1]))
    with writer.scope("best_pairs"):
        candidates = op.GatherND(pairs, op.Unsqueeze(best_starts, [2]), batch_dims=1)
        candidates = op.Reshape(candidates, [0, n_best * band])
        # Of equal scores the smaller start comes first, then the smaller end.
        order = op.Add(
            op.Mul(op.Unsqueeze(best_starts, [2]), [band]),
            writer.constant("distance", distances),
        )
        order = op.Cast(op.Reshape(order, [0, n_best * band]), to=ir.DataType.FLOAT)
        best = _top_sorted(writer, candidates, order, n_best)
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
        seen = op.Where(
            op.Unsqueeze(columns.in_softmax, [1]), op.Transpose(logits, perm=[0, 2, 1]), masked
        )
        log_partition = op.Squeeze(_log_sum_exp(op, seen), [2])
    return {
        "spans": op.Cast(_stack(op, [first, last]), to=ir.DataType.INT32),
        "span_logits": _stack(op, span_logits),
        "null_logits": null_logits,
        "log_partition": log_partition,
    }


# Pairs are ordered by a number in float32, which counts by one up to 2²⁴ only.
MAX_PAIRS = 2**22


def _top(writer: Writer, values: ir.Value, order: ir.Value, n: int) -> ir.Value:
    """Indices (int64), in any order, of the n highest values along axis 1; of equal ones those
    first in `order`.

    ONNX says that TopK prefers the lower index, but OpenVINO does not keep to it and TensorRT does
    not promise it. So the first TopK only finds the n-th value; the second one chooses by a key
    that no two values share. Logits of a float16 or int8 graph are often equal.
    """
    op = writer.op
    highest, _ = op.TopK(values, [n], axis=1, _outputs=2)
    nth = op.Slice(highest, [n - 1], [n], [1])
    above = op.Sub(writer.constant("above", np.array(float(MAX_PAIRS), np.float32)), order)
    equal = op.Where(op.Equal(values, nth), op.Neg(order), _below(writer))
    _, indices = op.TopK(op.Where(op.Greater(values, nth), above, equal), [n], axis=1, _outputs=2)
    return indices


def _top_sorted(writer: Writer, values: ir.Value, order: ir.Value, n: int) -> ir.Value:
    """As `_top`, the highest value first, and of equal ones the first in `order`.

    Which values are above the n-th the first TopK says, and counting who comes before whom gives
    their places. Their keys are minus these, in front of all that are equal to the n-th.
    """
    op = writer.op
    highest, indices = op.TopK(values, [n], axis=1, _outputs=2)
    nth = op.Slice(highest, [n - 1], [n], [1])
    behind = op.Sub(writer.constant("n", np.array(-float(n), np.float32)), order)
    key = op.Where(op.Equal(values, nth), behind, _below(writer))
    place = op.GatherElements(behind, indices, axis=1)
    mine, other = (op.Unsqueeze(highest, [axis]) for axis in (2, 1))
    before = op.Or(
        op.Greater(other, mine),
        op.And(
            op.Equal(other, mine), op.Greater(op.Unsqueeze(place, [1]), op.Unsqueeze(place, [2]))
        ),
    )
    rank = op.ReduceSum(op.Cast(before, to=ir.DataType.FLOAT), [2], keepdims=0)
    known = op.Where(op.Greater(highest, nth), op.Neg(rank), place)
    key = op.ScatterElements(key, indices, known, axis=1)
    _, indices = op.TopK(key, [n], axis=1, _outputs=2)
    return indices


def _below(writer: Writer) -> ir.Value:
    """A key behind all others."""
    return writer.constant("below", np.array(-2.0 * MAX_PAIRS, np.float32))


def _stack(op: Op, values: list[ir.Value]) -> ir.Value:
    return op.Concat(*(op.Unsqueeze(value, [2]) for value in values), axis=2)


def _log_sum_exp(op: Op, x: ir.Value) -> ir.Value:
    """Along axis 2, kept. By hand: TensorRT's ReduceLogSumExp does not subtract the maximum."""
    highest = op.ReduceMax(x, [2], keepdims=1)
    return op.Add(op.Log(op.ReduceSum(op.Exp(op.Sub(x, highest)), [2], keepdims=1)), highest)
