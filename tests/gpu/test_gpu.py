"""The TensorRT engine on a real GPU: `pytest -m gpu`. The first run builds three engines, for
minutes each.

Written without a GPU at hand: where a bound here proves too tight or too loose on yours, the
numbers that it prints are what we would like to know.
"""

from __future__ import annotations

import importlib
import io
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from electra_qa.bundle import Bundle, load_bundle
from electra_qa.engines import Engine, EngineSettings, load_engine
from electra_qa.spans import DecodedWindows
from electra_qa.tokenization import Tokenizer
from electra_qa.windows import WindowBatch, WindowSettings, make_windows

MAX_BATCH_TOKENS = 2048
SETTINGS = EngineSettings(device="gpu", max_batch_tokens=MAX_BATCH_TOKENS)
DEFAULT_BUNDLE = Path(__file__).parents[2] / "electra_qa" / "default_bundle"


@dataclass(frozen=True)
class Bound:
    """How near the GPU's answers must be to the CPU's.

    logits: of 99 in 100 logits and logarithms. same_spans: the share of windows with the same best
    span.
    """

    logits: float
    same_spans: float


# fp32 on both sides, TF32 off: only the order of additions differs. fp16 is held against the fp32
# bundle, int8 against itself on the CPU, which has in float32 or bfloat16 what the GPU has in
# float16. Those two are guesses.
BOUNDS = {"fp32": Bound(1e-2, 0.99), "fp16": Bound(0.1, 0.96), "int8": Bound(0.5, 0.85)}


def missing() -> str | None:
    """Why these tests can't run here."""
    for name in ("tensorrt", "cuda.bindings.driver"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            return f"{name} can't be imported: {error}"
    driver: Any = importlib.import_module("cuda.bindings.driver")
    try:
        status, *_ = driver.cuInit(0)
        if status:
            return f"CUDA says: {driver.CUresult(status).name}"
        _, count = driver.cuDeviceGetCount()
    except RuntimeError as error:  # there is no driver
        return f"CUDA says: {error}"
    return None if count else "CUDA sees no GPU"


@pytest.fixture(scope="module", autouse=True)
def _needs_a_gpu() -> None:
    if reason := missing():
        pytest.skip(reason)


pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", params=list(BOUNDS))
def precision(request: pytest.FixtureRequest, _needs_a_gpu: None) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def own_bundle(
    precision: str, bundle: Bundle, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """A copy, so that the engine is built here and nowhere else."""
    folder = tmp_path_factory.mktemp("gpu") / "bundle"
    if precision == "fp16":
        from electra_qa.build_engine.build import BuildData, BuildSettings, build_bundle

        settings = BuildSettings(precision="fp16")
        return build_bundle(
            str(checkpoint), folder, settings, BuildData(), Console(file=io.StringIO())
        )
    source = bundle.path if precision == "fp32" else DEFAULT_BUNDLE
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("tensorrt"))
    return load_bundle(folder)


@pytest.fixture(scope="module")
def engine(own_bundle: Bundle) -> Iterator[Any]:
    engine: Any = load_engine(own_bundle, SETTINGS)
    print(engine.device)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def cpu(own_bundle: Bundle, bundle: Bundle, precision: str) -> Engine:
    return load_engine(bundle if precision == "fp16" else own_bundle)


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


def compare(actual: DecodedWindows, expected: DecodedWindows, bound: Bound) -> float:
    """The share of windows with the same best span. Logits must be within the bound."""
    for name in ("null_logits", "log_partition"):
        off = np.abs(getattr(actual, name) - getattr(expected, name))
        assert np.quantile(off, 0.99) <= bound.logits, f"{name}: {np.quantile(off, [0.5, 0.99, 1])}"
    best = [decoded.span_logits[:, 0].sum(axis=1) for decoded in (actual, expected)]
    assert np.quantile(np.abs(best[0] - best[1]), 0.99) <= 2 * bound.logits
    return float((actual.spans[:, 0] == expected.spans[:, 0]).all(axis=1).mean())


@pytest.mark.parametrize("length", [64, 128, 192, 256, 320, 384, 512])
def test_every_bucket_answers_as_on_the_cpu(
    engine: Any, cpu: Engine, batches: Batches, precision: str, length: int
) -> None:
    assert length in engine.buckets
    bound = BOUNDS[precision]
    same = [compare(engine.run(batch), cpu.run(batch), bound) for batch in batches(length)]
    print(f"{precision}, {length} tokens: {100 * float(np.mean(same)):.2f} % the same best span")
    assert np.mean(same) >= bound.same_spans


def test_batches_of_every_size(engine: Any, cpu: Engine, batches: Batches, precision: str) -> None:
    batch = batches(128)[0]
    for windows in range(1, len(batch.input_ids) + 1):
        part = WindowBatch(batch.input_ids[:windows], batch.bounds[:windows])
        decoded = engine.run(part)
        assert len(decoded.spans) == windows
        compare(decoded, cpu.run(part), BOUNDS[precision])


def test_a_cuda_graph_gives_what_plain_enqueue_gives(
    engine: Any,
    own_bundle: Bundle,
    batches: Batches,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from electra_qa.engines.tensorrt.launcher import CudaError, Launcher

    batch = batches(192)[0]
    part = WindowBatch(batch.input_ids[:3], batch.bounds[:3])
    with_graphs = [engine.run(part) for _ in range(2 * engine.slots)]

    def refuse(*_: object) -> int:
        raise CudaError("a test")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(Launcher, "capture", refuse)
        plain: Any = load_engine(own_bundle, SETTINGS)
    assert "no CUDA graphs" in caplog.text
    try:
        expected = plain.run(part)
    finally:
        plain.close()
    for decoded in with_graphs:
        np.testing.assert_array_equal(decoded.spans[:, 0], expected.spans[:, 0])
        np.testing.assert_allclose(decoded.null_logits, expected.null_logits, atol=1e-5)


@pytest.mark.parametrize("library", ["pycuda", "cuda-python"])
def test_each_library_runs_it(
    engine: Any,
    own_bundle: Bundle,
    batches: Batches,
    library: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from electra_qa.engines.tensorrt import TensorRTEngine
    from electra_qa.engines.tensorrt.cuda import load_cuda

    if library == "pycuda":
        pytest.importorskip("pycuda.driver")

    def find(name: str) -> ModuleType:
        if name == "pycuda.driver" and library != "pycuda":
            raise ModuleNotFoundError(name, name="pycuda")
        return importlib.import_module(name)

    with caplog.at_level(logging.WARNING):
        one = TensorRTEngine(own_bundle, SETTINGS, cuda=load_cuda(find))
    assert "no CUDA graphs" not in caplog.text
    try:
        assert one.device.endswith(library)
        for batch in batches(384)[:4]:
            found, expected = one.run(batch), engine.run(batch)
            np.testing.assert_array_equal(found.spans[:, 0], expected.spans[:, 0])
            np.testing.assert_allclose(found.null_logits, expected.null_logits, atol=1e-5)
    finally:
        one.close()


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
