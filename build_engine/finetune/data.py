"""SQuAD files to training windows."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from electra_qa.squad import SquadError, SquadQuestion, normalize_answer
from electra_qa.tokenization import TokenizedContext, Tokenizer
from electra_qa.windows import WindowSettings, make_windows


@dataclass(frozen=True, slots=True)
class Feature:
    """A training window.

    input_ids: int32 [length].
    context_start: the position of the context's first token; those before have segment 0.
    start, end: positions of the answer's first and last token; 0, [CLS], where it is not here.
    """

    input_ids: npt.NDArray[np.int32]
    context_start: int
    start: int
    end: int

    @property
    def length(self) -> int:
        return len(self.input_ids)


def hold_out(
    questions: Sequence[SquadQuestion], share: float, seed: int
) -> tuple[list[SquadQuestion], list[SquadQuestion]]:
    """(to train on, held out): whole articles, with about `share` of the questions.

    An article that would make the held-out part half as large again is passed over; so the only
    article of a file always stays with the training.
    """
    sizes = collections.Counter(question.article for question in questions)
    articles = sorted(sizes)
    wanted = share * len(questions)
    taken: set[str] = set()
    count = 0
    for index in np.random.default_rng(seed).permutation(len(articles)).tolist():
        if count + sizes[articles[index]] <= 1.5 * wanted and count < wanted:
            taken.add(articles[index])
            count += sizes[articles[index]]
    return (
        [question for question in questions if question.article not in taken],
        [question for question in questions if question.article in taken],
    )


def make_features(
    questions: Iterable[SquadQuestion], tokenizer: Tokenizer, settings: WindowSettings
) -> list[Feature]:
    """The windows of all questions, in their order.

    A window that lacks a part of the answer has none, as in `run_squad.py`. Raises SquadError
    where an answer is not where its `answer_start` says.
    """
    contexts: dict[str, TokenizedContext] = {}
    features = []
    for question in questions:
        if question.context not in contexts:
            contexts[question.context] = tokenizer.context(question.context)
        context = contexts[question.context]
        span = _tokens(context, *_answer(question)) if question.answers else None
        for window in make_windows(
            tokenizer.question(question.question),
            context.ids,
            settings=settings,
            cls_id=tokenizer.cls_id,
            sep_id=tokenizer.sep_id,
        ):
            start = end = 0
            if span is not None:
                moved = window.context_start - window.offset
                first, last = span[0] + moved, span[1] + moved
                if window.context_start <= first and last < window.context_end:
                    start, end = first, last
            features.append(Feature(window.input_ids, window.context_start, start, end))
    return features


def _answer(question: SquadQuestion) -> tuple[int, int]:
    """Characters [start, end) of the answer that most annotators gave, the first of equals."""
    texts = [normalize_answer(text) for text in question.answers]
    most = max(range(len(texts)), key=lambda index: (texts.count(texts[index]), -index))
    text, start = question.answers[most], question.answer_starts[most]
    if start < 0 or question.context[start : start + len(text)] != text:
        raise SquadError(f"question {question.id!r}: answer_start is not where {text!r} is")
    return start, start + len(text)


def _tokens(context: TokenizedContext, start: int, end: int) -> tuple[int, int] | None:
    """The first and the last token that have a character of [start, end); None without one."""
    touched = np.flatnonzero((context.offsets[:, 1] > start) & (context.offsets[:, 0] < end))
    return (int(touched[0]), int(touched[-1])) if len(touched) else None
