"""The checkpoint for OpenVINO, through optimum-intel, in its default precision and in int8.

int8 needs questions to calibrate on, and is NNCF's post-training quantization with its preset for
transformers, as OpenVINO's documentation has it.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import nncf
import openvino
from optimum.intel import OVModelForQuestionAnswering
from reader import Batch, Reader

CALIBRATION_QUESTIONS = 300  # NNCF's default for its subset


def read_calibration(path: Path) -> list[tuple[str, str]]:
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    questions = [
        (qa["question"], paragraph["context"])
        for article in articles
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    ]
    return random.Random(0).sample(questions, min(CALIBRATION_QUESTIONS, len(questions)))


def quantize(model: Any, checkpoint: Path, questions: list[tuple[str, str]]) -> Any:
    inputs: list[dict[str, Any]] = []

    def collect(batches: Any) -> Any:
        for batch in batches:
            inputs.append(as_inputs(batch))
            nothing = batch.input_ids.astype("float32")
            yield nothing, nothing

    Reader(checkpoint, collect, batch_size=1).answer(questions)
    return nncf.quantize(
        model,
        nncf.Dataset(inputs),
        model_type=nncf.ModelType.TRANSFORMER,
        preset=nncf.QuantizationPreset.PERFORMANCE,
        subset_size=len(inputs),
    )


def as_inputs(batch: Batch) -> dict[str, Any]:
    return {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "token_type_ids": batch.token_type_ids,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--calibration", type=Path, help="a SQuAD file, for int8")
    arguments = parser.parse_args()
    output: Path = arguments.output
    exported = OVModelForQuestionAnswering.from_pretrained(
        arguments.checkpoint, export=True, compile=False
    )
    exported.save_pretrained(output / "default")
    if arguments.calibration:
        questions = read_calibration(arguments.calibration)
        quantized = quantize(exported.model, arguments.checkpoint, questions)
        (output / "int8").mkdir(parents=True, exist_ok=True)
        openvino.save_model(quantized, output / "int8" / "openvino_model.xml")
        exported.config.save_pretrained(output / "int8")


if __name__ == "__main__":
    main()
