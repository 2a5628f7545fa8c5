"""LitServe around ONNX Runtime, with its dynamic batching."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import litserve
from ort_model import ort_model
from reader import Answer, Question, Reader


class QuestionAnswering(litserve.LitAPI):  # type: ignore[misc]
    """One question a request; LitServe collects them into lists."""

    def __init__(self, checkpoint: Path, graph: Path, batch_size: int, **options: Any) -> None:
        super().__init__(**options)
        self._files = checkpoint, graph
        self._batch_size = batch_size

    def setup(self, device: str) -> None:  # noqa: ARG002
        checkpoint, graph = self._files
        self._reader = Reader(checkpoint, ort_model(graph), batch_size=self._batch_size)

    def decode_request(self, request: dict[str, str]) -> Question:
        return request["question"], request["context"]

    def batch(self, inputs: list[Question]) -> list[Question]:
        return inputs

    def predict(self, inputs: list[Question]) -> list[Answer]:
        return self._reader.answer(inputs)

    def unbatch(self, output: list[Answer]) -> list[Answer]:
        return output

    def encode_response(self, output: Answer) -> dict[str, str | float]:
        text, null_score_diff = output
        return {"answer": text, "null_score_diff": null_score_diff}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--graph", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--max-batch-size", type=int, default=16)
    parser.add_argument("--batch-timeout", type=float, default=0.01, help="in seconds")
    parser.add_argument("--batch-size", type=int, default=4, help="windows that run together")
    arguments = parser.parse_args()
    api = QuestionAnswering(
        arguments.checkpoint,
        arguments.graph,
        arguments.batch_size,
        max_batch_size=arguments.max_batch_size,
        batch_timeout=arguments.batch_timeout,
    )
    # One worker: its ONNX Runtime has a thread for each core already. As many workers of one thread
    # were no faster.
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1", port=arguments.port, generate_client_file=False, log_level="warning"
    )


if __name__ == "__main__":
    main()
