r"""By which score answers of different documents are best compared, and what `read_top` costs.

    python benchmarks/scripts/document_scores.py --data dev-v2.0.json --every 30

Every n-th question is put to all paragraphs of its article. Of the rules by which their answers are
ordered: how often the first is of the question's own paragraph, and its EM and F1, over the
questions that have an answer; and F1 over all of them, with the rule's own choice of no answer.
Then the best rule again where only the first paragraphs by BM25 are read.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import click
import numpy as np
from rich.console import Console

from electra_qa.bundle import default_bundle_path, load_bundle
from electra_qa.client import Client, ElectraQAError, PrivateServer, Result
from electra_qa.server.front.promising import promise
from electra_qa.squad import SquadQuestion, exact_match, f1_score, read_squad
from electra_qa.tokenization import Tokenizer

Score = Callable[[Result], float]


def _logits(result: Result) -> float:
    return result.answers[0].start_logit + result.answers[0].end_logit


RULES: dict[str, Score] = {
    "start + end logit": _logits,
    "P(start) × P(end)": lambda result: result.answers[0].score,
    "start + end logit − null score": lambda result: -result.null_score_diff,
    "P(start) × P(end) − P(null)": lambda result: result.answers[0].score - result.null_probability,
    "start + end logit − half the null score": lambda r: _logits(r) - 0.5 * r.null_score,
}
READ_TOP = (1, 2, 3, 5, 10, 20)


@dataclass(frozen=True, slots=True)
class Asked:
    """A question put to the paragraphs of its article. own: which of them is its own.

    rank: for each paragraph, its place by BM25, from 0.
    """

    question: SquadQuestion
    own: int
    results: Sequence[Result]
    rank: Sequence[int]


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--every", type=click.IntRange(min=1), default=30, help="Take every n-th question.")
@click.option("--bundle", type=click.Path(path_type=Path), help="[default: the package's]")
def main(data: Path, every: int, bundle: Path | None) -> None:
    """Print the two tables, as Markdown."""
    questions = read_squad(data)
    used = load_bundle(bundle or default_bundle_path())
    tokenizer = Tokenizer(used.read_tokenizer(), used.manifest.special_tokens)
    with PrivateServer(bundle) as server, Client(server.address, timeout=None) as client:
        threshold = client.info().bundle.null_score_diff_threshold
        began = time.monotonic()
        asked = _ask(client, tokenizer, questions, every)
        seconds = time.monotonic() - began
    windows = sum(result.windows for one in asked for result in one.results)
    print(f"{len(asked)} questions, {windows} windows, {seconds:.0f} s\n")
    print("| ordered by | own paragraph first | EM, HasAns | F1, HasAns | best F1 of all |")
    print("| --- | --- | --- | --- | --- |")
    for name, score in RULES.items():
        _print(name, asked, score, lambda _: True)
    print("\n| read | windows | own paragraph first | EM, HasAns | F1, HasAns | best F1 of all |")
    print("| --- | --- | --- | --- | --- | --- |")
    rule = RULES["start + end logit − null score"]
    for top in (*READ_TOP, max(len(one.results) for one in asked)):
        read = sum(
            r.windows
            for one in asked
            for r, k in zip(one.results, one.rank, strict=True)
            if k < top
        )
        _print(
            f"{top} | {100 * read / windows:.0f} %", asked, rule, lambda rank, top=top: rank < top
        )
    print(f"\nthreshold of the bundle: {threshold:.2f}")


def _ask(
    client: Client, tokenizer: Tokenizer, questions: Sequence[SquadQuestion], every: int
) -> list[Asked]:
    asked = []
    chosen = {question.id for question in questions[::every]}
    console = Console(stderr=True)
    for article, group in groupby(questions, key=lambda question: question.article):
        of_article = list(group)
        contexts = list(dict.fromkeys(question.context for question in of_article))
        tokens = [tokenizer.context(context).ids for context in contexts]
        for question in of_article:
            if question.id not in chosen:
                continue
            results = list(client.answer_many((question.question, c) for c in contexts))
            for result in results:
                if isinstance(result, ElectraQAError):
                    raise result
            scores = promise(tokenizer.question(question.question), tokens)
            order = np.argsort(-scores, kind="stable").tolist()
            rank = [order.index(place) for place in range(len(contexts))]
            asked.append(Asked(question, contexts.index(question.context), results, rank))
        console.print(article, len(asked))
    return asked


def _print(name: str, asked: Sequence[Asked], score: Score, is_read: Callable[[int], bool]) -> None:
    first, em, f1, has_answer = 0, 0, 0.0, 0
    # For the threshold: (score of the best, what the answer is worth, what "no answer" is worth)
    worth: list[tuple[float, float, float]] = []
    for one in asked:
        golds = one.question.answers
        read = [place for place, rank in enumerate(one.rank) if is_read(rank)]
        best = max(read, key=lambda place: score(one.results[place]))
        text = one.results[best].answers[0].text
        answered = max((f1_score(gold, text) for gold in golds), default=0.0)
        worth.append((score(one.results[best]), answered, 0.0 if golds else 1.0))
        if golds:
            has_answer += 1
            first += best == one.own
            em += max(exact_match(gold, text) for gold in golds)
            f1 += answered
    values = [100 * value / has_answer for value in (first, em, f1)]
    print(f"| {name} | " + " | ".join(f"{v:.1f}" for v in values) + f" | {_best_f1(worth):.1f} |")


def _best_f1(worth: Sequence[tuple[float, float, float]]) -> float:
    """Over all questions, where the score must be over the best of all thresholds."""
    total = sum(null for _, _, null in worth)
    best = total
    for _, answered, null in sorted(worth, reverse=True):
        total += answered - null
        best = max(best, total)
    return 100 * best / len(worth) if worth else math.nan


if __name__ == "__main__":
    main()
