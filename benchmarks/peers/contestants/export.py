"""The checkpoint as ONNX files, made once for all peers that run them.

fp32.onnx: as exported, for OpenVINO by hand. optimized.onnx: through ONNX Runtime's optimizer for
transformers. int8.onnx: that one with weights and activations of its matrix products in int8, the
activations' ranges found at run time.
"""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers import optimizer
from transformers import AutoModelForQuestionAnswering

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUTS = ("start_logits", "end_logits")


class Logits(torch.nn.Module):
    """The model with its inputs in the order of INPUTS and nothing but logits as outputs."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        output = self.model(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        )
        return output.start_logits, output.end_logits


def export(checkpoint: Path, output: Path) -> None:
    # Eager attention and the older exporter: the optimizer knows the attention that they make. In
    # what the newer one makes it finds none to fuse.
    model = AutoModelForQuestionAnswering.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    torch.onnx.export(
        Logits(model),
        tuple(torch.ones((2, 16), dtype=torch.int64) for _ in INPUTS),
        output,
        input_names=list(INPUTS),
        output_names=list(OUTPUTS),
        dynamic_axes={name: {0: "windows", 1: "length"} for name in (*INPUTS, *OUTPUTS)},
        opset_version=17,
        dynamo=False,
    )


def optimize(checkpoint: Path, source: Path, output: Path) -> None:
    config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    model = optimizer.optimize_model(
        str(source),
        model_type="bert",
        num_heads=config["num_attention_heads"],
        hidden_size=config["hidden_size"],
    )
    model.save_model_to_file(str(output))


def quantize(source: Path, output: Path) -> None:
    quantize_dynamic(
        source,
        output,
        weight_type=QuantType.QInt8,
        per_channel=True,
        # Without VNNI the sums of int8 products can overflow 16 bits; its docs say 7 bits then.
        reduce_range="vnni" not in Path("/proc/cpuinfo").read_text(encoding="utf-8"),
        # The optimizer's own operators have no type inference.
        extra_options={"DefaultTensorType": 1},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    output: Path = arguments.output
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    output.mkdir(parents=True, exist_ok=True)
    export(arguments.checkpoint, output / "fp32.onnx")
    optimize(arguments.checkpoint, output / "fp32.onnx", output / "optimized.onnx")
    quantize(output / "optimized.onnx", output / "int8.onnx")


if __name__ == "__main__":
    main()
