"""The engine for int8 on CPUs without VNNI, which runs on every CPU: so on this one too."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from electra_qa.bundle import Bundle, default_bundle_path, load_bundle, write_bundle
from electra_qa.engines import DEFAULTS, EngineError, EngineSettings, load_engine
from electra_qa.engines.onnxruntime import OnnxRuntimeEngine
from electra_qa.engines.onnxruntime.graph import without_saturation
from electra_qa.spans import MASKED
from electra_qa.tokenization import Tokenizer
from electra_qa.windows import WindowBatch, WindowSettings, make_windows

CONTEXT = "Rollo came from Denmark. The Normans came from all over. " * 3
QUESTIONS = ["Who came from Denmark?", "Where did the Normans come from?", "When?", "Why not?"]


@pytest.fixture(scope="module")
def int8() -> Bundle:
    return load_bundle(default_bundle_path())


def batch_of(tokenizer: Tokenizer) -> WindowBatch:
    windows = [
        window
        for question in QUESTIONS
        for window in make_windows(
            tokenizer.question(question),
            tokenizer.context(CONTEXT).ids,
            settings=WindowSettings(48, 16, 16),
            cls_id=tokenizer.cls_id,
            sep_id=tokenizer.sep_id,
        )
    ]
    return WindowBatch.pad(windows, [8] * len(windows), length=48, pad_id=tokenizer.pad_id)


def test_its_logits_are_near_those_of_float32(
    int8: Bundle, bundle: Bundle, tokenizer: Tokenizer
) -> None:
    """Saturated sums are off by several units."""
    batch = batch_of(tokenizer)
    got = OnnxRuntimeEngine(int8, DEFAULTS).run(batch)
    expected = load_engine(bundle).run(batch)
    assert np.abs(got.null_logits - expected.null_logits).max() < 1.0
    error = got.span_logits[:, 0] - expected.span_logits[:, 0]
    assert np.sqrt(np.mean(error**2)) < 0.5
    assert ((got.span_logits > MASKED / 2) == (expected.span_logits > MASKED / 2)).all()


def test_no_sum_of_products_can_saturate(int8: Bundle) -> None:
    rewritten = without_saturation(onnx.load(int8.graph_path), int8.path)
    graph = rewritten.graph.graph
    constants = {name: value.numpy() for name, value in rewritten.weights.items()} | {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.name not in rewritten.weights
    }
    producers = {output: node for node in graph.node for output in node.output}
    products = [node for node in graph.node if node.op_type == "MatMulIntegerToFloat"]
    assert len(products) == 6 * 6
    for product in products:
        quantize = producers[product.input[0]]
        clip = producers[quantize.input[0]]
        scale, zero = (constants[name] for name in quantize.input[1:])
        assert zero.dtype == np.uint8
        lowest, highest = (constants[name] / scale + zero for name in clip.input[1:])
        weight = constants[product.input[1]].astype(int)
        assert lowest == pytest.approx(0)
        assert highest == pytest.approx(127 if weight.shape[0] <= weight.shape[1] else 255)
        assert 2 * round(float(highest)) * np.abs(weight).max() <= 2**15 - 1


def test_nothing_is_left_in_float16_or_for_every_run(int8: Bundle) -> None:
    graph = without_saturation(onnx.load(int8.graph_path), int8.path).graph.graph
    kinds = {tensor.data_type for tensor in graph.initializer}
    assert onnx.TensorProto.FLOAT16 not in kinds
    assert "DequantizeLinear" not in {node.op_type for node in graph.node}
    for node in graph.node:
        if node.op_type == "Cast":
            assert node.attribute[0].i != onnx.TensorProto.FLOAT16


def test_calls_from_many_threads_keep_their_own_results(int8: Bundle, tokenizer: Tokenizer) -> None:
    engine = OnnxRuntimeEngine(int8, EngineSettings(threads=2, streams=2))
    assert engine.slots == 2
    batch = batch_of(tokenizer)
    halves = [WindowBatch(batch.input_ids[n::2], batch.bounds[n::2]) for n in range(2)]
    alone = [engine.run(half) for half in halves]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(engine.run, halves * 8))
    for index, actual in enumerate(together):
        for field in dataclasses.fields(actual):
            expected = getattr(alone[index % 2], field.name)
            np.testing.assert_array_equal(getattr(actual, field.name), expected)


def test_a_closed_engine_refuses(int8: Bundle, tokenizer: Tokenizer) -> None:
    engine = OnnxRuntimeEngine(int8, EngineSettings(threads=1))
    engine.close()
    engine.close()
    with ThreadPoolExecutor(2) as pool:
        for run in [pool.submit(engine.run, batch_of(tokenizer)) for _ in range(2)]:
            assert str(run.exception(timeout=60)) == "the engine is closed"


@pytest.mark.parametrize(("exact", "library"), [(True, "OpenVINO"), (False, "ONNX Runtime")])
def test_it_serves_int8_where_openvino_is_not_exact(
    int8: Bundle, monkeypatch: pytest.MonkeyPatch, exact: bool, library: str
) -> None:
    monkeypatch.setattr("electra_qa.engines.int8.int8_is_exact", lambda: exact)
    assert library in load_engine(int8).device


def test_float32_stays_with_openvino(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("electra_qa.engines.int8.int8_is_exact", lambda: False)
    assert "OpenVINO" in load_engine(bundle).device


def test_a_file_that_is_no_graph_is_refused(
    int8: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("broken")
    broken = write_bundle(folder, int8.manifest, {"model.int8.onnx": b"no", "tokenizer.json": b""})
    with pytest.raises(EngineError, match="does not take the graph"):
        OnnxRuntimeEngine(broken, DEFAULTS)
