"""The TensorRT engine on a real GPU: `pytest -m gpu`. The first run builds an engine, for minutes.

Written without a GPU at hand: where a bound here proves too tight or too loose on yours, the
numbers that it prints are what we would like to know.
"""

from __future__ import annotations

import importlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from electra_qa.bundle import Bundle, load_bundle
from electra_qa.engines import Engine, EngineSettings, load_engine
from electra_qa.spans import DecodedWindows
from electra_qa.tokenization import Tokenizer
from electra_qa.windows import WindowBatch, WindowSettings, make_windows

MAX_BATCH_TOKENS = 2048
SETTINGS = EngineSettings(device="gpu", max_batch_tokens=MAX_BATCH_TOKENS)

# fp32 on both sides, TF32 off: only the order of additions differs.
TOLERANCE = 1e-2
SAME_SPANS = 0.99


def missing() -> str | None:
    """Why these tests can't run here."""
    for name in ("tensorrt", "pycuda.driver", "cuda.bindings.runtime"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            return f"{name} can't be imported: {error}"
    driver: Any = importlib.import_module("pycuda.driver")
    try:
        driver.init()
        count = driver.Device.count()
    except driver.Error as error:
        return f"CUDA says: {error}"
    return None if count else "CUDA sees no GPU"


@pytest.fixture(scope="module", autouse=True)
def _needs_a_gpu() -> None:
    if reason := missing():
        pytest.skip(reason)


pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def own_bundle(
    _needs_a_gpu: None, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """A copy, so that the engine is built here and nowhere else."""
    folder = tmp_path_factory.mktemp("gpu") / "bundle"
    shutil.copytree(bundle.path, folder, ignore=shutil.ignore_patterns("tensorrt"))
    return load_bundle(folder)


@pytest.fixture(scope="module")
def engine(own_bundle: Bundle) -> Iterator[Any]:
    engine: Any = load_engine(own_bundle, SETTINGS)
    print(engine.device)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def cpu(own_bundle: Bundle) -> Engine:
    return load_engine(own_bundle)


Batches = Callable[[int], list[WindowBatch]]


@pytest.fixture(scope="module")
def batches(own_bundle: Bundle) -> Batches:
    """Real questions and contexts, as windows of up to so many tokens, in full batches."""
    tokenizer = Tokenizer(
        own_bundle.tokenizer_path.read_text(encoding="utf-8"), own_bundle.manifest.special_tokens
    )
    data = json.loads((Path(__file__).parents[1] / "data" / "small.json").read_text("utf-8"))
    paragraphs = [p for article in data["data"] for p in article["paragraphs"]]
    # One long text, so that there are windows of every length.
    text = " ".join(paragraph["context"] for paragraph in paragraphs)
    context = tokenizer.context(text).ids
    questions = [qa["question"] for paragraph in paragraphs for qa in paragraph["qas"]][:24]

    def make(length: int) -> list[WindowBatch]:
        settings = WindowSettings(length, max(16, length // 3), 24)
        windows = [
            window
            for question in questions
            for window in make_windows(
                tokenizer.question(question),
                context,
                settings=settings,
                cls_id=tokenizer.cls_id,
                sep_id=tokenizer.sep_id,
            )
        ][:64]
        most = max(1, MAX_BATCH_TOKENS // length)
        groups = [windows[i : i + most] for i in range(0, len(windows), most)]
        return [
            WindowBatch.pad(group, [30] * len(group), length=length, pad_id=tokenizer.pad_id)
            for group in groups
        ]

    return make


def compare(actual: DecodedWindows, expected: DecodedWindows) -> float:
    """The share of windows with the same best span. Scores must be equal to TOLERANCE."""
    for name in ("null_logits", "log_partition"):
        np.testing.assert_allclose(getattr(actual, name), getattr(expected, name), atol=TOLERANCE)
    best = [decoded.span_logits[:, 0].sum(axis=1) for decoded in (actual, expected)]
    np.testing.assert_allclose(best[0], best[1], atol=2 * TOLERANCE)
    return float((actual.spans[:, 0] == expected.spans[:, 0]).all(axis=1).mean())


@pytest.mark.parametrize("length", [64, 128, 192, 256, 320, 384, 512])
def test_every_bucket_answers_as_on_the_cpu(
    engine: Any, cpu: Engine, batches: Batches, length: int
) -> None:
    assert length in engine.buckets
    same = [compare(engine.run(batch), cpu.run(batch)) for batch in batches(length)]
    print(f"{length} tokens: {100 * float(np.mean(same)):.2f} % the same best span")
    assert np.mean(same) >= SAME_SPANS


def test_batches_of_every_size(engine: Any, cpu: Engine, batches: Batches) -> None:
    batch = batches(128)[0]
    for windows in range(1, len(batch.input_ids) + 1):
        part = WindowBatch(batch.input_ids[:windows], batch.bounds[:windows])
        decoded = engine.run(part)
        assert len(decoded.spans) == windows
        compare(decoded, cpu.run(part))


def test_a_cuda_graph_gives_what_plain_enqueue_gives(
    engine: Any, batches: Batches, caplog: pytest.LogCaptureFixture
) -> None:
    """The first run of a shape in a slot is enqueued, those after it launch the graph."""
    batch = batches(192)[0]
    part = WindowBatch(batch.input_ids[:3], batch.bounds[:3])
    with caplog.at_level(logging.WARNING):
        runs = [engine.run(part) for _ in range(4 * engine.slots)]
    assert "no CUDA graphs" not in caplog.text
    for decoded in runs[1:]:
        np.testing.assert_array_equal(decoded.spans[:, 0], runs[0].spans[:, 0])
        np.testing.assert_allclose(decoded.null_logits, runs[0].null_logits, atol=1e-5)


def test_many_threads_keep_their_own_results(engine: Any, batches: Batches) -> None:
    chosen = [batch for length in (64, 128, 384) for batch in batches(length)[:3]]
    alone = [engine.run(batch) for batch in chosen]
    with ThreadPoolExecutor(engine.slots + 2) as pool:
        together = list(pool.map(engine.run, chosen * 20))
    for index, decoded in enumerate(together):
        expected = alone[index % len(chosen)]
        np.testing.assert_array_equal(decoded.spans[:, 0], expected.spans[:, 0])
        np.testing.assert_allclose(decoded.null_logits, expected.null_logits, atol=1e-5)


def test_the_next_start_loads_the_engine(
    engine: Any, own_bundle: Bundle, batches: Batches, caplog: pytest.LogCaptureFixture
) -> None:
    names = sorted(path.suffix for path in (own_bundle.path / "tensorrt").iterdir())
    assert names == [".json", ".plan", ".timing"]
    with caplog.at_level(logging.INFO):
        second: Any = load_engine(own_bundle, SETTINGS)
    try:
        assert "building the engine" not in caplog.text
        batch = batches(64)[0]
        expected = engine.run(batch)
        np.testing.assert_array_equal(second.run(batch).spans[:, 0], expected.spans[:, 0])
    finally:
        second.close()
