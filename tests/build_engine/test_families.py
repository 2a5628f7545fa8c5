"""What each family says of its encoders, against Transformers, and its graphs in every precision.

The float32 graphs against Transformers' models: test_graph.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import openvino
import pytest

from electra_qa.build_engine.calibration import observe
from electra_qa.build_engine.check import check_graph
from electra_qa.build_engine.checkpoint import Checkpoint, load_checkpoint
from electra_qa.build_engine.config import Config
from electra_qa.build_engine.errors import BuildError
from electra_qa.build_engine.families import family_of, model_types
from electra_qa.build_engine.families.bert import ACTIVATIONS, activation
from electra_qa.build_engine.families.deberta_v2 import DebertaV2Architecture, distance_rows
from electra_qa.build_engine.graph import OPSET, build_graph
from electra_qa.build_engine.quantization import QuantizationSettings, quantize
from electra_qa.build_engine.writer import Writer
from electra_qa.windows import WindowBatch

from .test_graph import SHAPES, pad, random_windows

Checkpoints = Callable[..., Path]
OUTPUTS = ("null_logits", "log_partition")


def architecture(**fields: Any) -> Any:
    family = family_of(fields["model_type"])
    return family.architecture(Config(fields, family.defaults))


@pytest.mark.parametrize("model_type", model_types())
def test_a_field_that_is_left_out_has_the_default_of_transformers(model_type: str) -> None:
    from transformers import AutoConfig

    theirs = AutoConfig.for_model(model_type).to_dict()
    assert architecture(model_type=model_type) == architecture(**theirs)


def test_a_distilbert_heeds_no_field_of_bert() -> None:
    fields = {"intermediate_size": 7, "hidden_act": "relu", "layer_norm_eps": 0.5}
    assert architecture(model_type="distilbert", **fields) == architecture(model_type="distilbert")


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_the_one_that_transformers_has_by_the_name(name: str) -> None:
    import torch
    from transformers.activations import ACT2FN

    graph = ir.Graph(inputs=[], outputs=[], nodes=[], opset_imports={"": OPSET}, name="activation")
    writer = Writer(graph, {}, False, {})
    x = writer.builder.input("x", ir.DataType.FLOAT, ["n"])
    writer.builder.add_output(activation(writer.op, name, x), "y")
    model = ir.to_proto(ir.Model(graph, ir_version=10))
    numbers = np.linspace(-6, 6, 1001, dtype=np.float32)
    (ours,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": numbers})
    np.testing.assert_allclose(ours, ACT2FN[name](torch.from_numpy(numbers)).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("buckets", "farthest"),
    [(256, 512), (256, 1024), (64, 256), (32, 40), (33, 512), (2, 3), (0, 512), (0, 100)],
)
def test_a_distance_has_the_row_that_transformers_gives_it(buckets: int, farthest: int) -> None:
    import torch
    from transformers.models.deberta_v2.modeling_deberta_v2 import build_relative_position

    shape = architecture(
        model_type="deberta-v2",
        relative_attention=True,
        position_buckets=buckets,
        max_relative_positions=farthest,
    )
    assert isinstance(shape, DebertaV2Architecture)
    tokens = torch.zeros(1, shape.max_position_embeddings, 1)
    theirs = build_relative_position(tokens, tokens, buckets or -1, farthest)[0] + shape.span
    positions = np.arange(shape.max_position_embeddings)
    ours = distance_rows(shape)[positions[:, None] - positions + len(positions) - 1]
    np.testing.assert_array_equal(ours, theirs.clamp(0, 2 * shape.span - 1).numpy())


def test_a_modernbert_config_of_transformers_4_means_the_same() -> None:
    """The fields are those of answerdotai/ModernBERT-base."""
    from transformers import AutoConfig

    old = {
        "architectures": ["ModernBertForQuestionAnswering"],
        "global_attn_every_n_layers": 2,
        "global_rope_theta": 1000.0,
        "local_rope_theta": 100.0,
        "position_embedding_type": "absolute",
        "layer_norm_eps": 0.5,  # norm_eps is what counts
    }
    new = AutoConfig.for_model("modernbert", **old).to_dict()
    assert new["rope_parameters"]["sliding_attention"]["rope_theta"] == 100.0
    without = ("global_rope_theta", "local_rope_theta", "global_attn_every_n_layers")
    new = {name: value for name, value in new.items() if name not in without}
    assert architecture(**old, model_type="modernbert") == architecture(**new)


@pytest.mark.parametrize(
    ("model_type", "fields", "message"),
    [
        ("deberta-v2", {"attention_head_size": 32}, "attention_head_size is 32; this build takes"),
        ("deberta-v2", {"position_buckets": 1}, "position_buckets must be 2 to 1021 for"),
        ("deberta-v2", {"position_buckets": 1022}, "position_buckets must be 2 to 1021 for"),
        ("deberta-v2", {"type_vocab_size": 1}, "type_vocab_size is 1; this build takes 0, 2"),
        ("deberta-v2", {"conv_kernel_size": 4}, "conv_kernel_size is 4; this build takes 0, 1, 3"),
        ("deberta-v2", {"conv_kernel_size": 3, "conv_act": "mish"}, "conv_act is 'mish'"),
        (
            "modernbert",
            {"architectures": ["ModernBertForSequenceClassification"]},
            "the checkpoint is a ModernBertForSequenceClassification: it is not fine-tuned for",
        ),
        ("modernbert", {"rope_scaling": {"factor": 2.0}}, "rope_scaling is {'factor': 2.0}"),
        (
            "modernbert",
            {"rope_parameters": {"full_attention": {"rope_type": "yarn", "rope_theta": 1.0}}},
            "rope_type is 'yarn'; this build takes 'default'",
        ),
        ("modernbert", {"layer_types": ["full_attention"]}, "layer_types must be 22 of"),
        ("modernbert", {"layer_types": ["no_attention"] * 22}, "layer_types must be 22 of"),
        ("modernbert", {"local_rope_theta": None}, "local_rope_theta is not a number: None"),
        ("modernbert", {"hidden_activation": "mish"}, "hidden_act is 'mish'"),
        ("modernbert", {"hidden_size": 12}, "rotary positions need an even head size, got 1"),
        (
            "bert",
            {"attention_heads_by_layer": [12] * 11},
            "attention_heads_by_layer is not a list of 12 whole numbers from 1 to 12: [12, 12",
        ),
        (
            "electra",
            {"attention_heads_by_layer": [4] * 11 + [5]},
            "attention_heads_by_layer is not a list of 12 whole numbers from 1 to 4: [4, 4",
        ),
        (
            "distilbert",
            {"intermediate_size_by_layer": [3072] * 5 + [0]},
            "intermediate_size_by_layer is not a list of 6 whole numbers from 1 to 3072: [3072",
        ),
        (
            "roberta",
            {"intermediate_size_by_layer": [True] * 12},
            "intermediate_size_by_layer is not a list of 12 whole numbers from 1 to 3072: [True",
        ),
        (
            "roberta",
            {"intermediate_size_by_layer": 64},
            "intermediate_size_by_layer is not a list of 12 whole numbers from 1 to 3072: 64",
        ),
        *(
            (
                model_type,
                {"attention_heads_by_layer": [1]},
                f"config.json has attention_heads_by_layer, but a {model_type} can't be pruned",
            )
            for model_type in ("albert", "deberta-v2", "modernbert", "mpnet")
        ),
    ],
)
def test_what_a_family_does_not_compute_is_refused(
    model_type: str, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(BuildError) as caught:
        architecture(model_type=model_type, **fields)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def in_onnxruntime(model: onnx.ModelProto, batch: WindowBatch) -> list[np.ndarray]:
    """QuantizeLinear and DequantizeLinear as they stand: fused, they overflow on older CPUs."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    feed = {"input_ids": batch.input_ids, "bounds": batch.bounds}
    return list(session.run(list(OUTPUTS), feed))


def in_openvino(model: onnx.ModelProto, batch: WindowBatch) -> list[np.ndarray]:
    compiled = openvino.compile_model(
        openvino.Core().read_model(model.SerializeToString()),
        "CPU",
        {"INFERENCE_PRECISION_HINT": "f32"},
    )
    results = compiled({"input_ids": batch.input_ids, "bounds": batch.bounds})
    return [np.array(results[name]) for name in OUTPUTS]


# DistilBERT and those of RoBERTa's kind have BERT's graph.
PRUNED = {"attention_heads_by_layer": [3, 1], "intermediate_size_by_layer": [16, 40]}
CASES = (
    "bert",
    "electra, pruned",
    "mpnet",
    "albert",
    "deberta-v2, as xlarge",
    "deberta-v3, narrow embeddings",
    "modernbert",
)


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tiny_checkpoint: Checkpoints) -> Checkpoint:
    model_type, config = (SHAPES | {"electra, pruned": ("electra", PRUNED)})[request.param]
    return load_checkpoint(str(tiny_checkpoint(model_type, **config)))


def graph_of(checkpoint: Checkpoint, **how: Any) -> onnx.ModelProto:
    return ir.to_proto(build_graph(checkpoint, n_best_size=8, max_answer_length_limit=8, **how))


def batch_for(checkpoint: Checkpoint) -> WindowBatch:
    return pad(random_windows(checkpoint.special_tokens.separators + 2), 72)


def assert_close(actual: list[np.ndarray], expected: list[np.ndarray], atol: float) -> None:
    for name, ours, theirs in zip(OUTPUTS, actual, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=atol, err_msg=name)


def test_float16_says_nearly_the_same_on_both_engines(case: Checkpoint) -> None:
    batch = batch_for(case)
    full, half = graph_of(case), graph_of(case, half=True)
    assert check_graph(full) == check_graph(half) == []
    expected = in_onnxruntime(full, batch)
    assert_close(in_openvino(full, batch), expected, 1e-4)
    for run in (in_onnxruntime, in_openvino):
        assert_close(run(half, batch), expected, 0.05)


def test_int8_says_nearly_the_same(case: Checkpoint) -> None:
    windows, batch = random_windows(case.special_tokens.separators + 2), batch_for(case)
    linears = {
        name: linear
        for layer, seen in observe(case, windows, lambda: None)
        for name, linear in quantize(
            case, layer, seen, QuantizationSettings(split_neurons=16), lambda: None
        ).items()
    }
    int8 = graph_of(case, half=True, linears=linears, int8_embeddings=True)
    assert check_graph(int8) == []
    expected = in_onnxruntime(graph_of(case), batch)
    assert_close(in_onnxruntime(int8, batch), expected, 0.5)
