"""The comparison with the peers, end to end, with those whose libraries are here."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from electra_qa import spans
from electra_qa.bundle import Bundle
from electra_qa.tokenization import Tokenizer
from electra_qa.windows import WindowSettings, make_windows

PEERS = Path(__file__).parents[2] / "benchmarks" / "peers"
DATA = Path(__file__).parents[1] / "data" / "small.json"


@pytest.fixture(scope="module")
def reader() -> ModuleType:
    """The contestants' module, which is in no package."""
    spec = importlib.util.spec_from_file_location("reader", PEERS / "contestants" / "reader.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["reader"] = module
    spec.loader.exec_module(module)
    return module


def test_best_spans_are_those_of_the_exact_decode(reader: ModuleType, tokenizer: Tokenizer) -> None:
    rng = np.random.default_rng(0)
    settings = WindowSettings(max_seq_length=64, doc_stride=24, max_query_length=16)
    windows = make_windows(
        tokenizer.question("Who founded Rome?"),
        tokenizer.context("Rome was founded by Romulus in 753 BC, says the legend. " * 12).ids,
        settings=settings,
        cls_id=tokenizer.cls_id,
        sep_id=tokenizer.sep_id,
    )
    assert len(windows) > 3
    shape = len(windows), max(w.length for w in windows)
    start, end = rng.normal(size=(2, *shape)).astype(np.float32)
    bounds = np.array([w.bounds(reader.MAX_ANSWER_LENGTH) for w in windows], dtype=np.int32)
    expected = spans.decode(start, end, bounds, n_best_size=1)
    scores, firsts, lasts = reader.best_spans(windows, start, end)
    assert np.stack((firsts, lasts), axis=-1).tolist() == expected.spans[:, 0].tolist()
    np.testing.assert_allclose(scores, expected.span_logits[:, 0].sum(axis=-1), rtol=1e-6)


def test_the_driver_compares_the_peers_that_are_here(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("matplotlib")
    if not Path("/proc/self/smaps_rollup").exists():
        pytest.skip("stops and counts processes by Linux's /proc")
    checkpoint = tiny_checkpoint(max_position_embeddings=512)
    bundle = _build(checkpoint, tmp_path / "bundle")
    names = ["electra-qa", "electra-qa-batch", "transformers", "onnxruntime-int8"]
    output = tmp_path / "output"
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "electra_qa.benchmarks.peers.run"),
            *("--data", str(DATA), "--output", str(output), "--checkpoint", str(checkpoint)),
            *("--bundle", str(bundle.path), "--only", ",".join(names), "--rounds", "2"),
            *("--questions", "12", "--warm-up", "4", "--rate", "30", "--latency-seconds", "1.5"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    results = json.loads((output / "results.json").read_text(encoding="utf-8"))
    assert results["left_out"] == {}
    assert [row["name"] for row in results["rows"]] == names
    for row in results["rows"]:
        assert row["errors"] == {}, row["name"]
        assert row["failed"] is None
        assert len(row["questions_per_second"]) == 2
        assert row["p99_ms"] >= row["p50_ms"] > 0
        assert row["latency_questions"] > 0
        assert row["memory_mb"] > 10
        # All compute the same; int8 need not find the same in random weights.
        if row["name"] != "onnxruntime-int8":
            assert row["same_answers"] == 1.0, row["name"]
    assert "| **electra-qa** |" in (output / "table.md").read_text(encoding="utf-8")
    assert (output / "picture.png").stat().st_size > 10_000


def test_a_peer_that_does_not_start_is_left_out(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    if importlib.util.find_spec("litserve") is not None:
        pytest.skip("litserve is here")
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "electra_qa.benchmarks.peers.run", "--data", str(DATA)),
            *("--output", str(tmp_path), "--questions", "4"),
            *("--warm-up", "2", "--rounds", "1", "--latency-seconds", "0"),
            *("--only", "electra-qa,litserve"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert "litserve" in results["left_out"]["litserve"]
    assert [row["name"] for row in results["rows"]] == ["electra-qa"]
    assert "litserve was left out" in finished.stdout


def _build(checkpoint: Path, output: Path) -> Bundle:
    import io

    from rich.console import Console

    from electra_qa.build_engine.build import BuildData, BuildSettings, build_bundle

    quiet = Console(file=io.StringIO())
    return build_bundle(
        str(checkpoint), output, BuildSettings(precision="fp32"), BuildData(), quiet
    )
