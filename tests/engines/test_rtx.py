"""The graphs that we hand to TensorRT, compiled by TensorRT for RTX: NVIDIA's compiler too, for a
GPU that need not be there. It says what of a graph is taken, with which types, and what is fused
into one kernel; not how fast that is, nor what it computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from electra_qa.build_engine.build import BuildSettings
from electra_qa.build_engine.check import check_graph
from electra_qa.bundle import Bundle, load_bundle, write_bundle
from electra_qa.engines import EngineError

from ..checkpoints import KINDS, make_checkpoint
from .conftest import build
from .rtx_compiler import compile_bundle, refusal
from .small_graphs import BAD, GOOD, STRICTER

# Ampere, Ada and Blackwell. It knows no Hopper.
CAPABILITIES = ("SM80", "SM89", "SM120")
# The usual one: each costs the compiler a second or two.
LENGTHS = (384,)
LAYERS = 6  # of the default model
TINY_LAYERS = 3  # of those in checkpoints.py
# Kernels a batch, of this version of the compiler; docs/gpu.md has the table.
KERNELS = {"fp32": 85, "fp16": 61, "int8": 73}
DEFAULT_BUNDLE = Path(__file__).parents[2] / "electra_qa" / "default_bundle"


@pytest.fixture(scope="module")
def bundles(
    bundle: Bundle, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Bundle]:
    """The default model in each precision."""
    half = build(checkpoint, tmp_path_factory.mktemp("fp16"), BuildSettings(precision="fp16"))
    return {"fp32": bundle, "fp16": half, "int8": load_bundle(DEFAULT_BUNDLE)}


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("precision", KERNELS)
def test_each_precision_compiles(
    bundles: dict[str, Bundle], precision: str, capability: str
) -> None:
    bundle = bundles[precision]
    assert bundle.manifest.precision == precision
    compiled = compile_bundle(bundle, capability, LENGTHS)
    assert compiled.plan
    spans = bundle.manifest.n_best_size
    int32, float32 = np.dtype(np.int32), np.dtype(np.float32)
    assert compiled.inputs == {"input_ids": (int32, (-1, -1)), "bounds": (int32, (-1, 5))}
    assert compiled.outputs == {
        "spans": (int32, (-1, spans, 2)),
        "span_logits": (float32, (-1, spans, 2)),
        "null_logits": (float32, (-1, 2)),
        "log_partition": (float32, (-1, 2)),
        "logits": (float32, (-1, -1, 2)),
    }
    assert len(compiled.kernels) == KERNELS[precision]
    # One a layer. This compiler has none for float32.
    assert compiled.fused_attention == (0 if precision == "fp32" else LAYERS)


def test_few_windows_have_kernels_of_their_own_and_no_stream_waits(
    bundles: dict[str, Bundle],
) -> None:
    compiled = compile_bundle(bundles["fp16"], "SM89", LENGTHS, max_batch_tokens=16_384)
    assert compiled.fused_attention == 2 * LAYERS
    assert compiled.kinds["wait"] == 0
    spread = compile_bundle(bundles["fp16"], "SM89", LENGTHS, auxiliary_streams=None)
    assert spread.kinds["wait"] == 0  # 26 where query, key and value are three products


@pytest.fixture(scope="module", params=KINDS)
def half_of_each_family(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """In fp16."""
    folder = make_checkpoint(request.param, tmp_path_factory.mktemp(request.param))
    return build(folder, folder / "bundle", BuildSettings(precision="fp16"))


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_each_family_compiles(half_of_each_family: Bundle, capability: str) -> None:
    compiled = compile_bundle(half_of_each_family, capability, LENGTHS)
    assert compiled.plan
    assert compiled.fused_attention == TINY_LAYERS


@pytest.mark.parametrize("name", GOOD)
def test_what_our_checker_takes_the_compiler_takes(name: str) -> None:
    assert check_graph(GOOD[name]) == []
    assert refusal(GOOD[name]) == ""


@pytest.mark.parametrize("name", BAD)
def test_what_the_compiler_refuses_our_checker_refuses(name: str) -> None:
    assert refusal(BAD[name]) != ""
    assert check_graph(BAD[name]) != []


@pytest.mark.parametrize("name", STRICTER)
def test_what_only_our_checker_refuses(name: str) -> None:
    """By TensorRT's documentation. A rule that it is too strict in costs us nothing."""
    assert check_graph(STRICTER[name]) != []
    assert refusal(STRICTER[name]) == ""


def test_a_half_is_not_added_to_a_float_in_our_graph(bundle: Bundle, tmp_path: Path) -> None:
    """Nothing is promoted, and the node is named."""
    model = onnx.load(bundle.graph_path)
    make, types_ = onnx.helper.make_node, onnx.TensorProto
    model.graph.node.extend(
        [
            make("Cast", ["bounds"], ["half"], name="to_half", to=types_.FLOAT16),
            make("Cast", ["bounds"], ["float"], name="to_float", to=types_.FLOAT),
            make("Add", ["half", "float"], ["sum"], name="mixed"),
        ]
    )
    files = {bundle.graph_path.name: model.SerializeToString(), "tokenizer.json": b""}
    mixed = write_bundle(tmp_path, bundle.manifest, files)
    with pytest.raises(EngineError, match=r"(?s)mixed.*Half.*Float"):
        compile_bundle(mixed, "SM89", LENGTHS)
