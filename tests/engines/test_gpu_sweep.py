"""The script that a GPU's owner runs, on a GPU that isn't there."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_device import FakeDevice

from electra_qa.bundle import Bundle

from .conftest import importer

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "scripts" / "gpu_sweep.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("gpu_sweep", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_sweep", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "LONE_RUNS", 3)
    return module


def test_a_row_is_measured_or_says_what_went_wrong(
    script: Any,
    fresh: Callable[[], None],  # noqa: ARG001
    gpu: FakeDevice,
    tiny_bundle: Bundle,
    copied: Callable[[Bundle], Bundle],
) -> None:
    from electra_qa.engines.tensorrt.cuda import load_cuda

    bundle, cuda = copied(tiny_bundle), load_cuda(importer(gpu, "cuda-python"))
    columns = script.HEADER.count("|") + 1
    for streams in (1, 2):  # of one engine that is built
        setting = script.Setting("fp32", 384, streams, None, 3)
        device, row = script.measure(bundle, setting, 0.1, cuda)
        assert "NVIDIA Fake 4090" in device
        cells = row.split(" | ")
        assert cells[:5] == ["fp32", "384", str(streams), "TensorRT's choice", "3"]
        assert len(cells) == columns
        assert all(float(cell) > 0 for cell in cells[6:])
    assert gpu.count("build") == 1
    gpu.faults.build_error = "Could not find any implementation for node X"
    device, row = script.measure(bundle, script.Setting("fp32", 512, 1, 0, 5), 0.1, cuda)
    assert device == ""
    assert row.endswith("any implementation for node X")
