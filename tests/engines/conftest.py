"""A GPU that isn't there, and engines on it. See fake_device.py for what it refuses."""

from __future__ import annotations

import gc
import io
import shutil
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from electra_qa.build_engine.build import BuildData, BuildSettings, build_bundle
from electra_qa.bundle import Bundle, load_bundle
from electra_qa.engines import Engine, EngineSettings, load_engine

sys.path.insert(0, str(Path(__file__).parent))

from fake_cuda_python import make_cuda_python
from fake_device import FakeDevice
from fake_pycuda import make_pycuda
from fake_tensorrt import make_tensorrt

ENGINE = "electra_qa.engines.tensorrt"
DEFAULTS = BuildSettings()


@pytest.fixture(scope="session")
def tiny_bundle(
    tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """Random weights, windows of up to 512 tokens: small enough to run every shape."""
    source = tiny_checkpoint(max_position_embeddings=512, num_hidden_layers=1)
    return build(source, tmp_path_factory.mktemp("tiny-bundle"))


@pytest.fixture(scope="session")
def short_bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The default model, for windows of up to 128 tokens: few shapes, as each is run at a start."""
    limits = {"max_seq_length": 128, "max_seq_length_limit": 128, "max_query_length": 16}
    settings = BuildSettings(**limits, doc_stride=48)
    return build(checkpoint, tmp_path_factory.mktemp("short-bundle"), settings)


def build(source: Path, output: Path, settings: BuildSettings = DEFAULTS) -> Bundle:
    return build_bundle(str(source), output, settings, BuildData(), Console(file=io.StringIO()))


@pytest.fixture(scope="session")
def reference(short_bundle: Bundle) -> Engine:
    return load_engine(short_bundle)


@pytest.fixture(scope="session")
def tiny_reference(tiny_bundle: Bundle) -> Engine:
    return load_engine(tiny_bundle)


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[Bundle], Bundle]:
    """A copy of a bundle whose folder a test may write to."""

    def copy(bundle: Bundle) -> Bundle:
        folder = tmp_path / "bundle"
        shutil.copytree(bundle.path, folder, ignore=shutil.ignore_patterns("tensorrt"))
        return load_bundle(folder)

    return copy


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeDevice]:
    """After the test nothing may be left on it, and nobody may have misused it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    device = FakeDevice()
    yield device
    if device.left():
        gc.collect()
    assert device.violations == []
    if device.fault is None:  # after one CUDA frees nothing before the process ends
        assert device.left() == {}


@pytest.fixture
def cuda_library() -> str:
    """Which one the machine has. Tests of what CUDA does take both, see `both_libraries`."""
    return "cuda-python"


@pytest.fixture
def fresh(gpu: FakeDevice) -> Iterator[Callable[[], None]]:
    """Makes the engine's modules be loaded anew, as in a new process, with TensorRT on `gpu`."""

    def forget() -> None:
        for name in list(sys.modules):
            if name in ("tensorrt", ENGINE) or name.startswith(f"{ENGINE}."):
                del sys.modules[name]

    def make() -> None:
        forget()
        sys.modules["tensorrt"] = make_tensorrt(gpu)

    make()
    yield make
    forget()


Start = Callable[..., Any]


@pytest.fixture
def start(gpu: FakeDevice, cuda_library: str, fresh: Callable[[], None]) -> Iterator[Start]:
    """Makes a TensorRTEngine as a new process would."""
    engines = []

    def make(
        bundle: Bundle,
        max_batch_tokens: int = 256,
        streams: int | None = None,
        **options: int | None,
    ) -> Any:
        fresh()
        from electra_qa.engines.tensorrt import TensorRTEngine, TensorRTOptions
        from electra_qa.engines.tensorrt.cuda import load_cuda

        settings = EngineSettings(device="gpu", max_batch_tokens=max_batch_tokens, streams=streams)
        cuda = load_cuda(importer(gpu, cuda_library))
        engine = TensorRTEngine(bundle, settings, options=TensorRTOptions(**options), cuda=cuda)
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.close()


def importer(gpu: FakeDevice, library: str) -> Callable[[str], types.ModuleType]:
    """Finds what a machine with this library has; cuda-python comes with both."""

    def find(name: str) -> types.ModuleType:
        if name == "cuda.bindings.driver":
            return make_cuda_python(gpu)
        if library == "pycuda":
            return make_pycuda(gpu)
        raise ModuleNotFoundError("No module named 'pycuda'", name="pycuda")

    return find
