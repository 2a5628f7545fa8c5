"""PyTriton (Triton Inference Server from Python) around ONNX Runtime, with its dynamic batching."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
from ort_model import ort_model
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig
from reader import Reader

Texts = npt.NDArray[np.bytes_]
Floats = npt.NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--graph", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--max-batch-size", type=int, default=16)
    parser.add_argument("--max-queue-delay-us", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=4, help="windows that run together")
    arguments = parser.parse_args()
    reader = Reader(
        arguments.checkpoint, ort_model(arguments.graph), batch_size=arguments.batch_size
    )

    @batch  # type: ignore[untyped-decorator]
    def infer(question: Texts, context: Texts) -> dict[str, Texts | Floats]:
        questions = [
            (q.decode(), c.decode()) for q, c in zip(question[:, 0], context[:, 0], strict=True)
        ]
        answers = reader.answer(questions)
        texts = np.array([text.encode() for text, _ in answers], dtype=np.object_)
        diffs = np.array([null_score_diff for _, null_score_diff in answers], dtype=np.float32)
        return {"answer": texts[:, None], "null_score_diff": diffs[:, None]}

    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=arguments.port,
        grpc_address="127.0.0.1",
        grpc_port=arguments.port + 1,
        metrics_address="127.0.0.1",
        metrics_port=arguments.port + 2,
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="qa",
            infer_func=infer,
            inputs=[
                Tensor(name="question", dtype=bytes, shape=(1,)),
                Tensor(name="context", dtype=bytes, shape=(1,)),
            ],
            outputs=[
                Tensor(name="answer", dtype=bytes, shape=(1,)),
                Tensor(name="null_score_diff", dtype=np.float32, shape=(1,)),
            ],
            config=ModelConfig(
                max_batch_size=arguments.max_batch_size,
                batcher=DynamicBatcher(max_queue_delay_microseconds=arguments.max_queue_delay_us),
            ),
        )
        triton.serve()


if __name__ == "__main__":
    main()
