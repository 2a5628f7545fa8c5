"""The comparison with the peers, end to end, with those whose libraries are here."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from electra_qa import spans
from electra_qa.benchmarks.peers.agreement import Agreement, agreement
from electra_qa.benchmarks.peers.asking import Answer
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


def test_agreement_is_at_one_threshold() -> None:
    reference = {
        "both answer": Answer("Rome", -3.0),
        "none answers": Answer("Rome", 9.0),
        "on either side of the threshold": Answer("Rome", 0.5),
        "another span, none answers": Answer("Rome", 8.0),
        "another span": Answer("Rome", -2.0),
        "not asked": Answer("Rome", 0.0),
    }
    answers = {
        "both answer": Answer("Rome", -1.0),
        "none answers": Answer("Rome", 9.0),
        "on either side of the threshold": Answer("Rome", 1.5),
        "another span, none answers": Answer("Troy", 8.0),
        "another span": Answer("Troy", -2.0),
    }
    at_one = agreement(answers, reference, 1.0)
    assert at_one == Agreement(3 / 5, 3 / 5, pytest.approx(1.0))  # sqrt((2² + 1²) / 5)
    at_two = agreement(answers, reference, 2.0)
    assert at_two is not None
    assert at_two.same_answers == 4 / 5
    assert agreement({}, reference, 1.0) is None


def test_there_is_no_error_where_one_is_not_known() -> None:
    reference = {"a": Answer("Rome", -3.0), "b": Answer("Rome", 1.0)}
    one = agreement({"a": Answer("Rome", -math.inf), "b": Answer("Rome", 3.0)}, reference, 0.0)
    none = agreement({"a": Answer("", math.inf)}, reference, 0.0)
    assert one == Agreement(1.0, 1.0, None)
    assert none == Agreement(0.0, 0.0, None)


@pytest.mark.parametrize(
    ("results", "text", "diff"),
    [
        ([("Rome", 0.5), ("", 0.25)], "Rome", -math.log(2)),
        ([("", 0.5), ("Rome", 0.25)], "Rome", math.log(2)),
        ([("Rome", 0.5), ("Troy", 0.25)], "Rome", -math.inf),
        ([("Rome", 0.5), ("", 0.0)], "Rome", -math.inf),
        ([("", 1.0)], "", math.inf),
    ],
)
def test_the_pipelines_rule_in_the_units_of_the_others(
    results: list[tuple[str, float]],
    text: str,
    diff: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("transformers")
    monkeypatch.syspath_prepend(PEERS / "contestants")
    module = importlib.import_module("torch_pipeline")
    answer, score = module._answer([{"answer": a, "score": s} for a, s in results])
    assert answer == text
    assert score == pytest.approx(diff)


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
            # Not the bundle's own, and far from it.
            *("--null-score-diff-threshold", "1e9"),
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
        found = row["agreement"]
        # Everybody answers everything at this threshold.
        assert found["same_answers"] == found["same_spans"], row["name"]
        if row["name"] != "onnxruntime-int8":
            assert found["same_spans"] == 1.0, row["name"]
            assert found["null_score_diff_rms"] < 1e-3, row["name"]
    assert results["null_score_diff_threshold"] == 1e9
    table = (output / "table.md").read_text(encoding="utf-8")
    assert "| **electra-qa** |" in table
    assert "one null_score_diff_threshold, 1e+09" in table
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
