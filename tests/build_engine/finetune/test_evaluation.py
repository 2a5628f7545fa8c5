from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from electra_qa.build_engine.accuracy import predict, predict_with
from electra_qa.build_engine.finetune.evaluation import TorchEngine, best_threshold, score
from electra_qa.build_engine.finetune.model import load_model
from electra_qa.build_engine.finetune.settings import FinetuneSettings
from electra_qa.bundle import Bundle
from electra_qa.engines import load_engine
from electra_qa.spans import Answer, DecodeOptions, Prediction
from electra_qa.squad import SquadQuestion, read_squad
from electra_qa.tokenization import Tokenizer


def asked(
    diffs: list[float], answerable: list[bool]
) -> tuple[list[SquadQuestion], dict[str, Prediction]]:
    questions = [
        SquadQuestion(str(i), "?", "x", ("x",) if has else ()) for i, has in enumerate(answerable)
    ]
    answer = Answer("x", 0, 1, 1.0, 0.0, 0.0)
    predictions = {
        str(i): Prediction((answer,), diff > 0, diff, diff, 0.5) for i, diff in enumerate(diffs)
    }
    return questions, predictions


def balanced(diffs: list[float], answerable: list[bool], threshold: float) -> float:
    """The mean of the shares of both kinds that are right."""
    said = np.array(diffs) <= threshold
    has = np.array(answerable)
    return float((said[has].mean() + (~said[~has]).mean()) / 2)


@given(
    pairs=st.lists(
        st.tuples(st.floats(-5, 5).map(lambda x: round(x, 1)), st.booleans()),
        min_size=2,
        max_size=30,
    )
)
def test_no_other_threshold_is_better(pairs: list[tuple[float, bool]]) -> None:
    diffs, answerable = [d for d, _ in pairs], [a for _, a in pairs]
    threshold = best_threshold(*asked(diffs, answerable))
    if len(set(answerable)) == 1:
        assert threshold == 0
        return
    best = max(balanced(diffs, answerable, other) for other in [-10.0, *diffs])
    assert balanced(diffs, answerable, threshold) == pytest.approx(best)


def test_the_threshold_lies_halfway() -> None:
    assert best_threshold(*asked([-3.0, -1.0, 2.0, 4.0], [True, True, False, False])) == 0.5


def test_a_rare_kind_counts_as_much_as_the_other() -> None:
    diffs, answerable = [-1.0] * 8 + [1.0] * 2 + [0.5], [True] * 10 + [False]
    assert -1 < best_threshold(*asked(diffs, answerable)) < 0.5


def test_what_the_threshold_brings_is_told() -> None:
    questions, predictions = asked([-3.0, -2.0, 1.0, -1.0, 2.0], [True, True, True, False, False])
    found = score(questions, questions, predictions)
    assert found.threshold == -1.5
    assert found.metrics["HasAns_f1"] == pytest.approx(200 / 3)
    assert found.f1 == pytest.approx((200 / 3 + 100) / 2)
    assert found.f1_at_0 == pytest.approx((200 / 3 + 50) / 2)
    of_a_part = score(questions, [questions[2], questions[4]], predictions)
    assert of_a_part.threshold == 1.5
    assert of_a_part.f1 == pytest.approx((100 + 50) / 2)
    assert of_a_part.f1_at_0 == found.f1_at_0


def test_the_model_in_training_answers_as_its_bundle_will(bundle: Bundle, checkpoint: Path) -> None:
    questions = read_squad(Path(__file__).parents[2] / "data" / "small.json")
    quiet = Console(file=io.StringIO())
    expected = predict(bundle, load_engine(bundle), questions, quiet)
    model, serialized = load_model(str(checkpoint))
    found = predict_with(
        Tokenizer(serialized),
        TorchEngine(model, FinetuneSettings()),
        questions,
        bundle.manifest.window_settings,
        DecodeOptions(),
        quiet,
    )
    for id_, prediction in found.items():
        assert prediction.answers[0].text == expected[id_].answers[0].text
        assert prediction.null_score_diff == pytest.approx(expected[id_].null_score_diff, abs=1e-3)
