"""Where a model should say that there is no answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812

from electra_qa.spans import Prediction
from electra_qa.squad import SquadQuestion, f1_score

# Keeps the curve finite where one threshold is right for every question.
RIDGE = 1e-4


def choose_threshold(
    questions: Sequence[SquadQuestion], predictions: Mapping[str, Prediction]
) -> float:
    """The null_score_diff_threshold with the highest mean of the F1 of both kinds of questions.

    Not the one that is best for just these questions: a few hundred decide little, and which
    threshold happens to be best on them is mostly chance. It is where the logistic curve through
    their null score differences (Platt, 1999) says that answering wins as much as it loses: an
    answerable question weighs what its answer's F1 is, an unanswerable one 1, and both kinds
    together the same.

    0 where nothing says where it should be: no question of one kind, no answer that is right at
    all, or no higher differences for the unanswerable ones.
    """
    kept = [question for question in questions if predictions[question.id].answers]
    has_answer = torch.tensor([bool(question.answers) for question in kept])
    if has_answer.all() or not has_answer.any():
        return 0.0
    right = torch.tensor(
        [answer_f1(question, predictions[question.id]) for question in kept], dtype=torch.float64
    )
    weights = torch.where(has_answer, right / has_answer.sum(), 1 / (~has_answer).sum())
    diffs = torch.tensor(
        [predictions[question.id].null_score_diff for question in kept], dtype=torch.float64
    )
    middle, scale = diffs.mean(), diffs.std()
    if not weights[has_answer].any() or not scale:
        return 0.0
    offset, slope = _logistic((diffs - middle) / scale, ~has_answer, weights)
    if slope <= 0:
        return 0.0
    found = middle - scale * offset / slope
    return float(found.clamp(diffs.min() - 1, diffs.max() + 1))


def _logistic(
    x: torch.Tensor, positive: torch.Tensor, weights: torch.Tensor
) -> tuple[float, float]:
    """(offset, slope) of the log odds of `positive` over x; all [questions]."""
    line = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([line], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        log_odds = line[0] + line[1] * x
        wrong = F.binary_cross_entropy_with_logits(
            log_odds, positive.double(), weights, reduction="sum"
        )
        total = wrong + RIDGE * line.square().sum()
        total.backward()
        return total

    optimizer.step(loss)
    offset, slope = line.tolist()
    return offset, slope


def answer_f1(question: SquadQuestion, prediction: Prediction) -> float:
    """Of the best answer, whatever the threshold; 0 for a question without an answer."""
    text = prediction.answers[0].text
    return max((f1_score(gold, text) for gold in question.answers), default=0.0)
