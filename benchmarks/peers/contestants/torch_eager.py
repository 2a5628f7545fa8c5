"""Transformers on PyTorch: the model as `from_pretrained` gives it, under `inference_mode`."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from lines import one_at_a_time, serve_lines
from reader import Batch, Floats, Reader
from transformers import AutoModelForQuestionAnswering


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--batch-size", type=int, default=1, help="1: one question at a time")
    arguments = parser.parse_args()
    # Attention is PyTorch's scaled_dot_product_attention by default.
    model = AutoModelForQuestionAnswering.from_pretrained(
        arguments.checkpoint, dtype=getattr(torch, arguments.dtype)
    ).eval()

    def run(batches: Sequence[Batch]) -> Iterable[tuple[Floats, Floats]]:
        for batch in batches:
            # Nothing is padded where there is one window, and no mask is the faster way then.
            padded = len(batch.input_ids) > 1
            with torch.inference_mode():
                output = model(
                    input_ids=torch.from_numpy(batch.input_ids),
                    attention_mask=torch.from_numpy(batch.attention_mask) if padded else None,
                    token_type_ids=torch.from_numpy(batch.token_type_ids),
                )
            yield output.start_logits.float().numpy(), output.end_logits.float().numpy()

    reader = Reader(arguments.checkpoint, run, batch_size=arguments.batch_size)
    answer = one_at_a_time(reader.answer) if arguments.batch_size == 1 else reader.answer
    serve_lines(answer)


if __name__ == "__main__":
    main()
