"""MLServer around ONNX Runtime, with its adaptive batching.

MLServer reads a folder with settings.json and model-settings.json; `main` writes it and starts
`mlserver start` there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse
from ort_model import ort_model
from reader import Reader


class QuestionAnswering(MLModel):  # type: ignore[misc]
    async def load(self) -> bool:
        extra = self.settings.parameters.extra
        self._reader = Reader(
            Path(extra["checkpoint"]),
            ort_model(Path(extra["graph"])),
            batch_size=extra["batch_size"],
        )
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        inputs = {one.name: StringCodec.decode_input(one) for one in payload.inputs}
        answers = self._reader.answer(list(zip(inputs["question"], inputs["context"], strict=True)))
        texts = [text for text, _ in answers]
        diffs = np.array([[null_score_diff] for _, null_score_diff in answers], dtype=np.float32)
        return InferenceResponse(
            model_name=self.name,
            outputs=[
                StringCodec.encode_output("answer", texts),
                NumpyCodec.encode_output("null_score_diff", diffs),
            ],
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--graph", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="for the settings")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--max-batch-size", type=int, default=16)
    parser.add_argument("--max-batch-time", type=float, default=0.01, help="in seconds")
    parser.add_argument("--batch-size", type=int, default=4, help="windows that run together")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "host": "127.0.0.1",
        "http_port": arguments.port,
        "grpc_port": arguments.port + 1,
        "metrics_port": arguments.port + 2,
        # The default: inference in a process of its own, beside the one that speaks HTTP.
        "parallel_workers": 1,
    }
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    model = {
        "name": "qa",
        "implementation": "mlserver_server.QuestionAnswering",
        "max_batch_size": arguments.max_batch_size,
        "max_batch_time": arguments.max_batch_time,
        "parameters": {
            "extra": {
                "checkpoint": str(arguments.checkpoint.resolve()),
                "graph": str(arguments.graph.resolve()),
                "batch_size": arguments.batch_size,
            }
        },
    }
    (folder / "model-settings.json").write_text(json.dumps(model), encoding="utf-8")
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    os.execv(sys.executable, [sys.executable, "-m", "mlserver.cli.main", "start", str(folder)])


if __name__ == "__main__":
    main()
