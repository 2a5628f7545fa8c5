"""OpenVINO through optimum-intel: one question at a time, and batches through OpenVINO's queue.

optimum-intel asks for the LATENCY hint by default, and its models run one batch at a time. For
throughput OpenVINO's documentation has the THROUGHPUT hint and an AsyncInferQueue with as many
requests as it finds best.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import openvino
from lines import one_at_a_time, serve_lines
from optimum.intel import OVModelForQuestionAnswering
from reader import Batch, Floats, Model, Reader

# A length that it has not seen costs OpenVINO a kernel, so that lengths are rounded up.
PAD_TO_MULTIPLE_OF = 16


def one_by_one(model: OVModelForQuestionAnswering) -> Model:
    def run(batches: Sequence[Batch]) -> Iterable[tuple[Floats, Floats]]:
        for batch in batches:
            output = model(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                token_type_ids=batch.token_type_ids,
            )
            yield output.start_logits, output.end_logits

    return run


def queued(model: OVModelForQuestionAnswering) -> Model:
    model.compile()
    queue = openvino.AsyncInferQueue(model.request)

    def run(batches: Sequence[Batch]) -> Iterable[tuple[Floats, Floats]]:
        logits: dict[int, tuple[Floats, Floats]] = {}

        def keep(request: Any, number: int) -> None:
            start = request.get_tensor("start_logits").data
            logits[number] = start.copy(), request.get_tensor("end_logits").data.copy()

        queue.set_callback(keep)
        # The longest first, so that none of them is left for the end.
        for number in reversed(range(len(batches))):
            batch = batches[number]
            inputs = {
                "input_ids": batch.input_ids,
                "attention_mask": batch.attention_mask,
                "token_type_ids": batch.token_type_ids,
            }
            queue.start_async(inputs, userdata=number)
        queue.wait_all()
        return [logits[number] for number in range(len(batches))]

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="as export_openvino.py makes it")
    parser.add_argument("--batch-size", type=int, default=1, help="1: one question at a time")
    arguments = parser.parse_args()
    batched = arguments.batch_size > 1
    model = OVModelForQuestionAnswering.from_pretrained(
        arguments.model,
        ov_config={"PERFORMANCE_HINT": "THROUGHPUT" if batched else "LATENCY"},
        compile=False,
    )
    reader = Reader(
        arguments.checkpoint,
        queued(model) if batched else one_by_one(model),
        batch_size=arguments.batch_size,
        pad_to_multiple_of=PAD_TO_MULTIPLE_OF,
    )
    serve_lines(reader.answer if batched else one_at_a_time(reader.answer))


if __name__ == "__main__":
    main()
