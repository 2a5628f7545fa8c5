from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from electra_qa.spans import Answer, Prediction
from electra_qa.squad import SquadQuestion

NAMES = ("Abel", "Berta", "Cyril", "Dora", "Emil", "Frida", "Gustav", "Hanna")


def asked(
    diffs: list[float], answerable: list[bool], said: str = "x"
) -> tuple[list[SquadQuestion], dict[str, Prediction]]:
    questions = [
        SquadQuestion(str(i), "?", "x", ("x",) if has else ()) for i, has in enumerate(answerable)
    ]
    answer = Answer(said, 0, 1, 1.0, 0.0, 0.0)
    predictions = {
        str(i): Prediction((answer,), diff > 0, diff, diff, 0.5) for i, diff in enumerate(diffs)
    }
    return questions, predictions


@pytest.fixture(scope="session")
def squad_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 questions on 8 paragraphs: three with an answer and one without for each."""
    data = []
    for index, name in enumerate(NAMES):
        facts = {"born": f"{1801 + 7 * index}", "town": f"{name}stadt", "boat": f"Star {index}"}
        context = (
            f"{name} was born in {facts['born']} in the town of {facts['town']} and had a boat "
            f"called {facts['boat']}."
        )
        qas: list[dict[str, Any]] = [
            {
                "id": f"{name}-{key}",
                "question": question.format(name=name),
                "answers": [{"text": facts[key], "answer_start": context.index(facts[key])}],
            }
            for key, question in (
                ("born", "When was {name} born?"),
                ("town", "In which town was {name} born?"),
                ("boat", "What was the boat of {name} called?"),
            )
        ]
        qas.append({"id": f"{name}-no", "question": f"Who married {name}?", "answers": []})
        paragraph = {"context": context, "qas": qas}
        data.append({"title": name, "paragraphs": [paragraph]})
    path = tmp_path_factory.mktemp("squad") / "train.json"
    path.write_text(json.dumps({"version": "v2.0", "data": data}), encoding="utf-8")
    return path
