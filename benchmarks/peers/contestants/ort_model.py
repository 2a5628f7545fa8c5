"""A graph on ONNX Runtime's CPU provider, for the library peer and for the servers around it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import onnxruntime
from reader import Batch, Floats, Model


def ort_model(graph: Path) -> Model:
    """With its defaults, which are a thread for each core and every optimization."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])

    def run(batches: Sequence[Batch]) -> Iterable[tuple[Floats, Floats]]:
        for batch in batches:
            start, end = session.run(
                ["start_logits", "end_logits"],
                {
                    "input_ids": batch.input_ids,
                    "attention_mask": batch.attention_mask,
                    "token_type_ids": batch.token_type_ids,
                },
            )
            yield start, end

    return run
