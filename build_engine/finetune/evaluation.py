"""The score on questions that were not trained on, and the threshold that they give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console

from electra_qa.engines import steps
from electra_qa.spans import DecodedWindows, DecodeOptions, Prediction, decode
from electra_qa.squad import SquadQuestion, squad_metrics
from electra_qa.tokenization import Tokenizer
from electra_qa.windows import WindowBatch

from ..accuracy import predict_with
from .batches import LENGTH_STEP
from .model import QaModel, span_logits
from .settings import FinetuneSettings
from .threshold import choose_threshold

EVAL_TOKENS = 4096


class TorchEngine:
    """An engine as the server knows it, of a model in training."""

    def __init__(self, model: QaModel, settings: FinetuneSettings) -> None:
        self._model = model
        self._autocast = settings.autocast
        self.device = str(model.network.device)
        self.slots = 1
        self.batch_tokens = EVAL_TOKENS
        self.buckets = steps(LENGTH_STEP, settings.max_seq_length)

    def run(self, batch: WindowBatch) -> DecodedWindows:
        input_ids = torch.from_numpy(batch.input_ids.astype(np.int64))
        positions = torch.arange(input_ids.shape[1])[None]
        bounds = torch.from_numpy(batch.bounds.astype(np.int64))
        # The last [SEP] is right behind the context.
        used = positions <= bounds[:, 1, None]
        segments = used & (positions >= bounds[:, 0, None])
        device = self._model.network.device
        torch.nn.Module.eval(self._model.network)
        with torch.inference_mode():
            logits = span_logits(
                self._model,
                input_ids.to(device),
                used.long().to(device),
                segments.long().to(device),
                self._autocast,
            )
        starts, ends = logits.cpu().numpy().transpose(2, 0, 1)
        return decode(
            starts,
            ends,
            batch.bounds,
            n_best_size=1,
        )

    def close(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores in percent.

    exact, f1: at `threshold`, the means of those of the answerable and of the unanswerable
        questions: both count the same, as they are as many in SQuAD 2.0's dev set.
    f1_at_0: the same with a threshold of 0: the difference is what choosing it brings.
    metrics: those of the official script at the threshold, under its keys.
    """

    threshold: float
    exact: float
    f1: float
    f1_at_0: float
    metrics: Mapping[str, float]


def evaluate(
    model: QaModel,
    tokenizer: Tokenizer,
    questions: Sequence[SquadQuestion],
    threshold_questions: Sequence[SquadQuestion],
    settings: FinetuneSettings,
) -> Evaluation:
    """Ask a model all the questions, and score what it says."""
    predictions = predict_with(
        tokenizer,
        TorchEngine(model, settings),
        questions,
        settings.windows(model.special_tokens),
        DecodeOptions(max_answer_length=settings.max_answer_length),
        Console(quiet=True),
    )
    return score(questions, threshold_questions, predictions)


def score(
    questions: Sequence[SquadQuestion],
    threshold_questions: Sequence[SquadQuestion],
    predictions: Mapping[str, Prediction],
) -> Evaluation:
    """The scores of `questions` at the null_score_diff_threshold that a part of them gives."""
    threshold = choose_threshold(threshold_questions, predictions)
    metrics = _metrics(questions, predictions, threshold)
    return Evaluation(
        threshold,
        _of_both_kinds(metrics, "exact"),
        _of_both_kinds(metrics, "f1"),
        _of_both_kinds(_metrics(questions, predictions, 0.0), "f1"),
        metrics,
    )


def _metrics(
    questions: Sequence[SquadQuestion], predictions: Mapping[str, Prediction], threshold: float
) -> Mapping[str, float]:
    return squad_metrics(
        questions,
        {
            id_: p.answers[0].text if p.answers and p.null_score_diff <= threshold else ""
            for id_, p in predictions.items()
        },
    )


def _of_both_kinds(metrics: Mapping[str, float], name: str) -> float:
    kinds = [kind for kind in ("HasAns", "NoAns") if f"{kind}_total" in metrics]
    scores = [metrics[f"{kind}_{name}"] for kind in kinds]
    return sum(scores) / len(scores)
