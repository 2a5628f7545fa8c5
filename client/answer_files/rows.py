"""A row of a file: what is asked, what is passed through, and what is added."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ElectraQAError
from ..messages import Outcome, check_text

# What is added to a row, in this order. `error` is the last one: see `lines.py`.
ADDED: dict[str, type] = {
    "answer": str,
    "start": int,
    "end": int,
    "score": float,
    "null_score": float,
    "null_score_diff": float,
    "is_impossible": bool,
    "windows": int,
    "error": str,
}
# Digits after the point. Scores are float32's, and in the last of their digits they depend on
# which questions the server had in one batch.
DIGITS = 6


class FileError(Exception):
    """A file can't be read, written or gone on with; the message names it and says why."""


@dataclass(frozen=True, slots=True)
class Names:
    """Of columns. prefix: before the names of those that are added."""

    question: str = "question"
    context: str = "context"
    prefix: str = ""

    @property
    def added(self) -> dict[str, type]:
        return {self.prefix + name: kind for name, kind in ADDED.items()}

    @property
    def error(self) -> str:
        return f"{self.prefix}error"


@dataclass(frozen=True, slots=True)
class Row:
    """values: its columns, as they are passed through.

    error: why it can't be asked; None where `question` and `context` can.
    position: how much of the input was read with it, see `Source`.
    """

    values: Mapping[str, Any]
    question: str
    context: str
    error: str | None
    position: int


@dataclass(frozen=True, slots=True)
class Source:
    """What is read of a file.

    columns: their names, each with what a Parquet file needs to know of it: a Python type, or
        pyarrow's field. None where every row has its own.
    size: what the last row's `position` will be, in bytes or rows; None where nobody knows.
    """

    rows: Iterator[Row]
    columns: Mapping[str, Any] | None
    size: int | None


def row_of(
    values: Mapping[str, Any], question: Any, context: Any, names: Names, position: int
) -> Row:
    """A row that is asked, or has the error why not."""
    try:
        for name, text in ((names.question, question), (names.context, context)):
            if text is None:
                raise ValueError(f"there is no {name}")
            check_text(name, text)
    except ValueError as error:
        return bad_row(str(error), position, values)
    return Row(values, question, context, None, position)


def bad_row(error: str, position: int, values: Mapping[str, Any] | None = None) -> Row:
    return Row(values or {}, "", "", error, position)


def answer_values(row: Row, outcome: Outcome | None, names: Names) -> dict[str, Any]:
    """What is added to a row. outcome: None for one that was not asked."""
    added: dict[str, Any] = dict.fromkeys(names.added)
    if outcome is None or isinstance(outcome, ElectraQAError):
        added[names.error] = row.error if outcome is None else str(outcome)
        return added
    if outcome.is_impossible:
        # As `pipeline` and the Open Inference Protocol say it.
        text, start, end, score = "", 0, 0, outcome.null_probability
    else:
        best = outcome.answers[0]
        text, start, end, score = best.text, best.start, best.end, best.score
    values = (
        *(text, start, end, round(score, DIGITS)),
        *(round(outcome.null_score, DIGITS), round(outcome.null_score_diff, DIGITS)),
        *(outcome.is_impossible, outcome.windows, None),
    )
    return dict(zip(added, values, strict=True))


def check_columns(columns: Iterable[str], names: Names, file: str, *, asked: bool = True) -> None:
    """Raises FileError where a column is missing, twice there, or named like an added one."""
    have = list(columns)
    listed = ", ".join(have)
    for name in have:
        if have.count(name) > 1:
            raise FileError(f"{file} has the column {name} twice")
        if name in names.added:
            raise FileError(
                f"{file} has a column {name} itself: choose a --prefix for what is added"
            )
    for option, name in (("question", names.question), ("context", names.context)):
        if asked and name not in have:
            raise FileError(
                f"{file} has no column {name}, but {listed}: choose one by --{option}-column"
            )


def text_of(value: Any) -> str:
    """A value where there are only texts. "" for none."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
