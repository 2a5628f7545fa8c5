from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from electra_qa.build_engine.accuracy import predict
from electra_qa.bundle import Bundle
from electra_qa.engines import load_engine
from electra_qa.squad import read_squad


def test_a_bundle_answers_as_its_checkpoint_in_pytorch(
    reference_bundle: Bundle, squad_folder: Path, reference: dict[str, dict[str, Any]]
) -> None:
    questions = read_squad(squad_folder / "dev-v2.0.json")[::400]
    quiet = Console(file=io.StringIO())
    predictions = predict(reference_bundle, load_engine(reference_bundle), questions, quiet)
    assert len(predictions) == 30
    for id_, prediction in predictions.items():
        expected, best = reference[id_], prediction.answers[0]
        assert ("" if prediction.is_impossible else best.text) == expected["text"]
        assert (best.start, best.end) == (expected["start"], expected["end"])
        assert best.start_logit + best.end_logit == pytest.approx(expected["best"], abs=1e-3)
        assert prediction.null_score == pytest.approx(expected["null"], abs=1e-3)
