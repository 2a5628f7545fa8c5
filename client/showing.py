"""Answers on a terminal."""

from __future__ import annotations

import re
from collections.abc import Callable

from rich.console import Console
from rich.text import Text

from electra_qa.spans import Answer

from .documents import DocumentsResult
from .messages import Result

AROUND = 60  # characters of the text before and behind an answer


def show(console: Console, context: str, result: Result) -> None:
    console.print(_headline(result.text, "The text does not answer the question."))
    for answer in result.answers:
        console.print(_line(answer.score, answer, context))
    console.print(
        Text(
            f"null_score_diff {result.null_score_diff:.3f}, {result.windows} windows, "
            f"{result.queue_ms:.1f} ms in the queue, {result.engine_ms:.1f} ms in the engine",
            "dim",
        )
    )


def show_documents(
    console: Console, result: DocumentsResult, text_of: Callable[[str], str]
) -> None:
    """text_of: a document's text, by its id."""
    console.print(_headline(result.text, "The texts do not answer the question."))
    for one in result.answers:
        if one.answer is None:
            console.print(Text(f"{one.score:6.3f}  ", "cyan").append("no answer", "yellow"))
        else:
            console.print(_line(one.score, one.answer, text_of(one.id)))
            console.print(Text(f"        {one.id}", "dim"))
    read = f"{result.documents_read} of {result.documents} texts read"
    failed = f", {result.documents_failed} could not be" if result.documents_failed else ""
    console.print(
        Text(
            f"null_score_diff {result.null_score_diff:.3f}, {read}{failed}, "
            f"{result.windows} windows",
            "dim",
        )
    )
    for failure in result.failures:
        console.print(Text(f"{failure.id}: {failure.error}", "yellow"))


def _headline(answer: str, without: str) -> Text:
    return Text(answer, "bold green") if answer else Text(without, "bold yellow")


def _line(score: float, answer: Answer, context: str) -> Text:
    before = _in_one_line(context[max(0, answer.start - AROUND) : answer.start])
    after = _in_one_line(context[answer.end : answer.end + AROUND])
    line = Text(f"{score:6.3f}  ", "cyan")
    line.append(("…" if answer.start > AROUND else "") + before)
    line.append(_in_one_line(answer.text), "bold reverse")
    line.append(after + ("…" if answer.end + AROUND < len(context) else ""))
    return line


def _in_one_line(text: str) -> str:
    return re.sub(r"\s*[\r\n]\s*", " ", text)
