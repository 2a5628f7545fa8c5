"""A GPU that isn't there, and engines on it. See fake_device.py for what it refuses."""

from __future__ import annotations

import gc
import shutil
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from electra_qa.bundle import Bundle, load_bundle
from electra_qa.engines import Engine, EngineSettings, load_engine

sys.path.insert(0, str(Path(__file__).parent))

from fake_cuda_python import make_cuda_python
from fake_device import FakeDevice
from fake_pycuda import make_pycuda
from fake_tensorrt import make_tensorrt

ENGINE = "electra_qa.engines.tensorrt"


@pytest.fixture(scope="session")
def tiny_bundle(
    tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """Random weights, windows of up to 512 tokens: small enough to run every shape."""
    import io

    from rich.console import Console

    from electra_qa.build_engine.build import BuildData, BuildSettings, build_bundle

    source = tiny_checkpoint(max_position_embeddings=512, num_hidden_layers=1)
    output = tmp_path_factory.mktemp("tiny-bundle")
    quiet = Console(file=io.StringIO())
    return build_bundle(str(source), output, BuildSettings(), BuildData(), quiet)


@pytest.fixture(scope="session")
def reference(bundle: Bundle) -> Engine:
    return load_engine(bundle)


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


@pytest.fixture(params=["pycuda", "cuda-python"])
def cuda_library(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


Start = Callable[..., Any]


@pytest.fixture
def start(gpu: FakeDevice, cuda_library: str) -> Iterator[Start]:
    """Makes a TensorRTEngine as a new process would: the modules are loaded anew."""
    engines = []

    def make(bundle: Bundle, max_batch_tokens: int = 1024, **options: bool) -> Any:
        forget()
        sys.modules["tensorrt"] = make_tensorrt(gpu)
        from electra_qa.engines.tensorrt import TensorRTEngine, TensorRTOptions
        from electra_qa.engines.tensorrt.cuda import load_cuda

        settings = EngineSettings(device="gpu", max_batch_tokens=max_batch_tokens)
        cuda = load_cuda(importer(gpu, cuda_library))
        engine = TensorRTEngine(bundle, settings, options=TensorRTOptions(**options), cuda=cuda)
        engines.append(engine)
        return engine

    def forget() -> None:
        for name in list(sys.modules):
            if name in ("tensorrt", ENGINE) or name.startswith(f"{ENGINE}."):
                del sys.modules[name]

    yield make
    for engine in engines:
        engine.close()
    forget()


def importer(gpu: FakeDevice, library: str) -> Callable[[str], types.ModuleType]:
    """Finds what a machine with this library has; cuda-python comes with both."""

    def find(name: str) -> types.ModuleType:
        if name == "cuda.bindings.driver":
            return make_cuda_python(gpu)
        if library == "pycuda":
            return make_pycuda(gpu)
        raise ModuleNotFoundError("No module named 'pycuda'", name="pycuda")

    return find
