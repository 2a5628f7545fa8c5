"""The promise of the project: the reference's answers, through the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from electra_qa.bundle import Bundle
from electra_qa.client import Client, PrivateServer
from electra_qa.client.evaluate import evaluate
from electra_qa.squad import read_squad

QUESTIONS = 500


def test_answers_are_those_of_pytorch(
    reference_bundle: Bundle, squad_folder: Path, reference: dict[str, dict[str, Any]]
) -> None:
    """Every 24th dev question through gRPC; the README has the command for all of them."""
    questions = read_squad(squad_folder / "dev-v2.0.json")
    questions = questions[:: len(questions) // QUESTIONS][:QUESTIONS]
    with PrivateServer(reference_bundle.path) as server, Client(server.address) as client:
        evaluation = evaluate(client, questions, lambda: None)
    same = sum(evaluation.predictions[q.id] == reference[q.id]["text"] for q in questions)
    assert same >= 0.999 * len(questions)
    for question in questions:
        expected = reference[question.id]
        difference = expected["null"] - expected["best"]
        assert evaluation.null_odds[question.id] == pytest.approx(difference, abs=2e-3)
