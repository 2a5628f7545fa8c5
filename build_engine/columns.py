"""The graph's second input, as what the encoder and the decode need of it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from electra_qa.windows import BOUNDS

from .writer import Writer


class Columns:
    """`bounds` as masks over positions, boolean [windows, length]."""

    def __init__(self, writer: Writer, input_ids: ir.Value, bounds: ir.Value) -> None:
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
