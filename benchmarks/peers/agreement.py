"""How nearly a peer finds what the same model finds in float32."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from .asking import Answer


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of the questions that both have answered.

    same_answers: share with the same text, or none in both, at the threshold.
    same_spans: share whose best span has the same text, answer or not.
    null_score_diff_rms: of the difference between their null score differences, in the model's
        logits, over the questions for which both are finite; None where there is none.
    """

    same_answers: float
    same_spans: float
    null_score_diff_rms: float | None


def agreement(
    answers: Mapping[str, Answer],
    reference: Mapping[str, Answer],
    null_score_diff_threshold: float,
) -> Agreement | None:
    """By question id. None where they have no question in common."""
    pairs = [(answers[id_], reference[id_]) for id_ in answers.keys() & reference.keys()]
    if not pairs:
        return None
    same_answers = sum(
        a.at(null_score_diff_threshold) == b.at(null_score_diff_threshold) for a, b in pairs
    )
    errors = [a.null_score_diff - b.null_score_diff for a, b in pairs]
    squares = [error**2 for error in errors if math.isfinite(error)]
    return Agreement(
        same_answers=same_answers / len(pairs),
        same_spans=sum(a.text == b.text for a, b in pairs) / len(pairs),
        null_score_diff_rms=math.sqrt(sum(squares) / len(squares)) if squares else None,
    )
