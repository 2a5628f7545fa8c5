"""How people turn an answerable question into an unanswerable one, learnt from pairs of both.

The pairs are those of Zhu et al., "Learning to Ask Unanswerable Questions for Machine Reading
Comprehension" (ACL 2019): lower case, tokens apart by spaces. Most of them differ in one place.
"""

from __future__ import annotations

import collections
import csv
import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from electra_qa.squad import SquadError

NEGATIONS = frozenset(
    {"not", "n't", "never", "no", "none", "nor", "neither", "cannot", "without", "non", "nobody"}
)
# Those that may follow any auxiliary verb.
VERB_NEGATIONS = frozenset({"n't", "not", "never", "no longer"})
# fmt: off
NUMBER_WORDS = (
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "twenty", "thirty", "forty", "fifty", "hundred", "thousand", "million",
    "billion",
)
ORDINAL_WORDS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
)
MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september",
    "october", "november", "december",
)
QUESTION_WORDS = frozenset(
    {"what", "which", "who", "whom", "whose", "when", "where", "why", "how"}
)
# A change of these alone asks the same thing in other words.
GRAMMAR = QUESTION_WORDS | {
    "a", "an", "the", "is", "was", "are", "were", "be", "been", "do", "does", "did", "has", "have",
    "had", "of", "to", "in", "on", "at", "by", "for", "from", "with", "and", "or", "that", "this",
    "it", "its", "their", "his", "her", "'s",
}
# fmt: on
LONGEST_PHRASE = 3
_TOKEN = re.compile(r"n't\b|'s\b|\w+?(?=n't\b)|\w+|[^\w\s]")

Counts = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Edits:
    """What was learnt.

    rates: of the questions that have such a thing, the share whose edit was of the kind "word",
        "negation", "name" or "number".
    words: {phrase: {what people put in its place: how often}}, of one to three tokens.
    names: the same of names, in lower case.
    negations: {what people put after a verb: how often}.
    year_steps: {by how many years they moved a year: how often}.
    """

    rates: Mapping[str, float]
    words: Mapping[str, Counts]
    names: Mapping[str, Counts]
    negations: Counts
    year_steps: Counts


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """The pairs of a file: answerable and unanswerable, a line each, apart by a tab.

    Or a table with a header, apart by tabs, whose columns `twin_question` and `question` they are;
    rows without the former are passed over. Raises SquadError.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SquadError(f"{path} can't be read: {error}") from error
    columns = lines[0].split("\t") if lines else []
    if {"question", "twin_question"} <= set(columns):
        table = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [
            (_apart(row["twin_question"]), _apart(row["question"]))
            for row in table
            if row["twin_question"]
        ]
    pairs = []
    for number, line in enumerate(lines, start=1):
        before, tab, after = line.partition("\t")
        if not tab:
            raise SquadError(f"{path.name}, line {number}: two questions and a tab are expected")
        pairs.append((before, after))
    return pairs


def _apart(text: str) -> str:
    """In lower case, tokens apart by spaces, as the pairs are."""
    return " ".join(_TOKEN.findall(text.lower()))


def learn(pairs: Iterable[tuple[str, str]], is_name: Callable[[str], bool | None]) -> Edits:
    """Learn from pairs; what stands for what, from those that differ in one place.

    is_name: whether a word in lower case is written with a capital letter; None: not known.
    """
    edited: collections.Counter[str] = collections.Counter()
    having: collections.Counter[str] = collections.Counter()
    words: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    names: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    negations: collections.Counter[str] = collections.Counter()
    year_steps: collections.Counter[str] = collections.Counter()
    for before, after in pairs:
        tokens = before.split()
        having.update(("word", "negation"))
        having["name"] += any(is_name(token) for token in tokens if token not in GRAMMAR)
        having["number"] += any(map(is_number, tokens))
        edit = _only_edit(tokens, after.split())
        if edit is None:
            continue
        removed, put = edit
        kind = _kind(removed, put, is_name)
        edited[kind or "word"] += 1
        if kind == "word":
            words[" ".join(removed)][" ".join(put)] += 1
        elif kind == "name":
            names[" ".join(removed)][" ".join(put)] += 1
        elif kind == "negation" and " ".join(put) in VERB_NEGATIONS:
            negations[" ".join(put)] += 1
        elif kind == "number" and _is_year(removed) and _is_year(put):
            year_steps[str(int(put[0]) - int(removed[0]))] += 1
    # A negation is one place; a pair that differs in several is one of the other kinds, and as
    # often of each as those of one place are.
    several = having["word"] - edited.total()
    more = 1 + several / max(edited.total() - edited["negation"], 1)
    rates = {
        kind: min(1.0, edited[kind] * (1 if kind == "negation" else more) / max(having[kind], 1))
        for kind in sorted(edited)
    }
    return Edits(rates, dict(words), dict(names), negations, year_steps)


def _only_edit(before: list[str], after: list[str]) -> tuple[list[str], list[str]] | None:
    """(tokens taken out, tokens put in), where the two differ in one place."""
    before, after = ([t for t in tokens if t not in "?.,"] for tokens in (before, after))
    changes = [
        (before[a:b], after[c:d])
        for tag, a, b, c, d in difflib.SequenceMatcher(
            None, before, after, autojunk=False
        ).get_opcodes()
        if tag != "equal"
    ]
    return changes[0] if len(changes) == 1 else None


def _kind(removed: list[str], put: list[str], is_name: Callable[[str], bool | None]) -> str | None:
    if not put:
        return None
    if (NEGATIONS & set(put)) and not (NEGATIONS & set(removed)):
        return "negation"
    if not removed or max(len(removed), len(put)) > LONGEST_PHRASE or GRAMMAR.issuperset(removed):
        return None
    if all(is_number(t) for t in removed) and all(is_number(t) for t in put):
        return "number"
    said = {is_name(t) for t in (*removed, *put) if t[0].isalpha() and t not in GRAMMAR}
    # What no text has is a name too, unless it stands for a word that is none.
    if True in said or said == {None}:
        return "name"
    return "word"


def is_number(token: str) -> bool:
    lower = token.lower()
    return (
        lower[:1].isdigit() or lower in NUMBER_WORDS or lower in ORDINAL_WORDS or lower in MONTHS
    ) and lower != "may"


def _is_year(tokens: list[str]) -> bool:
    return len(tokens) == 1 and len(tokens[0]) == 4 and tokens[0].isdecimal()
