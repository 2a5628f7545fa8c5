"""Names in texts, by their capital letters, and the words that all texts have."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable

WORD = re.compile(r"[^\W\d_][\w'’-]*|\d[\d,.]*\d|\d")
# Capitalized words in a row, with the little words that names have inside; not "I" or "I'm".
_NAME = re.compile(
    r"\b(?!I\b)[A-Z][\w'’-]*(?:(?:\s+(?:of|the|de|von|van|and)\s+|\s+)[A-Z][\w'’-]*)*", re.UNICODE
)
# A word in more texts than this is of no one matter: "which", "used", "between".
COMMON_SHARE, COMMON_TEXTS = 0.02, 10
_SENTENCE_START = re.compile(r"(?:^|[.!?]['\"”)]?\s+)$")


class Capitals:
    """Which words the texts write with a capital letter, more often than not, inside sentences."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._balance: collections.Counter[str] = collections.Counter()
        self._texts: collections.Counter[str] = collections.Counter()
        self._count = 0
        for text in texts:
            self._count += 1
            self._texts.update({match[0].lower() for match in WORD.finditer(text)})
            for match in WORD.finditer(text):
                if not _starts_sentence(text, match.start()):
                    self._balance[match[0].lower()] += 1 if match[0][0].isupper() else -1

    def is_name(self, word: str) -> bool | None:
        """Of a word in any case; None for one that the texts don't have inside sentences."""
        balance = self._balance.get(word.lower())
        return None if balance is None else balance > 0

    def is_common(self, word: str) -> bool:
        """Whether very many of the texts have a word, in any case."""
        return self._texts[word.lower()] > max(COMMON_TEXTS, COMMON_SHARE * self._count)

    def names(self, text: str) -> list[tuple[int, int]]:
        """Characters [start, end) of the names in a text."""
        found = []
        for match in _NAME.finditer(text):
            start, end = match.span()
            first = WORD.match(text, start)
            if first and _starts_sentence(text, start) and self.is_name(first[0]) is False:
                rest = _NAME.search(text, first.end(), end)
                if rest is None:
                    continue
                start = rest.start()
            if text[start:end].endswith(("'s", "’s")):
                end -= 2
            found.append((start, end))
        return found


def _starts_sentence(text: str, position: int) -> bool:
    return _SENTENCE_START.search(text, max(0, position - 4), position) is not None
