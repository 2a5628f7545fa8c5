"""SQuAD 1.1 and 2.0: the files, and the metrics of the official `evaluate-v2.0.py`."""

from __future__ import annotations

import collections
import itertools
import json
import math
import re
import string
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class SquadError(ValueError):
    """A file is not what it should be; the message says which file and where."""


@dataclass(frozen=True, slots=True)
class SquadQuestion:
    """A question of a SQuAD file.

    answers: the texts of the gold answers; none where the question can't be answered.
    answer_starts: where each begins in the context, in characters; -1 where the file doesn't say.
    article: the title of the article that the context is of, "" where the file doesn't say.
    """

    id: str
    question: str
    context: str
    answers: tuple[str, ...]
    answer_starts: tuple[int, ...] = ()
    article: str = ""


def read_squad(path: Path) -> list[SquadQuestion]:
    """The questions of a SQuAD 1.1 or 2.0 file, in its order.

    Raises SquadError where the file can't be read or does not have the official shape.
    """
    content = read_json(path)
    try:
        return list(_questions(content["data"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SquadError(f"{path.name} is not a SQuAD file: {_describe(error)}") from error


def _questions(articles: Iterable[Any]) -> Iterator[SquadQuestion]:
    for article in articles:
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"]:
                yield SquadQuestion(
                    id=str(qa["id"]),
                    question=_text(qa, "question"),
                    context=_text(paragraph, "context"),
                    answers=tuple(_text(answer, "text") for answer in qa["answers"]),
                    answer_starts=tuple(int(a.get("answer_start", -1)) for a in qa["answers"]),
                    article=str(article.get("title", "")),
                )


def write_squad(path: Path, questions: Iterable[SquadQuestion]) -> None:
    """A SQuAD 2.0 file that `read_squad` reads these questions from, if those of an article, and of
    a context in it, stand together."""
    articles: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for question in questions:
        answers = [
            {"text": text, "answer_start": start}
            for text, start in itertools.zip_longest(
                question.answers, question.answer_starts, fillvalue=-1
            )
        ]
        articles.setdefault(question.article, {}).setdefault(question.context, []).append(
            {
                "id": question.id,
                "question": question.question,
                "answers": answers,
                "is_impossible": not answers,
            }
        )
    data = [
        {
            "title": title,
            "paragraphs": [{"context": context, "qas": qas} for context, qas in paragraphs.items()],
        }
        for title, paragraphs in articles.items()
    ]
    content = json.dumps({"version": "v2.0", "data": data}, ensure_ascii=False)
    path.write_text(content, encoding="utf-8")


def _text(holder: dict[str, Any], key: str) -> str:
    value = holder[key]
    if not isinstance(value, str):
        raise TypeError(f"{key} is not a text")
    return value


def read_by_id(path: Path, kind: type[str] | type[float]) -> dict[str, Any]:
    """A JSON object {question id: text or number}, as predictions and no-answer scores have it.

    Raises SquadError where the file can't be read or holds something else.
    """
    content = read_json(path)
    wanted = (str,) if kind is str else (int, float)
    for key, value in content.items():
        if not isinstance(value, wanted) or isinstance(value, bool):
            name = "a text" if kind is str else "a number"
            raise SquadError(f"{path.name}: the value of {key!r} is not {name}")
        if kind is float and not math.isfinite(float(value)):
            raise SquadError(f"{path.name}: the value of {key!r} is {value}, no number to compare")
    return content


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SquadError(f"{path} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SquadError(f"{path.name} is not UTF-8 (byte {error.start})") from error
    except (ValueError, RecursionError) as error:
        raise SquadError(f"{path.name} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise SquadError(f"{path.name} holds no JSON object")
    return content


def _describe(error: Exception) -> str:
    return f"no {error}" if isinstance(error, KeyError) else str(error)


_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
_PUNCTUATION = frozenset(string.punctuation)


def normalize_answer(text: str) -> str:
    """Lower case, without punctuation, articles and superfluous white space."""
    lowered = "".join(c for c in text.lower() if c not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", lowered).split())


def exact_match(gold: str, predicted: str) -> int:
    return int(normalize_answer(gold) == normalize_answer(predicted))


def f1_score(gold: str, predicted: str) -> float:
    """The harmonic mean of precision and recall over the words of the normalized texts."""
    gold_words = normalize_answer(gold).split()
    predicted_words = normalize_answer(predicted).split()
    if not gold_words or not predicted_words:
        return float(gold_words == predicted_words)
    same = sum((collections.Counter(gold_words) & collections.Counter(predicted_words)).values())
    if same == 0:
        return 0.0
    precision = same / len(predicted_words)
    recall = same / len(gold_words)
    return (2 * precision * recall) / (precision + recall)


def squad_metrics(
    questions: Iterable[SquadQuestion],
    predictions: Mapping[str, str],
    *,
    na_probs: Mapping[str, float] | None = None,
    na_prob_thresh: float = 1.0,
) -> dict[str, float]:
    """The metrics of the official script, under its keys, in its order, in every digit.

    predictions: {question id: text}, "" for no answer. Questions that are not in it are left out,
        as there.
    na_probs: {question id: score that rises where an answer is unlikely}; with it the best
        thresholds are searched, and predictions over `na_prob_thresh` count as no answer.

    Raises SquadError if no question has a prediction, or if `na_probs` lacks one that has.
    """
    golds = {q.id: q for q in questions if q.id in predictions}
    if not golds:
        raise SquadError("the predictions name none of the questions")
    if na_probs is not None and not golds.keys() <= na_probs.keys():
        missing = next(iter(golds.keys() - na_probs.keys()))
        raise SquadError(f"no no-answer score for question {missing!r}")
    exact: dict[str, float] = {}
    f1: dict[str, float] = {}
    for id_, question in golds.items():
        texts = [text for text in question.answers if normalize_answer(text)] or [""]
        exact[id_] = max(exact_match(text, predictions[id_]) for text in texts)
        f1[id_] = max(f1_score(text, predictions[id_]) for text in texts)
    has_answer = {id_: bool(question.answers) for id_, question in golds.items()}

    def thresholded(scores: dict[str, float]) -> dict[str, float]:
        if na_probs is None:
            return scores
        return {
            id_: float(not has_answer[id_]) if na_probs[id_] > na_prob_thresh else score
            for id_, score in scores.items()
        }

    exact_thresholded, f1_thresholded = thresholded(exact), thresholded(f1)
    metrics = _means(exact_thresholded, f1_thresholded, list(golds), "")
    for prefix, wanted in (("HasAns_", True), ("NoAns_", False)):
        ids = [id_ for id_, has in has_answer.items() if has is wanted]
        if ids:
            metrics |= _means(exact_thresholded, f1_thresholded, ids, prefix)
    if na_probs is not None:
        for name, scores in (("exact", exact), ("f1", f1)):
            best, threshold = _best_threshold(predictions, scores, na_probs, has_answer)
            metrics |= {f"best_{name}": best, f"best_{name}_thresh": threshold}
    return metrics


def _means(
    exact: Mapping[str, float], f1: Mapping[str, float], ids: list[str], prefix: str
) -> dict[str, float]:
    return {
        f"{prefix}exact": 100.0 * sum(exact[id_] for id_ in ids) / len(ids),
        f"{prefix}f1": 100.0 * sum(f1[id_] for id_ in ids) / len(ids),
        f"{prefix}total": len(ids),
    }


def _best_threshold(
    predictions: Mapping[str, str],
    scores: Mapping[str, float],
    na_probs: Mapping[str, float],
    has_answer: Mapping[str, bool],
) -> tuple[float, float]:
    """The best mean score, in percent, and the threshold on `na_probs` that reaches it.

    Starts from "no answer" everywhere and gives out the predictions one by one, the surest first.
    """
    current = best = float(sum(not has for has in has_answer.values()))
    best_threshold = 0.0
    for id_ in sorted(na_probs, key=lambda id_: na_probs[id_]):
        if id_ not in scores:
            continue
        if has_answer[id_]:
            current += scores[id_]
        elif predictions[id_]:
            current -= 1
        if current > best:
            best, best_threshold = current, na_probs[id_]
    return 100.0 * best / len(scores), best_threshold
