"""The promise of the project: the reference's answers, through the server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from electra_qa.bundle import Bundle
from electra_qa.client import Client, PrivateServer
from electra_qa.client.evaluate import evaluate
from electra_qa.squad import read_squad

QUESTIONS = 1_500


@pytest.fixture(scope="module")
def reference(shared_models: Path) -> dict[str, dict[str, object]]:
    path = shared_models / "electra-mini-squad2" / "reference_predictions.json"
    content: dict[str, dict[str, object]] = json.loads(path.read_text(encoding="utf-8"))
    return content


def test_answers_are_those_of_pytorch(
    bundle: Bundle, squad_folder: Path, reference: dict[str, dict[str, object]]
) -> None:
    """Every eighth dev question through gRPC; the README has the command for all of them."""
    questions = read_squad(squad_folder / "dev-v2.0.json")
    questions = questions[:: len(questions) // QUESTIONS][:QUESTIONS]
    with PrivateServer(bundle.path) as server, Client(server.address) as client:
        evaluation = evaluate(client, questions, lambda: None)
    same = sum(evaluation.predictions[q.id] == reference[q.id]["text"] for q in questions)
    assert same >= 0.999 * len(questions)
    for question in questions:
        expected = reference[question.id]
        difference = float(expected["null"]) - float(expected["best"])  # type: ignore[arg-type]
        assert evaluation.null_odds[question.id] == pytest.approx(difference, abs=2e-3)
