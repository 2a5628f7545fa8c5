from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from electra_qa.bundle import Bundle, write_bundle
from electra_qa.engines import EngineError, EngineSettings, load_engine
from electra_qa.tokenization import Tokenizer
from electra_qa.windows import WindowBatch, WindowSettings, make_windows


def batch_of(tokenizer: Tokenizer, question: str) -> WindowBatch:
    windows = make_windows(
        tokenizer.question(question),
        tokenizer.context("Rollo came from Denmark. The Normans came from all over.").ids,
        settings=WindowSettings(32, 4, 16),
        cls_id=tokenizer.cls_id,
        sep_id=tokenizer.sep_id,
    )
    return WindowBatch.pad(windows, [8] * len(windows), length=32, pad_id=tokenizer.pad_id)


@pytest.mark.parametrize("streams", [2, None])
def test_calls_from_many_threads_keep_their_own_results(
    bundle: Bundle, tokenizer: Tokenizer, streams: int | None
) -> None:
    engine = load_engine(bundle, EngineSettings(streams=streams))
    questions = ["Who came?", "What is the name of the place that they came from?", "When?"]
    batches = [batch_of(tokenizer, question) for question in questions]
    alone = [engine.run(batch) for batch in batches]
    assert not np.array_equal(alone[0].null_logits, alone[1].null_logits)
    # More threads than the engine has slots: the others wait inside.
    with ThreadPoolExecutor(engine.slots + 2) as pool:
        together = list(pool.map(engine.run, batches * 8))
    for index, actual in enumerate(together):
        expected = alone[index % len(batches)]
        for field in dataclasses.fields(expected):
            # Of two forms one has all threads: its sums may be made in another order.
            np.testing.assert_allclose(
                getattr(actual, field.name),
                getattr(expected, field.name),
                rtol=0,
                atol=0 if streams else 1e-4,
            )


def test_a_closed_engine_refuses(bundle: Bundle, tokenizer: Tokenizer) -> None:
    """Whoever waits for it, and whoever comes later: nobody waits for ever."""
    engine = load_engine(bundle)
    batch = batch_of(tokenizer, "Who came?")
    with ThreadPoolExecutor(engine.slots + 4) as pool:
        runs = [pool.submit(engine.run, batch) for _ in range(60)]
        runs[0].result(timeout=60)
        engine.close()
        engine.close()
        errors = [run.exception(timeout=60) for run in runs]
        runs = [pool.submit(engine.run, batch) for _ in range(engine.slots + 4)]
        errors_after = [run.exception(timeout=60) for run in runs]
    assert {str(error) for error in errors if error is not None} <= {"the engine is closed"}
    assert {str(error) for error in errors_after} == {"the engine is closed"}
    assert {type(error) for error in errors_after} == {EngineError}


def test_a_refused_graph_is_told_by_its_reason(bundle: Bundle, tmp_path: Path) -> None:
    other = write_bundle(tmp_path, bundle.manifest, {"model.fp32.onnx": b"", "tokenizer.json": b""})
    with pytest.raises(EngineError) as caught:
        load_engine(other)
    assert not str(caught.value).endswith(".cpp:132:")
    assert "Exception from" not in str(caught.value)


def test_a_file_that_is_no_graph_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    other = write_bundle(tmp_path, bundle.manifest, {"model.fp32.onnx": b"", "tokenizer.json": b""})
    with pytest.raises(EngineError, match="does not take the graph"):
        load_engine(other)
