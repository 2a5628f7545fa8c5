"""Questions as people type them: without the mark, all in lower case, with a typo.

Which typos: a letter left out, one typed twice, two in the wrong order, or the key beside it, the
four that Damerau (1964) counts 80 % of spelling errors to, by hand on a keyboard.
"""

from __future__ import annotations

import dataclasses
import re
import zlib
from collections.abc import Iterable, Iterator

import numpy as np

from electra_qa.squad import SquadQuestion

# The letters beside each one, on a QWERTY keyboard.
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_BESIDE = {
    letter: row[max(place - 1, 0) : place] + row[place + 1 : place + 2]
    for row in _ROWS
    for place, letter in enumerate(row)
}
# Shorter words are hardly ever mistyped, and often another word then.
_WORD = re.compile(r"[A-Za-z]{4,}")

Rng = np.random.Generator


def with_slips(
    questions: Iterable[SquadQuestion], share: float, seed: int
) -> Iterator[SquadQuestion]:
    """The questions, each of the three slips in `share` of them, independently.

    What becomes of a question depends on its id, its text, and the seed alone.
    """
    for question in questions:
        key = zlib.crc32(f"{question.id}\0{question.question}".encode())
        rng = np.random.default_rng([seed, key])
        text = question.question
        no_mark, lower, typo = (rng.random(3) < share).tolist()
        if no_mark:
            text = without_mark(text)
        if lower:
            text = text.lower()
        if typo:
            text = with_typo(text, rng)
        yield (
            question if text == question.question else dataclasses.replace(question, question=text)
        )


def without_mark(text: str) -> str:
    """Without the question mark at its end, and the spaces before it."""
    return text.rstrip().removesuffix("?").rstrip() or text


def with_typo(text: str, rng: Rng) -> str:
    """One letter of one word of four letters or more is wrong; the first one is not.

    A text without such a word stays as it is.
    """
    words = list(_WORD.finditer(text))
    if not words:
        return text
    word = words[rng.integers(len(words))]
    place = int(rng.integers(word.start() + 1, word.end()))
    letter = text[place]
    kind = rng.integers(4)
    if kind == 0:
        return text[:place] + text[place + 1 :]
    if kind == 1:
        return text[:place] + letter + text[place:]
    if kind == 2 and place + 1 < word.end():
        return text[:place] + text[place + 1] + letter + text[place + 2 :]
    beside = _BESIDE[letter.lower()]
    return text[:place] + beside[rng.integers(len(beside))] + text[place + 1 :]
