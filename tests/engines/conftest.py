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

from fake_cuda import make_cuda_runtime, make_pycuda_driver
from fake_device import FakeDevice
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
    assert device.left() == {}


Start = Callable[..., Any]


@pytest.fixture
def start(gpu: FakeDevice) -> Iterator[Start]:
    """Makes a TensorRTEngine as a new process would: the modules are loaded anew."""
    installed: dict[str, types.ModuleType] = {}
    engines = []

    def make(bundle: Bundle, max_batch_tokens: int = 1024, **options: bool) -> Any:
        forget()
        pycuda, cuda, bindings = (types.ModuleType(n) for n in ("pycuda", "cuda", "cuda.bindings"))
        pycuda.driver = driver = make_pycuda_driver(gpu)  # type: ignore[attr-defined]
        bindings.runtime = runtime = make_cuda_runtime(gpu)  # type: ignore[attr-defined]
        modules = (pycuda, driver, cuda, bindings, runtime, make_tensorrt(gpu))
        installed.update({module.__name__: module for module in modules})
        sys.modules.update(installed)
        from electra_qa.engines.tensorrt import TensorRTEngine, TensorRTOptions

        settings = EngineSettings(device="gpu", max_batch_tokens=max_batch_tokens)
        engine = TensorRTEngine(bundle, settings, options=TensorRTOptions(**options))
        engines.append(engine)
        return engine

    def forget() -> None:
        for name in list(sys.modules):
            if name in installed or name == ENGINE or name.startswith(f"{ENGINE}."):
                del sys.modules[name]

    yield make
    for engine in engines:
        engine.close()
    forget()
