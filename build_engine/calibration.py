"""What the inputs of linear layers look like on real questions."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from electra_qa.engines.openvino import openvino_core
from electra_qa.squad import SquadQuestion, read_squad
from electra_qa.tokenization import Tokenizer
from electra_qa.windows import Window, WindowBatch, WindowSettings, make_windows

from .checkpoint import Checkpoint
from .graph import build_graph
from .quantization import Observed, sites

SAMPLED_TOKENS = 8192
# Ours, in many registers and languages, so that int8 needs no file of the user's.
BUILT_IN = Path(__file__).with_name("calibration_set.json")


def calibration_windows(
    files: Sequence[Path], tokenizer: Tokenizer, settings: WindowSettings, count: int, seed: int = 0
) -> list[Window]:
    """`count` windows of questions drawn from SQuAD files, the same ones for the same seed.

    Raises SquadError.
    """
    questions = [question for file in files for question in read_squad(file)]
    drawn = np.random.default_rng(seed).permutation(len(questions))[:count]
    windows = [w for i in drawn for w in _windows(questions[i], tokenizer, settings)]
    return windows[:count]


def _windows(
    question: SquadQuestion, tokenizer: Tokenizer, settings: WindowSettings
) -> list[Window]:
    return make_windows(
        tokenizer.question(question.question),
        tokenizer.context(question.context).ids,
        settings=settings,
        cls_id=tokenizer.cls_id,
        sep_id=tokenizer.sep_id,
    )


def observe(
    checkpoint: Checkpoint, windows: Sequence[Window], on_window: Callable[[], None], seed: int = 0
) -> dict[str, Observed]:
    """Run the float32 graph and watch the input of every site, by its first layer's name."""
    model, tensors = _watched(checkpoint)
    core = openvino_core()
    request = core.compile_model(
        core.read_model(model.SerializeToString()),
        "CPU",
        {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"},
    ).create_infer_request()
    random = np.random.default_rng(seed)
    each = -(-SAMPLED_TOKENS // max(1, len(windows)))
    seen: dict[str, list[npt.NDArray[np.float32]]] = defaultdict(list)
    reach: dict[str, npt.NDArray[np.float32]] = {}
    for window in windows:
        batch = WindowBatch.pad([window], [1], length=window.length, pad_id=0)
        results = request.infer({"input_ids": batch.input_ids, "bounds": batch.bounds})
        # [CLS] always: it carries the null score and looks like no other token.
        others = random.permutation(np.arange(1, window.length))[: each - 1]
        chosen = np.append(0, others)
        for name, tensor in tensors.items():
            values = np.array(results[tensor]).reshape(window.length, -1)
            reach[name] = np.maximum(reach.get(name, 0.0), np.abs(values).max(axis=0))
            seen[name].append(values[chosen])
        on_window()
    return {name: Observed(reach[name], np.concatenate(seen[name])) for name in tensors}


def _watched(checkpoint: Checkpoint) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The float32 graph with the input of every site as one more output, and their names."""
    full = {name: array.astype(np.float32) for name, array in checkpoint.weights.items()}
    model = build_graph(
        dataclasses.replace(checkpoint, weights=full), n_best_size=1, max_answer_length_limit=1
    )
    inputs = {n.input[1]: n.input[0] for n in model.graph.node if n.op_type == "MatMul"}
    tensors = {group[0]: inputs[f"{group[0]}.weight"] for group in sites(checkpoint)}
    model.graph.output.extend(_outputs(tensors.values()))
    return model, tensors


def _outputs(names: Iterable[str]) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
