"""How much chance there is in a threshold that was chosen on a few hundred questions.

Articles with about `--questions` questions are drawn, a threshold is chosen on them, and the rest
is scored at it: once by the rule of `finetune`, and once by taking the threshold that is best on
just the drawn ones. The models must not have been trained on the file.

pip install 'electra-qa[finetune]'
python benchmarks/scripts/threshold_choice.py --data ablation/asked.json ablation/all-kinds …
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import click
import numpy as np
from rich.console import Console

from electra_qa.build_engine.accuracy import predict_with
from electra_qa.build_engine.finetune.evaluation import TorchEngine
from electra_qa.build_engine.finetune.model import load_model
from electra_qa.build_engine.finetune.settings import FinetuneSettings
from electra_qa.build_engine.finetune.threshold import answer_f1, choose_threshold
from electra_qa.spans import DecodeOptions, Prediction
from electra_qa.squad import SquadQuestion, read_squad

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

Rule = Callable[[Sequence[SquadQuestion], Mapping[str, Prediction]], float]


def best_on_these(
    questions: Sequence[SquadQuestion], predictions: Mapping[str, Prediction]
) -> float:
    """The threshold with the highest mean of the F1 of both kinds on just these questions."""
    diffs = np.array([predictions[question.id].null_score_diff for question in questions])
    f1 = np.array([answer_f1(question, predictions[question.id]) for question in questions])
    has_answer = np.array([bool(question.answers) for question in questions])
    won = np.where(has_answer, f1 / has_answer.sum(), -1 / (~has_answer).sum())
    order = np.argsort(diffs, kind="stable")
    borders = np.concatenate(([diffs[order[0]] - 1], diffs[order], [diffs[order[-1]] + 1]))
    best = int(np.argmax(np.concatenate(([0.0], np.cumsum(won[order])))))
    return float((borders[best] + borders[best + 1]) / 2)


def balanced_f1(
    questions: Sequence[SquadQuestion], predictions: Mapping[str, Prediction], threshold: float
) -> float:
    """The mean of the F1 of both kinds, in percent."""
    said = [predictions[question.id].null_score_diff <= threshold for question in questions]
    has_answer = np.array([bool(question.answers) for question in questions])
    right = np.array(
        [
            answer_f1(question, predictions[question.id]) * answered
            if question.answers
            else not answered
            for question, answered in zip(questions, said, strict=True)
        ]
    )
    return 50 * float(right[has_answer].mean() + right[~has_answer].mean())


def draw(
    articles: Sequence[Sequence[SquadQuestion]], count: int, rng: np.random.Generator
) -> tuple[list[SquadQuestion], list[SquadQuestion]]:
    """(of the drawn articles, of the others)."""
    drawn: list[SquadQuestion] = []
    rest: list[SquadQuestion] = []
    for index in rng.permutation(len(articles)).tolist():
        (drawn if len(drawn) < count else rest).extend(articles[index])
    return drawn, rest


@click.command(context_settings={"show_default": True})
@click.argument("checkpoints", nargs=-1, required=True, type=FOLDER)
@click.option("--data", required=True, type=FILE, help="A SQuAD 2.0 file, of many articles.")
@click.option("--questions", "count", default=366)
@click.option("--draws", default=200)
def main(checkpoints: tuple[Path, ...], data: Path, count: int, draws: int) -> None:
    questions = read_squad(data)
    rules: dict[str, Rule] = {"best on the drawn": best_on_these, "finetune's": choose_threshold}
    settings = FinetuneSettings()
    print("| checkpoint | rule | threshold, mean ± deviation | F1 of the others |")
    print("| --- | --- | --- | --- |")
    for checkpoint in checkpoints:
        model = load_model(str(checkpoint))
        predictions = predict_with(
            model.make_tokenizer(),
            TorchEngine(model, settings),
            questions,
            settings.windows(model.special_tokens),
            DecodeOptions(max_answer_length=settings.max_answer_length),
            Console(stderr=True),
        )
        articles: dict[str, list[SquadQuestion]] = {}
        for question in questions:
            if predictions[question.id].answers:
                articles.setdefault(question.article, []).append(question)
        rng = np.random.default_rng(0)
        drawings = [draw(list(articles.values()), count, rng) for _ in range(draws)]
        for name, rule in rules.items():
            thresholds, scores = [], []
            for drawn, rest in drawings:
                thresholds.append(rule(drawn, predictions))
                scores.append(balanced_f1(rest, predictions, thresholds[-1]))
            print(
                f"| {checkpoint.name} | {name} | {np.mean(thresholds):.2f} ± "
                f"{np.std(thresholds):.2f} | {np.mean(scores):.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
