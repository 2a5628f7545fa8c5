"""What an engine gets is what the manifest names, wherever the weights lie."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from electra_qa.bundle import MANIFEST, Bundle, BundleError, default_bundle_path, load_bundle
from electra_qa.engines import DEFAULTS, Engine, EngineSettings, load_engine
from electra_qa.engines.onnxruntime import OnnxRuntimeEngine
from electra_qa.engines.openvino import OpenVINOEngine
from electra_qa.spans import DecodedWindows
from electra_qa.windows import Window, WindowBatch

DATA = "model.int8.onnx.data"
ENGINES = [OpenVINOEngine, OnnxRuntimeEngine]


def edit(bundle: Bundle, **changes: Any) -> None:
    """Set fields of the manifest, with the sums of the files as they are."""
    content = json.loads((bundle.path / MANIFEST).read_bytes()) | changes
    content["files"] = {
        name: hashlib.sha256((bundle.path / name).read_bytes()).hexdigest()
        for name in content["files"]
    }
    (bundle.path / MANIFEST).write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def copied(tmp_path: Path) -> Bundle:
    shutil.copytree(default_bundle_path(), tmp_path / "bundle")
    return load_bundle(tmp_path / "bundle")


@pytest.fixture
def large(copied: Bundle) -> Bundle:
    """The default bundle as one too large for a single file is: its weights in another one."""
    onnx.save_model(
        onnx.load(copied.graph_path),
        copied.graph_path,
        save_as_external_data=True,
        location=DATA,
        size_threshold=1024,
    )
    edit(copied, files={**copied.manifest.files, DATA: ""})
    return load_bundle(copied.path)


def run(engine: Engine) -> DecodedWindows:
    ids = np.arange(1000, 1032, dtype=np.int32)
    window = Window(ids, 4, 31, 4, 31, 0)
    return engine.run(WindowBatch.pad([window], [8], length=32, pad_id=0))


@pytest.mark.parametrize("kind", ENGINES)
def test_weights_in_a_file_of_their_own(large: Bundle, kind: Any) -> None:
    assert large.graph_path.stat().st_size < 2**20
    settings = EngineSettings(threads=1)
    engine = kind(large, settings)
    whole = kind(load_bundle(default_bundle_path()), settings)
    # What is written to the file from here on is nothing to the engine.
    (large.path / DATA).write_bytes(b"")
    for actual, expected in zip(
        dataclasses.astuple(run(engine)), dataclasses.astuple(run(whole)), strict=True
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ENGINES)
def test_weights_in_a_file_that_changed_are_refused(large: Bundle, kind: Any) -> None:
    path = large.path / DATA
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=f"{DATA} changed while it was loaded"):
        kind(large, DEFAULTS)


def test_weights_in_a_file_that_the_manifest_does_not_name_are_refused(large: Bundle) -> None:
    edit(large, files={n: "" for n in large.manifest.files if n != DATA})
    with pytest.raises(BundleError, match=f"weights in '{DATA}', which the manifest does not"):
        load_engine(load_bundle(large.path))


@pytest.mark.parametrize("location", ["/etc/passwd", "../secret", "", "sub/file"])
def test_weights_of_a_node_elsewhere_are_refused(copied: Bundle, location: str) -> None:
    model = onnx.load(copied.graph_path)
    tensor = onnx.TensorProto(
        dims=[1], data_type=onnx.TensorProto.FLOAT, data_location=onnx.TensorProto.EXTERNAL
    )
    tensor.external_data.add(key="location", value=location)
    branch = onnx.helper.make_graph(
        [onnx.helper.make_node("Constant", [], ["x"], value=tensor)], "branch", [], []
    )
    model.graph.node.append(
        onnx.helper.make_node("If", ["y"], ["z"], then_branch=branch, else_branch=branch)
    )
    copied.graph_path.write_bytes(model.SerializeToString())
    edit(copied)
    with pytest.raises(BundleError, match="which the manifest does not name"):
        load_engine(load_bundle(copied.path))


def test_a_graph_that_changed_is_refused(copied: Bundle) -> None:
    with copied.graph_path.open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match=r"onnx is damaged"):
        load_engine(copied)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("n_best_size", 20, "decodes 64 spans of a window, n_best_size is 20"),
        ("n_best_size", 65, "decodes 64 spans of a window, n_best_size is 65"),
        ("max_seq_length_limit", 513, "has 512 positions, max_seq_length_limit is 513"),
    ],
)
def test_a_value_that_the_graph_contradicts_is_named(
    copied: Bundle, field: str, value: int, message: str
) -> None:
    edit(copied, **{field: value})
    with pytest.raises(BundleError, match=message):
        load_engine(load_bundle(copied.path))
