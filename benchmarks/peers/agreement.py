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
        logits; None where one is not finite: a mean over the others would be of chosen questions.
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
    squares = [(a.null_score_diff - b.null_score_diff) ** 2 for a, b in pairs]
    rms = math.sqrt(sum(squares) / len(squares))
    return Agreement(
        same_answers=same_answers / len(pairs),
        same_spans=sum(a.text == b.text for a, b in pairs) / len(pairs),
        null_score_diff_rms=rms if math.isfinite(rms) else None,
    )
