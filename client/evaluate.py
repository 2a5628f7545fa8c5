"""A SQuAD file through a server, and what comes of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from electra_qa.squad import SquadQuestion, squad_metrics

from .client import Client
from .errors import ElectraQAError, InvalidArgumentError

# Nobody waits for one answer here, and a machine that is busy with other work may take minutes for
# what is queued.
TIMEOUT_S = math.inf


@dataclass(frozen=True, slots=True)
class Evaluation:
    """metrics: of the official script, with null_score_diff as the no-answer score.

    predictions: {question id: text}, "" for no answer, as the official script reads them.
    null_odds: {question id: null_score_diff}, as `run_squad.py` writes them.
    seconds: from the first question sent to the last answer received.
    refused: {question id: why} of those that can't be asked, such as about a blank context. They
        count as no answer, surer than any other: a score over fewer questions would be another one.
    """

    metrics: dict[str, float]
    predictions: dict[str, str]
    null_odds: dict[str, float]
    windows: int
    seconds: float
    refused: dict[str, str]


def evaluate(
    client: Client, questions: Sequence[SquadQuestion], on_answer: Callable[[], None]
) -> Evaluation:
    """Ask every question, with the server's defaults. Raises the ElectraQAError of the first that
    could be asked and fails."""
    predictions: dict[str, str] = {}
    refused: dict[str, str] = {}
    null_odds: dict[str, float] = {}
    windows = 0
    started = time.perf_counter()
    pairs = ((question.question, question.context) for question in questions)
    outcomes = client.answer_many(pairs, timeout=TIMEOUT_S)
    for question, outcome in zip(questions, outcomes, strict=True):
        on_answer()
        if isinstance(outcome, InvalidArgumentError):
            predictions[question.id] = ""
            refused[question.id] = str(outcome)
            continue
        if isinstance(outcome, ElectraQAError):
            raise type(outcome)(f"question {question.id}: {outcome}", outcome.code)
        predictions[question.id] = outcome.text
        null_odds[question.id] = outcome.null_score_diff
        windows += outcome.windows
    seconds = time.perf_counter() - started
    null_odds |= dict.fromkeys(refused, max(null_odds.values(), default=0.0) + 1)
    # Predictions have had their threshold: none is left for squad_metrics to apply.
    metrics = squad_metrics(questions, predictions, na_probs=null_odds, na_prob_thresh=float("inf"))
    return Evaluation(metrics, predictions, null_odds, windows, seconds, refused)
