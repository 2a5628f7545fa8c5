"""The bundle in the package is the one that its checkpoint and its manifest say."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx

from electra_qa.build_engine.check import check_graph
from electra_qa.bundle import default_bundle_path, load_bundle
from electra_qa.client import pipeline


def test_it_is_made_from_the_checkpoint_beside_it(checkpoint: Path) -> None:
    bundle = load_bundle(default_bundle_path())
    weights = (checkpoint / "model.safetensors").read_bytes()
    assert bundle.manifest.source_sha256 == hashlib.sha256(weights).hexdigest()
    assert bundle.manifest.precision == "int8"
    assert bundle.manifest.metrics is not None
    assert "dev-v2.0.json" not in {bundle.manifest.calibration, bundle.manifest.metrics["data"]}


def test_it_is_at_most_half_of_the_published_model() -> None:
    files = [file for file in default_bundle_path().iterdir() if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 25_000_000


def test_tensorrt_has_nothing_against_it() -> None:
    bundle = load_bundle(default_bundle_path())
    assert check_graph(onnx.load(bundle.graph_path)) == []


def test_it_answers_with_no_network_and_no_arguments() -> None:
    with pipeline() as qa:
        answer = qa(
            question="What has been discovered by scientists from China?",
            context="A new strain of flu that has the potential to become a pandemic has been "
            "identified in China by scientists.",
        )
    assert answer["answer"] == "A new strain of flu"
