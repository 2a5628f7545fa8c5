"""The whole graph against Transformers on PyTorch, in float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from electra_qa.build_engine.checkpoint import load_checkpoint
from electra_qa.build_engine.graph import OPSET, build_graph
from electra_qa.spans import OUTPUTS, DecodedWindows, decode
from electra_qa.windows import Window, WindowBatch, WindowSettings, make_windows

Checkpoints = Callable[..., Path]
N_BEST = 20
MAX_ANSWER_LENGTH = 10

# As microsoft/deberta-v3-*, with ranges that windows of 64 tokens leave.
DEBERTA_V3 = {
    "relative_attention": True,
    "position_buckets": 16,
    "max_relative_positions": 40,
    "pos_att_type": "p2c|c2p",
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
}
# As microsoft/deberta-v2-xlarge.
DEBERTA_V2 = {
    **DEBERTA_V3,
    "max_relative_positions": -1,
    "conv_kernel_size": 3,
    "conv_act": "gelu",
    "attention_head_size": 8,
}
# As answerdotai/ModernBERT-base, with a neighbourhood that windows of 64 tokens leave.
MODERNBERT = {
    "num_hidden_layers": 3,
    "pad_token_id": 0,
    "local_attention": 12,
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 1000.0,
    "local_rope_theta": 50.0,
}

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "electra": ("electra", {"hidden_act": "gelu"}),
    "electra, embeddings as wide as the rest": ("electra", {"embedding_size": 32}),
    "electra, tanh gelu": ("electra", {"hidden_act": "gelu_new", "layer_norm_eps": 0.05}),
    "electra, one head": ("electra", {"num_attention_heads": 1, "num_hidden_layers": 1}),
    "bert": ("bert", {"hidden_act": "gelu"}),
    "bert, tanh gelu of PyTorch": ("bert", {"hidden_act": "gelu_pytorch_tanh"}),
    "bert, relu": ("bert", {"hidden_act": "relu", "layer_norm_eps": 0.05}),
    "bert, one segment": ("bert", {"type_vocab_size": 1}),
    "distilbert": ("distilbert", {}),
    "distilbert, relu": ("distilbert", {"hidden_act": "relu"}),
    "roberta": ("roberta", {"type_vocab_size": 1}),
    "roberta, two segments": ("roberta", {}),
    "roberta, padding elsewhere": ("roberta", {"pad_token_id": 5}),
    "xlm-roberta": ("xlm-roberta", {"type_vocab_size": 1}),
    "camembert": ("camembert", {"type_vocab_size": 1}),
    "mpnet": ("mpnet", {}),
    "mpnet, a larger table": ("mpnet", {"relative_attention_num_buckets": 40}),
    "albert": ("albert", {}),
    "albert, groups": (
        "albert",
        {"num_hidden_layers": 3, "num_hidden_groups": 2, "max_position_embeddings": 100},
    ),
    "albert, embeddings as wide as the rest": ("albert", {"embedding_size": 32}),
    "deberta-v2, Transformers' defaults": ("deberta-v2", {}),
    "deberta-v2, segments": ("deberta-v2", {"type_vocab_size": 2, "pos_att_type": ["c2p"]}),
    "deberta-v2, as xlarge": ("deberta-v2", DEBERTA_V2),
    "deberta-v2, a wider convolution": (
        "deberta-v2",
        DEBERTA_V2 | {"conv_kernel_size": 5, "conv_groups": 4, "conv_act": "tanh"},
    ),
    "deberta-v3": ("deberta-v2", DEBERTA_V3),
    "deberta-v3, narrow embeddings": ("deberta-v2", DEBERTA_V3 | {"embedding_size": 16}),
    "deberta-v3, positions": ("deberta-v2", DEBERTA_V3 | {"position_biased_input": True}),
    "deberta-v3, keys of their own": ("deberta-v2", DEBERTA_V3 | {"share_att_key": False}),
    "deberta-v3, c2p": ("deberta-v2", DEBERTA_V3 | {"pos_att_type": ["c2p"]}),
    "deberta-v3, p2c, keys of its own": (
        "deberta-v2",
        DEBERTA_V3 | {"pos_att_type": ["p2c"], "share_att_key": False},
    ),
    "deberta-v3, neither": ("deberta-v2", DEBERTA_V3 | {"pos_att_type": None}),
    "deberta-v3, no buckets": ("deberta-v2", DEBERTA_V3 | {"position_buckets": -1}),
    "deberta-v3, all distances": (
        "deberta-v2",
        DEBERTA_V3 | {"position_buckets": -1, "max_relative_positions": -1},
    ),
    "deberta-v3, no norm": ("deberta-v2", DEBERTA_V3 | {"norm_rel_ebd": "none"}),
    "modernbert": ("modernbert", MODERNBERT),
    "modernbert, biases": (
        "modernbert",
        MODERNBERT
        | dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"), True),
    ),
    "modernbert, other activations": (
        "modernbert",
        MODERNBERT | {"hidden_activation": "gelu_new", "classifier_activation": "relu"},
    ),
    "modernbert, layers by name": (
        "modernbert",
        MODERNBERT
        | {
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {
                "full_attention": {"rope_theta": 500.0, "rope_type": "default"},
                "sliding_attention": {"rope_theta": 20.0, "rope_type": "default"},
            },
        },
    ),
    "modernbert, all layers full": ("modernbert", MODERNBERT | {"global_attn_every_n_layers": 1}),
}


def build(folder: Path) -> onnx.ModelProto:
    return ir.to_proto(
        build_graph(
            load_checkpoint(str(folder)),
            n_best_size=N_BEST,
            max_answer_length_limit=MAX_ANSWER_LENGTH,
        )
    )


def random_windows(special_tokens: int = 3) -> list[Window]:
    """Windows of unlike lengths, 10 to 64 tokens."""
    random = np.random.default_rng(0)
    windows: list[Window] = []
    for question_tokens, context_tokens in ((5, 2), (8, 30), (3, 90)):
        windows += make_windows(
            random.integers(1000, 30522, question_tokens, dtype=np.int32),
            random.integers(1000, 30522, context_tokens, dtype=np.int32),
            settings=WindowSettings(64, 40, 10, special_tokens),
            cls_id=101,
            sep_id=102,
        )
    assert len(windows) == 4
    return windows


def pad(windows: list[Window], length: int) -> WindowBatch:
    return WindowBatch.pad(windows, [MAX_ANSWER_LENGTH] * len(windows), length=length, pad_id=0)


def run(model: onnx.ModelProto, batch: WindowBatch) -> DecodedWindows:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return DecodedWindows(
        *session.run(OUTPUTS, {"input_ids": batch.input_ids, "bounds": batch.bounds})
    )


def in_pytorch(folder: Path, windows: list[Window], length: int) -> npt.NDArray[np.float32]:
    """Logits [2, windows, length], by Transformers' own mask and segment ids."""
    import torch
    from transformers import AutoModelForQuestionAnswering

    inputs = {
        name: torch.zeros(len(windows), length, dtype=torch.int64)
        for name in ("input_ids", "attention_mask", "token_type_ids")
    }
    model = AutoModelForQuestionAnswering.from_pretrained(folder, dtype=torch.float32).eval()
    # RoBERTa counts positions by what is no padding.
    inputs["input_ids"] += model.config.pad_token_id
    for index, window in enumerate(windows):
        inputs["input_ids"][index, : window.length] = torch.from_numpy(window.input_ids)
        inputs["attention_mask"][index, : window.length] = 1
        inputs["token_type_ids"][index, window.context_start : window.length] = 1
    if not load_checkpoint(str(folder)).architecture.type_vocab_size:
        del inputs["token_type_ids"]
    with torch.no_grad():
        output = model(**inputs)
    return torch.stack((output.start_logits, output.end_logits)).numpy()


def assert_close(actual: DecodedWindows, expected: DecodedWindows, atol: float) -> None:
    np.testing.assert_allclose(actual.null_logits, expected.null_logits, atol=atol)
    np.testing.assert_allclose(actual.log_partition, expected.log_partition, atol=atol)
    # Spans with nearly equal scores may change places, so only the best one is held to its place.
    np.testing.assert_array_equal(actual.spans[:, 0], expected.spans[:, 0])
    np.testing.assert_allclose(actual.span_logits[:, 0], expected.span_logits[:, 0], atol=atol)
    np.testing.assert_allclose(
        actual.span_logits.sum(axis=2), expected.span_logits.sum(axis=2), atol=2 * atol
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_the_graph_answers_as_transformers_does(shape: str, tiny_checkpoint: Checkpoints) -> None:
    model_type, config = SHAPES[shape]
    folder = tiny_checkpoint(model_type, **config)
    windows = random_windows(load_checkpoint(str(folder)).special_tokens.separators + 2)
    batch = pad(windows, 72)
    start, end = in_pytorch(folder, windows, 72)
    # Weights with no effect on the logits would go unnoticed: the logits have to be far apart.
    assert start.std() > 0.05
    assert end.std() > 0.05
    assert_close(run(build(folder), batch), decode(start, end, batch.bounds, N_BEST), atol=1e-4)


def test_padding_and_neighbours_change_nothing(tiny_checkpoint: Checkpoints) -> None:
    model = build(tiny_checkpoint("electra"))
    windows = random_windows()
    padded = run(model, pad(windows, 128))
    for index, window in enumerate(windows):
        alone = run(model, pad([window], window.length))
        same = slice(index, index + 1)
        assert_close(
            DecodedWindows(
                padded.spans[same],
                padded.span_logits[same],
                padded.null_logits[same],
                padded.log_partition[same],
                padded.logits[same],
            ),
            alone,
            atol=1e-5,
        )


def test_float16_weights_stay_float16_in_the_file_and_count_the_same(
    tiny_checkpoint: Checkpoints, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    half = tiny_checkpoint("electra", dtype="float16")
    full = tmp_path
    for path in half.iterdir():
        (full / path.name).write_bytes(path.read_bytes())
    weights = load_file(half / "model.safetensors")
    save_file(
        {name: tensor.astype(np.float32) for name, tensor in weights.items()},
        full / "model.safetensors",
    )
    half_model, full_model = build(half), build(full)
    assert half_model.ByteSize() < 0.55 * full_model.ByteSize()
    batch = pad(random_windows(), 64)
    assert_close(run(half_model, batch), run(full_model, batch), atol=1e-6)


def test_bfloat16_weights_become_float32(tiny_checkpoint: Checkpoints) -> None:
    folder = tiny_checkpoint("electra", dtype="bfloat16")
    batch = pad(random_windows(), 64)
    start, end = in_pytorch(folder, random_windows(), 64)
    assert_close(run(build(folder), batch), decode(start, end, batch.bounds, N_BEST), atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_graph_is_valid_onnx_with_typed_inputs_and_outputs(
    dtype: str, tiny_checkpoint: Checkpoints
) -> None:
    model = build(tiny_checkpoint("electra", dtype=dtype))
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", OPSET)]
    types = onnx.TensorProto
    assert [(i.name, i.type.tensor_type.elem_type) for i in model.graph.input] == [
        ("input_ids", types.INT32),
        ("bounds", types.INT32),
    ]
    assert [(o.name, o.type.tensor_type.elem_type) for o in model.graph.output] == [
        ("spans", types.INT32),
        ("span_logits", types.FLOAT),
        ("null_logits", types.FLOAT),
        ("log_partition", types.FLOAT),
        ("logits", types.FLOAT),
    ]
