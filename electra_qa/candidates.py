"""The spans of a window as candidates for an answer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from .spans import MASKED, Answer, DecodedWindow
from .windows import Window


@dataclass(slots=True)
class Candidate:
    """A span in the context's own tokens, first and last (inclusive)."""

    first: int
    last: int
    start_logit: float
    end_logit: float
    probability: float

    @property
    def score(self) -> float:
        return self.start_logit + self.end_logit

    def answer(self, text: str, start: int, end: int, score: float) -> Answer:
        return Answer(text, start, end, score, self.start_logit, self.end_logit)


def candidates(window: Window, decoded: DecodedWindow) -> Iterator[Candidate]:
    """The spans of a window, best first, made as they are wanted: most of them never are."""
    log_partition = sum(decoded.log_partition.tolist())
    spans, span_logits = decoded.spans, decoded.span_logits
    for index in range(len(spans)):
        start_logit, end_logit = span_logits[index].tolist()
        if start_logit <= MASKED / 2:
            return
        first, last = spans[index].tolist()
        yield candidate(window, first, last, start_logit, end_logit, log_partition)


def candidate(
    window: Window,
    first: int,
    last: int,
    start_logit: float,
    end_logit: float,
    log_partition: float,
) -> Candidate:
    """first, last: positions in the window. log_partition: of the start and the end logits."""
    to_context = window.offset - window.context_start
    return Candidate(
        first=first + to_context,
        last=last + to_context,
        start_logit=start_logit,
        end_logit=end_logit,
        probability=math.exp(start_logit + end_logit - log_partition),
    )
