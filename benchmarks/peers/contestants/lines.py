"""A library as a process: questions come in as JSON lines, answers go out.

    {"questions": [[question, context], …]}  →  {"answers": [[text, null score difference], …]}

It says {"ready": true} once it can.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TextIO

Answer = Callable[[Sequence[tuple[str, str]]], list[tuple[str, float]]]


def one_at_a_time(answer: Answer) -> Answer:
    """The same, but each question by itself however many are handed over."""
    return lambda questions: [answer([question])[0] for question in questions]


def serve_lines(answer: Answer) -> None:
    """Answer until stdin ends."""
    # What libraries print must not get between the answers.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        _write(out, {"ready": True})
        for line in sys.stdin:
            questions = [(question, context) for question, context in json.loads(line)["questions"]]
            _write(out, {"answers": answer(questions)})


def _write(out: TextIO, message: dict[str, Any]) -> None:
    out.write(json.dumps(message) + "\n")
    out.flush()
