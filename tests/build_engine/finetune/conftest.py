from __future__ import annotations

from electra_qa.spans import Answer, Prediction
from electra_qa.squad import SquadQuestion


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
