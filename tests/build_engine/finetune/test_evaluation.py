from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from electra_qa.build_engine.accuracy import predict, predict_with
from electra_qa.build_engine.finetune.evaluation import TorchEngine, score
from electra_qa.build_engine.finetune.model import load_model
from electra_qa.build_engine.finetune.settings import FinetuneSettings
from electra_qa.bundle import Bundle
from electra_qa.engines import load_engine
from electra_qa.spans import DecodeOptions
from electra_qa.squad import read_squad

from .conftest import asked


def test_what_the_threshold_brings_is_told() -> None:
    diffs = {True: [-5.2, -3.2, -0.2], False: [-2.2, 0.8, 2.8]}
    questions, predictions = asked(diffs[True] + diffs[False], [True] * 3 + [False] * 3)
    found = score(questions, questions, predictions)
    assert found.threshold == pytest.approx(-1.2)
    assert found.metrics["HasAns_f1"] == pytest.approx(200 / 3)
    assert found.f1 == pytest.approx((200 / 3 + 200 / 3) / 2)
    assert found.f1_at_0 == pytest.approx((100 + 200 / 3) / 2)
    of_a_part = score(questions, [questions[2], questions[4]], predictions)
    assert of_a_part.threshold == pytest.approx(0.3)
    assert of_a_part.f1 == pytest.approx((100 + 200 / 3) / 2)
    assert of_a_part.f1_at_0 == found.f1_at_0


def test_the_model_in_training_answers_as_its_bundle_will(bundle: Bundle, checkpoint: Path) -> None:
    questions = read_squad(Path(__file__).parents[2] / "data" / "small.json")
    quiet = Console(file=io.StringIO())
    expected = predict(bundle, load_engine(bundle), questions, quiet)
    model = load_model(str(checkpoint))
    found = predict_with(
        model.make_tokenizer(),
        TorchEngine(model, FinetuneSettings()),
        questions,
        bundle.manifest.window_settings,
        DecodeOptions(),
        quiet,
    )
    for id_, prediction in found.items():
        assert prediction.answers[0].text == expected[id_].answers[0].text
        assert prediction.null_score_diff == pytest.approx(expected[id_].null_score_diff, abs=1e-3)
