"""Unanswerable questions, made from answerable ones, that read like SQuAD 2.0's.

Each kind takes an answerable question and changes what it asks for, so that its paragraph still
talks about the matter and answers it no more:

- word: a word becomes what people put in its place (first → last, before → after), or another
  word of the paragraph.
- negation: a verb gets one (did → didn't).
- name: a name becomes another one, of the same paragraph, of another one of the article, or what
  people put in its place.
- number: a number, year, month or ordinal becomes another one.
- paragraph: the question is put to the most similar other paragraph of its article.
"""

from __future__ import annotations

import collections
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from electra_qa.squad import SquadQuestion, normalize_answer

from .edits import (
    GRAMMAR,
    LONGEST_PHRASE,
    MONTHS,
    NEGATIONS,
    NUMBER_WORDS,
    ORDINAL_WORDS,
    QUESTION_WORDS,
    Edits,
    is_number,
)
from .names import WORD, Capitals

# Of all that is made: easy ones, which teach that the paragraph matters at all.
PARAGRAPH_SHARE = 0.1
# Of names and numbers; the others are from elsewhere.
FROM_PARAGRAPH = 0.5
# Of words: people took 77 of 430 in the pairs of `unansq.json`.
WORD_FROM_PARAGRAPH = 0.18

_VERB = re.compile(
    r"\b(did|does|do|is|was|are|were|can|could|has|have|had|will|would|should)\b", re.IGNORECASE
)
_CONTENT_WORD = re.compile(r"(?<![\w'’-])[a-z]{4,}(?![\w'’-])")
_FUNCTION_WORDS = GRAMMAR | NEGATIONS
_SHORT = {"can": "can't", "will": "won't"}

Rng = np.random.Generator


def make_negatives(
    questions: Sequence[SquadQuestion],
    edits: Edits,
    capitals: Capitals,
    *,
    kinds: Sequence[str],
    per_question: float,
    seed: int,
) -> Iterator[tuple[str, SquadQuestion]]:
    """(kind, made question), at most one for each answerable question, in their order.

    The same question becomes the same whatever else there is to make: its random numbers depend
    on the seed and its id alone. Where a question has nothing that an edit could change, another
    kind of edit has its turn.
    """
    paragraphs = Paragraphs(questions, capitals)
    edit_kinds = [kind for kind in kinds if kind != "paragraph"]
    shares = _shares(edits, edit_kinds)
    moved_share = PARAGRAPH_SHARE if "paragraph" in kinds else 0.0
    for question in questions:
        rng = np.random.default_rng([seed, zlib.crc32(question.id.encode())])
        if not question.answers or rng.random() >= per_question:
            continue
        in_turn = ["paragraph"]
        if edit_kinds and rng.random() >= moved_share:
            in_turn = rng.choice(edit_kinds, len(edit_kinds), replace=False, p=shares).tolist()
        for kind in in_turn:
            made = _make(kind, question, edits, capitals, paragraphs, rng)
            if made is not None:
                yield kind, made
                break


def _shares(edits: Edits, kinds: Sequence[str]) -> list[float]:
    """People's rates of these kinds of edits as shares of 1; of one that they don't do, hardly any.

    Drawn one after the other, until the question has what the edit changes: so the kinds that it
    can be changed by have the shares that they have with people.
    """
    rates = [max(edits.rates.get(kind, 0.0), 0.001) for kind in kinds]
    return [rate / sum(rates) for rate in rates]


def _make(
    kind: str,
    question: SquadQuestion,
    edits: Edits,
    capitals: Capitals,
    paragraphs: Paragraphs,
    rng: Rng,
) -> SquadQuestion | None:
    context, text = question.context, question.question
    changed: str | None = text
    if kind == "word":
        changed = change_word(text, context, question.answers, capitals, edits.words, rng)
    elif kind == "negation":
        changed = negate(text, edits.negations, rng)
    elif kind == "name":
        elsewhere = paragraphs.names(question.article)
        changed = change_name(
            text, context, question.answers, capitals, edits.names, elsewhere, rng
        )
    elif kind == "number":
        changed = change_number(text, context, question.answers, edits.year_steps, rng)
    else:
        other = paragraphs.most_similar(question)
        if other is None:
            return None
        context = other
    if changed is None:
        return None
    return SquadQuestion(f"{question.id}-{kind}", changed, context, (), (), question.article)


def change_word(
    text: str,
    context: str,
    answers: Sequence[str],
    capitals: Capitals,
    words: Mapping[str, Mapping[str, int]],
    rng: Rng,
) -> str | None:
    """A phrase of `text` replaced by what people replaced it by, or a word by the context's."""
    found = list(WORD.finditer(text))
    places = [
        (a.start(), b.end())
        for i, a in enumerate(found)
        for b in found[i : i + LONGEST_PHRASE]
        if text[a.start() : b.end()].lower() in words
    ]
    if places and rng.random() >= WORD_FROM_PARAGRAPH:
        start, end = places[rng.integers(len(places))]
        return _put(text, start, end, _draw(words[text[start:end].lower()], rng))
    return _word_of_context(text, context, answers, capitals, rng)


def _word_of_context(
    text: str, context: str, answers: Sequence[str], capitals: Capitals, rng: Rng
) -> str | None:
    """A word of `text` replaced by one of the context that ends alike, and so may stand there."""
    taken = _words(text).union(*(_words(answer) for answer in answers))
    others = sorted({word for _, word in _content_words(context, capitals)} - taken)
    places = [
        (start, word, alike)
        for start, word in _content_words(text, capitals)
        if (alike := [o for o in others if o[-2:] == word[-2:]])
    ]
    if not places:
        return None
    start, word, alike = places[rng.integers(len(places))]
    return _put(text, start, start + len(word), alike[rng.integers(len(alike))])


def _content_words(text: str, capitals: Capitals) -> list[tuple[int, str]]:
    """(start, word) of the words in lower case that not every other text has too."""
    return [
        (match.start(), match[0])
        for match in _CONTENT_WORD.finditer(text)
        if match[0] not in _FUNCTION_WORDS and not capitals.is_common(match[0])
    ]


def negate(text: str, negations: Mapping[str, int], rng: Rng) -> str | None:
    """The first auxiliary verb of `text` negated; None where it has none."""
    verb = _VERB.search(text)
    if verb is None or not negations:
        return None
    word = verb[0]
    negation = _draw(negations, rng)
    if negation.endswith("n't"):
        return _put(text, verb.start(), verb.end(), _SHORT.get(word.lower(), word + "n't"))
    return text[: verb.end()] + " " + negation + text[verb.end() :]


def change_name(
    text: str,
    context: str,
    answers: Sequence[str],
    capitals: Capitals,
    swaps: Mapping[str, Mapping[str, int]],
    elsewhere: Sequence[str],
    rng: Rng,
) -> str | None:
    """A name of `text` replaced by another one that is no part of an answer.

    It is one of the context, or what people put in its place (`swaps`), or one of `elsewhere`.
    """
    places = [
        span
        for span in capitals.names(text)
        if text[slice(*span)].split(maxsplit=1)[0].lower() not in QUESTION_WORDS
    ]
    if not places:
        return None
    start, end = places[rng.integers(len(places))]
    name = text[start:end]
    taken = _words(text).union(*(_words(answer) for answer in answers))

    def free(names: Iterable[str]) -> list[str]:
        return [other for other in names if not _words(other) & taken]

    def here() -> list[str]:
        return sorted(free({context[slice(*span)] for span in capitals.names(context)}))

    def there() -> list[str]:
        return free(other for other in elsewhere if other not in context)

    if rng.random() < FROM_PARAGRAPH:
        others = here() or there()
    else:
        counts = swaps.get(name.lower(), {})
        swapped = {other: counts[other] for other in free(counts)}
        if swapped:
            return _put(text, start, end, _draw(swapped, rng))
        others = there() or here()
    if not others:
        return None
    # Of the same length in words where there is one: a person for a person, more often than not.
    alike = [other for other in others if len(other.split()) == len(name.split())] or others
    return _put(text, start, end, alike[rng.integers(len(alike))])


_SERIES = (MONTHS, NUMBER_WORDS, ORDINAL_WORDS)


def change_number(
    text: str, context: str, answers: Sequence[str], year_steps: Mapping[str, int], rng: Rng
) -> str | None:
    """A number of `text` replaced by one of the same kind; None where it has none."""
    places = [m.span() for m in WORD.finditer(text) if is_number(m[0])]
    if not places:
        return None
    start, end = places[rng.integers(len(places))]
    number = text[start:end]
    taken = _words(text).union(*(_words(answer) for answer in answers))
    alike = sorted(
        {
            m[0]
            for m in WORD.finditer(context)
            if is_number(m[0]) and _shape(m[0]) == _shape(number) and not _words(m[0]) & taken
        }
    )
    if alike and rng.random() < FROM_PARAGRAPH:
        return _put(text, start, end, alike[rng.integers(len(alike))])
    return _put(text, start, end, _moved(number, year_steps, rng))


def _shape(number: str) -> object:
    for series in _SERIES:
        if number.lower() in series:
            return series
    return re.sub(r"\d", "0", number)


def _moved(number: str, year_steps: Mapping[str, int], rng: Rng) -> str:
    """Another number of the same kind, near to it."""
    for series in _SERIES:
        if number.lower() in series:
            others = [word for word in series if word != number.lower()]
            return others[rng.integers(len(others))]
    if number.isdecimal() and len(number) == 4 and year_steps:
        return str(int(number) + int(_draw(year_steps, rng)))
    digits = [i for i, c in enumerate(number) if c.isdecimal()]
    place = digits[rng.integers(len(digits))]
    digit = (int(number[place]) + rng.integers(1, 9)) % 9 + 1  # never 0, never the same
    if str(digit) == number[place]:
        digit = digit % 9 + 1
    return number[:place] + str(digit) + number[place + 1 :]


def _put(text: str, start: int, end: int, replacement: str) -> str:
    replacement = replacement.replace(" n't", "n't").replace(" - ", "-").replace(" 's", "'s")
    if text[start].isupper():
        replacement = replacement[:1].upper() + replacement[1:]
    return text[:start] + replacement + text[end:]


def _draw(counts: Mapping[str, int], rng: Rng) -> str:
    names = sorted(counts)
    weights = np.array([counts[name] for name in names], dtype=np.float64)
    return names[rng.choice(len(names), p=weights / weights.sum())]


def _words(text: str) -> set[str]:
    return set(normalize_answer(text).split())


@dataclass(frozen=True, slots=True)
class _Article:
    """The paragraphs of an article, which of them have a word, and the names in them."""

    texts: list[str]
    holders: Mapping[str, list[int]]
    names: list[str]


class Paragraphs:
    """Those of the questions' articles."""

    def __init__(self, questions: Iterable[SquadQuestion], capitals: Capitals) -> None:
        texts: dict[str, dict[str, None]] = collections.defaultdict(dict)
        for question in questions:
            texts[question.article][question.context] = None
        self._articles = {
            article: _index(list(found), capitals) for article, found in texts.items()
        }

    def names(self, article: str) -> Sequence[str]:
        return self._articles[article].names

    def most_similar(self, question: SquadQuestion) -> str | None:
        """The paragraph of a question's article that is most like the question.

        By the inverse document frequencies of the words that both have (each counted once).

        Never the question's own paragraph, nor one that has an answer's text.
        """
        article = self._articles[question.article]
        scores: dict[int, float] = collections.defaultdict(float)
        for word in sorted(_words(question.question)):
            holders = article.holders.get(word, ())
            for index in holders:
                scores[index] += math.log((1 + len(article.texts)) / len(holders))
        golds = [normalize_answer(answer) for answer in question.answers]
        for index, _ in sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))[:20]:
            text = article.texts[index]
            if text != question.context and not any(g in normalize_answer(text) for g in golds):
                return text
        return None


def _index(texts: list[str], capitals: Capitals) -> _Article:
    holders: dict[str, list[int]] = collections.defaultdict(list)
    for index, text in enumerate(texts):
        for word in _words(text):
            holders[word].append(index)
    names = {text[slice(*span)] for text in texts for span in capitals.names(text)}
    return _Article(texts, holders, sorted(names))
