"""BentoML around ONNX Runtime, with its adaptive batching.

`bentoml serve` takes a class, not a command line, so that its files and sizes are in the
environment: PEER_CHECKPOINT, PEER_GRAPH, PEER_BATCH_SIZE, PEER_MAX_BATCH_SIZE and
PEER_MAX_LATENCY_MS.
"""

from __future__ import annotations

import os
from pathlib import Path

import bentoml
from ort_model import ort_model
from pydantic import BaseModel
from reader import Reader


class Question(BaseModel):
    question: str
    context: str


# One worker: its ONNX Runtime has a thread for each core already.
@bentoml.service(workers=1, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class QuestionAnswering:
    def __init__(self) -> None:
        self._reader = Reader(
            Path(os.environ["PEER_CHECKPOINT"]),
            ort_model(Path(os.environ["PEER_GRAPH"])),
            batch_size=int(os.environ.get("PEER_BATCH_SIZE", "4")),
        )

    @bentoml.api(  # type: ignore[untyped-decorator]
        batchable=True,
        max_batch_size=int(os.environ.get("PEER_MAX_BATCH_SIZE", "16")),
        max_latency_ms=int(os.environ.get("PEER_MAX_LATENCY_MS", "60000")),
    )
    def answer(self, questions: list[Question]) -> list[tuple[str, float]]:
        return self._reader.answer([(q.question, q.context) for q in questions])
