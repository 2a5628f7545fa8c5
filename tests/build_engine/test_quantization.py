"""INT8: each step against plain NumPy, and the graph that comes of it on two engines."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, numpy_helper
from safetensors.numpy import load_file, save_file

from electra_qa.build_engine import quantization
from electra_qa.build_engine.calibration import observe
from electra_qa.build_engine.check import check_graph
from electra_qa.build_engine.checkpoint import load_checkpoint
from electra_qa.build_engine.graph import build_graph
from electra_qa.build_engine.quantization import Observed, QuantizationSettings, quantize
from electra_qa.build_engine.quantized import (
    QuantizedInput,
    QuantizedLinear,
    in_float16,
    quantize_table,
    table_scale,
)
from electra_qa.bundle import Bundle, load_bundle
from electra_qa.cli import main
from electra_qa.engines import load_engine
from electra_qa.spans import MASKED
from electra_qa.squad import read_squad
from electra_qa.tokenization import Tokenizer
from electra_qa.windows import Window, WindowBatch, make_windows

from ..checkpoints import KINDS, make_checkpoint

SMALL = Path(__file__).parents[1] / "data" / "small.json"


def test_repeating_neurons_changes_nothing_but_their_size() -> None:
    rng = np.random.default_rng(0)
    weights = {
        "encoder.layer.0.intermediate.dense": rng.standard_normal((6, 10)).astype(np.float32),
        "encoder.layer.0.output.dense": rng.standard_normal((10, 6)).astype(np.float32),
    }
    biases = {"encoder.layer.0.intermediate.dense": rng.standard_normal(10).astype(np.float32)}
    before, after = weights
    weights[before][:, 3] *= 50  # the outlier
    x = rng.standard_normal((40, 6)).astype(np.float32)

    def hidden() -> np.ndarray:
        return np.maximum(x @ weights[before] + biases[before], 0)

    expected, inner = hidden() @ weights[after], hidden()
    observed = {after: Observed(np.abs(inner).max(axis=0), inner)}
    pressure = observed[after].reach * np.abs(weights[after]).max(axis=1)
    quantization._split(((before,), after), weights, biases, observed, 8)
    np.testing.assert_allclose(hidden() @ weights[after], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(observed[after].sample, hidden())
    split = observed[after].reach * np.abs(weights[after]).max(axis=1)
    assert len(split) == 18
    assert split.max() < pressure.max() / 5


def test_rounding_makes_up_for_its_errors() -> None:
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((32, 32))
    inputs = (rng.standard_normal((500, 32)) @ mixing).astype(np.float32)
    weights = rng.standard_normal((32, 16)).astype(np.float32)
    scale = (np.abs(weights).max(axis=0) / 7).astype(np.float32)  # coarse, so that it shows
    plain = np.clip(np.rint(weights / scale), -127, 127)
    rounded = quantization._round(weights, scale, inputs)

    def error(q: np.ndarray) -> float:
        return float(np.square(inputs @ (q * scale) - inputs @ weights).mean())

    assert error(rounded) < 0.5 * error(plain)
    np.testing.assert_array_equal(rounded, np.rint(rounded))
    assert np.abs(rounded).max() <= 127


def test_a_factor_folds_into_the_layer_before() -> None:
    """What its integers stand for is multiplied by the factor, exactly, in numbers of float16."""
    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 128, (6, 10)).astype(np.int8)
    scale, bias = in_float16(rng.uniform(1e-3, 1e-2, 10)), rng.standard_normal(10)
    before = QuantizedLinear(
        QuantizedInput(np.ones(6, np.float32), 1.0), weight, scale, bias.astype(np.float32)
    )
    x = rng.standard_normal((40, 10)).astype(np.float32) * np.logspace(-1, 1, 10)
    weights = rng.standard_normal((10, 4)).astype(np.float32)
    seen = Observed(np.abs(x).max(axis=0).astype(np.float32), x.astype(np.float32))
    how = quantization._smooth(weights, seen, 0.95)
    scaled, folded = quantization._fold(before, how, seen.reach)
    assert folded.folded
    assert not how.folded
    np.testing.assert_array_equal(scaled.weight, weight)
    np.testing.assert_array_equal(scaled.weight_scale, in_float16(scaled.weight_scale))
    np.testing.assert_allclose(scaled.weight_scale, scale * folded.factor, rtol=1e-6)
    np.testing.assert_allclose(scaled.bias, before.bias * folded.factor, rtol=1e-6)
    np.testing.assert_allclose(folded.factor, how.factor, rtol=2**-10)
    np.testing.assert_allclose(folded.scale, how.scale, rtol=2**-9)


@pytest.mark.parametrize("kind", KINDS)
def test_folded_factors_are_those_of_a_mul(kind: str, tmp_path: Path) -> None:
    """Of each family, the same graph with the factors in nodes of their own."""
    loaded = load_checkpoint(str(make_checkpoint(kind, tmp_path)))
    random = np.random.default_rng(0)
    windows = [
        Window(random.integers(5, 200, n, dtype=np.int32), 5, n - 1, 5, n - 1, 0)
        for n in (10, 24, 32, 48)
    ]
    folded: dict[str, QuantizedLinear] = {}
    for layer, observed in observe(loaded, windows, lambda: None):
        folded |= quantize(loaded, layer, observed, QuantizationSettings(), lambda: None)
    apart = dict(folded)
    names = loaded.family.layer_names(loaded.architecture)
    pairs = [pair for name in names for pair in loaded.family.scaled_before(name).items()]
    assert {name for name, _ in pairs} == {n for n, one in folded.items() if one.input.folded}
    for name, before in pairs:
        how, linear = folded[name].input, folded[before]
        apart[name] = dataclasses.replace(
            folded[name], input=dataclasses.replace(how, folded=False)
        )
        apart[before] = dataclasses.replace(
            linear, weight_scale=linear.weight_scale / how.factor, bias=linear.bias / how.factor
        )
        assert how.factor.max() > 1.1 * how.factor.min()
    batch = WindowBatch.pad(windows, [10] * 4, length=48, pad_id=0)

    def logits(linears: Mapping[str, QuantizedLinear]) -> npt.NDArray[np.float32]:
        model = build_graph(loaded, linears=linears, n_best_size=20, max_answer_length_limit=10)
        session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
        feed = {"input_ids": batch.input_ids, "bounds": batch.bounds}
        found: npt.NDArray[np.float32] = session.run(["logits"], feed)[0]
        return found

    got, expected = logits(folded), logits(apart)
    assert expected.std() > 0.05
    # Here and there a value between two integers goes the other way.
    assert np.sqrt(np.mean(np.square(got - expected))) < 0.02 * expected.std()


def one_row_after_the_other(
    weights: np.ndarray, scale: np.ndarray, order: np.ndarray, upper: np.ndarray
) -> np.ndarray:
    """GPTQ as its paper has it first, without blocks."""
    rest = weights[order]
    rounded = np.empty_like(rest)
    for row in range(len(rest)):
        rounded[row] = np.clip(np.rint(rest[row] / scale), -127, 127)
        error = (rest[row] - rounded[row] * scale) / upper[row, row]
        rest[row + 1 :] -= np.outer(upper[row, row + 1 :], error)
    return rounded[np.argsort(order)]


@pytest.mark.parametrize("rows", [5, 128, 129, 300])
def test_blocks_round_as_rows_do(rows: int) -> None:
    rng = np.random.default_rng(rows)
    inputs = rng.standard_normal((600, rows)) @ rng.standard_normal((rows, rows))
    weights = rng.standard_normal((rows, 40)).astype(np.float32)
    scale = (np.abs(weights).max(axis=0) / 7).astype(np.float32)
    rounded = quantization._round(weights, scale, inputs.astype(np.float32))
    order, upper = quantization._corrections(inputs.astype(np.float32), 0.01)
    expected = one_row_after_the_other(weights, scale, order, upper)
    # Sums in another order: now and then a value halfway between two integers goes the other way,
    # and those behind it that make up for it.
    assert (rounded != expected).mean() < 0.02
    assert np.abs(rounded - np.rint(weights / scale)).max() > 1


def test_a_table_is_rounded_to_half_a_step_of_each_row() -> None:
    rng = np.random.default_rng(0)
    table = rng.standard_normal((50, 8)).astype(np.float16) * np.logspace(-3, 2, 50)[:, None]
    table[7] = 0
    scale = table_scale(table)
    integers = quantize_table(table, scale)
    assert integers.dtype == np.int8
    error = np.abs(integers * scale[:, None] - table)
    # A scale is rounded to float16, so that the largest value may be clipped by a little.
    assert (error <= scale[:, None] * 0.6).all()


def build(checkpoint: Path, output: Path, *options: str) -> Result:
    arguments = ["build", "--checkpoint", str(checkpoint), "--output", str(output), *options]
    return CliRunner().invoke(main, arguments)


def int8_options(*more: str) -> tuple[str, ...]:
    return ("--precision", "int8", "--calibration", str(SMALL), *more)


def build_tiny(checkpoint: Path, output: Path, *options: str) -> Result:
    return build(checkpoint, output, "--max-seq-length", "128", *options)


def small_windows(bundle: Bundle) -> list[Window]:
    tokenizer = Tokenizer(
        bundle.tokenizer_path.read_text(encoding="utf-8"), bundle.manifest.special_tokens
    )
    return [
        window
        for question in read_squad(SMALL)
        for window in make_windows(
            tokenizer.question(question.question),
            tokenizer.context(question.context).ids,
            settings=bundle.manifest.window_settings,
            cls_id=tokenizer.cls_id,
            sep_id=tokenizer.sep_id,
        )
    ]


def padded(bundle: Bundle) -> WindowBatch:
    windows = small_windows(bundle)
    return WindowBatch.pad(windows, [30] * len(windows), length=144, pad_id=0)


@pytest.fixture(scope="module")
def int8(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The default checkpoint, calibrated on our own small set."""
    output = tmp_path_factory.mktemp("int8")
    result = build(checkpoint, output, *int8_options())
    assert result.exit_code == 0, result.output
    return load_bundle(output)


@pytest.fixture(scope="module")
def fp16(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    output = tmp_path_factory.mktemp("fp16")
    assert build(checkpoint, output, "--precision", "fp16").exit_code == 0
    return load_bundle(output)


def test_the_int8_graph_is_what_tensorrt_asks_for(int8: Bundle) -> None:
    graph = onnx.load(int8.graph_path)
    assert check_graph(graph) == []
    kinds = {tensor.name: tensor.data_type for tensor in graph.graph.initializer}
    linears = [name for name in kinds if name.endswith((".dense.weight", "query.weight"))]
    assert len(linears) == 6 * 4
    assert {kinds[name] for name in linears} == {TensorProto.INT8}
    assert kinds["embeddings.word_embeddings.weight"] == TensorProto.INT8
    assert kinds["qa_outputs.weight"] == TensorProto.FLOAT16
    assert int8.graph_path.stat().st_size < 24e6
    assert int8.manifest.precision == "int8"
    assert int8.manifest.calibration == "12 windows of small.json"


def test_query_key_and_value_share_one_rounded_input(int8: Bundle) -> None:
    nodes = onnx.load(int8.graph_path).graph.node
    rounded = [node for node in nodes if node.op_type == "QuantizeLinear"]
    assert len(rounded) == 6 * 4


@pytest.mark.parametrize(("precision", "tolerance"), [("fp16", 0.1), ("int8", 1.0)])
def test_logits_stay_close_to_those_of_float32(
    precision: str, tolerance: float, bundle: Bundle, fp16: Bundle, int8: Bundle
) -> None:
    other = {"fp16": fp16, "int8": int8}[precision]
    batch = padded(bundle)
    expected, got = load_engine(bundle).run(batch), load_engine(other).run(batch)
    np.testing.assert_allclose(got.null_logits, expected.null_logits, atol=tolerance)
    best, expected_best = got.span_logits[:, 0], expected.span_logits[:, 0]
    np.testing.assert_allclose(best.sum(axis=1), expected_best.sum(axis=1), atol=2 * tolerance)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp16", 0.1), ("int8", 0.5)])
def test_both_engines_compute_the_same_graph(
    precision: str, tolerance: float, fp16: Bundle, int8: Bundle
) -> None:
    bundle = {"fp16": fp16, "int8": int8}[precision]
    batch = padded(bundle)
    session = onnxruntime.InferenceSession(bundle.graph_path)
    names = [output.name for output in session.get_outputs()]
    feed = {"input_ids": batch.input_ids, "bounds": batch.bounds}
    theirs = dict(zip(names, session.run(None, feed), strict=True))
    ours = load_engine(bundle).run(batch)
    np.testing.assert_allclose(ours.null_logits, theirs["null_logits"], atol=tolerance)
    np.testing.assert_allclose(ours.log_partition, theirs["log_partition"], atol=tolerance)
    assert (ours.span_logits > MASKED / 2).sum() == (theirs["span_logits"] > MASKED / 2).sum()


def test_half_precision_leaves_the_span_head_and_the_norms_in_float32(fp16: Bundle) -> None:
    graph = onnx.shape_inference.infer_shapes(onnx.load(fp16.graph_path)).graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    by_kind: dict[str, set[int]] = {}
    for node in graph.node:
        by_kind.setdefault(node.op_type, set()).add(types.get(node.input[0], 0))
    assert by_kind["LayerNormalization"] == {TensorProto.FLOAT}
    assert by_kind["Softmax"] == by_kind["Gelu"] == {TensorProto.FLOAT16}
    assert by_kind["TopK"] == by_kind["Exp"] == {TensorProto.FLOAT}
    heads = [node for node in graph.node if node.name.startswith("qa_outputs/MatMul")]
    assert [types[node.input[0]] for node in heads] == [TensorProto.FLOAT]


def test_embeddings_may_stay_in_float16(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_checkpoint("electra")
    result = build_tiny(folder, tmp_path / "b", *int8_options("--embeddings", "fp16"))
    assert result.exit_code == 0, result.output
    graph = onnx.load(load_bundle(tmp_path / "b").graph_path).graph
    (table,) = [t for t in graph.initializer if t.name == "embeddings.word_embeddings.weight"]
    assert numpy_helper.to_array(table).dtype == np.float16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (int8_options("--data", str(SMALL)), "calibrate on other data than it is measured on"),
        (("--max-f1-drop", "1"), "max_f1_drop needs questions to measure on"),
    ],
)
def test_what_int8_needs_is_asked_for(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    result = build_tiny(tiny_checkpoint("electra"), tmp_path / "b", *options)
    assert result.exit_code == 1
    assert message in result.output


def test_a_drop_over_the_limit_leaves_no_bundle(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder, data = tiny_checkpoint("electra"), tmp_path / "data.json"
    data.write_bytes(SMALL.read_bytes())
    options = int8_options("--data", str(data), "--max-f1-drop")
    result = build_tiny(folder, tmp_path / "bad", *options, "-200")
    assert result.exit_code == 1
    assert "max_f1_drop is -200" in result.output
    assert not (tmp_path / "bad" / "manifest.json").exists()
    assert build_tiny(folder, tmp_path / "good", *options, "200").exit_code == 0
    metrics = load_bundle(tmp_path / "good").manifest.metrics
    assert metrics is not None
    assert metrics["data"] == "data.json"


def test_an_out_of_range_weight_is_named(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_checkpoint("electra", dtype="float32")
    weights = load_file(folder / "model.safetensors")
    name = "electra.encoder.layer.0.output.dense.weight"
    weights[name][0, 0] = 1e6
    save_file(weights, folder / "model.safetensors")
    result = build_tiny(folder, tmp_path / "b", "--precision", "fp16")
    assert result.exit_code == 1
    assert "encoder.layer.0.output.dense.weight has values out of float16's range" in result.output
