"""What the page shows of a result, as HTML with every text escaped, and as segments."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

from electra_qa.rpc import electra_qa_pb2 as pb

from ..errors import (
    DeadlineExceededError,
    ElectraQAError,
    InvalidArgumentError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
)
from ..messages import Result

# Both ends of the threshold's slider, and of the scale above it.
SCALE_END = 15.0

# What the best span is called in the passage, by the verdict.
ANSWER = "the answer"
REFUSED = "the best span, refused"

TABLE_HEADERS = ("Span", "Probability", "Start", "End", "Score", "Characters")

Segment = tuple[str, str | None]


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked and what came of it.

    client_ms: from before the request was made until the result was there.
    """

    passage: str
    result: Result
    client_ms: float


def is_impossible(result: Result, threshold: float) -> bool:
    """The server's own rule, so that another threshold need not be another call."""
    return result.null_score_diff > threshold or not result.answers


def verdict(asked: Asked, threshold: float) -> str:
    result = asked.result
    if is_impossible(result, threshold):
        return _card("none", "No answer", "The passage does not answer the question.")
    best = result.answers[0]
    return _card("answer", f"Answer, probability {best.score:.3f}", best.text)


def failure(error: ElectraQAError) -> str:
    return _card("failure", _what_failed(error), str(error))


# What an error is called; any other is the server's own.
_FAILURES: dict[type[ElectraQAError], str] = {
    InvalidArgumentError: "This can't be asked",
    DeadlineExceededError: "The answer did not come in time",
    ResourceExhaustedError: "This is too much for the server",
    UnauthenticatedError: "The server wants another token from the playground",
    UnavailableError: "The server can't be reached",
}


def _what_failed(error: ElectraQAError) -> str:
    if isinstance(error, ResourceExhaustedError) and error.retry_after_s is not None:
        seconds = max(error.retry_after_s, 0.1)
        return f"The server has too much to do: try again in {seconds:.1f} s"
    return _FAILURES.get(type(error), "The server failed")


def hint(text: str) -> str:
    return f'<div class="qa-card qa-hint">{escape(text)}</div>'


def _card(kind: str, label: str, text: str) -> str:
    return (
        f'<div class="qa-card qa-{kind}" role="status"><div class="qa-label">{escape(label)}</div>'
        f'<div class="qa-text">{escape(text)}</div></div>'
    )


def scale(asked: Asked | None, threshold: float, end: float = SCALE_END) -> str:
    """The null score against the threshold, from -end to end: beyond the threshold, no answer."""

    def place(value: float) -> float:
        return 100 * (min(max(value, -end), end) + end) / (2 * end)

    marker, words = "", "Right of the threshold the passage holds no answer."
    if asked is not None:
        result = asked.result
        marker = (
            f'<div class="qa-marker" style="left:{place(result.null_score_diff):.2f}%">'
            f"<span>{_number(result.null_score_diff)}</span></div>"
        )
        words = _reason(result, threshold)
    cut = place(threshold)
    return (
        '<div class="qa-scale">'
        f'<div class="qa-bar"><div class="qa-side-answer" style="width:{cut:.2f}%">answer</div>'
        f'<div class="qa-side-none" style="width:{100 - cut:.2f}%">no answer</div>{marker}</div>'
        f'<div class="qa-reason">{words}</div></div>'
    )


def _reason(result: Result, threshold: float) -> str:
    if not result.answers:
        return "The passage has no span that could be an answer."
    best = result.answers[0]
    difference = _number(result.null_score_diff)
    side = "over" if is_impossible(result, threshold) else "not over"
    return (
        f"Null score {_number(result.null_score)}, best span "
        f"{_number(best.start_logit + best.end_logit)}: the difference of <b>{difference}</b> is "
        f"<b>{side}</b> the threshold of {_number(threshold)}."
    )


def _number(value: float) -> str:
    """With the sign that typographers use."""
    return "∞" if math.isinf(value) else f"{value:.2f}".replace("-", "−")


def segments(asked: Asked, threshold: float) -> list[Segment]:
    """The passage, with its best span named."""
    passage = asked.passage
    if not asked.result.answers:
        return [(passage, None)]
    best = asked.result.answers[0]
    name = REFUSED if is_impossible(asked.result, threshold) else ANSWER
    parts: list[Segment] = [
        (passage[: best.start], None),
        (passage[best.start : best.end], name),
        (passage[best.end :], None),
    ]
    return [part for part in parts if part[0]]


def table(asked: Asked) -> str:
    """The n best, best first."""
    head = "".join(f"<th>{name}</th>" for name in TABLE_HEADERS)
    body = "".join(
        f"<tr><td>{escape(answer.text)}</td><td>{answer.score:.3f}</td>"
        f"<td>{_number(answer.start_logit)}</td><td>{_number(answer.end_logit)}</td>"
        f"<td>{_number(answer.start_logit + answer.end_logit)}</td>"
        f"<td>{answer.start}–{answer.end}</td></tr>"
        for answer in asked.result.answers
    )
    return (
        '<div class="qa-table"><table><caption>The best spans</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def times(asked: Asked) -> str:
    result = asked.result
    rest = max(asked.client_ms - result.queue_ms - result.engine_ms, 0.0)
    windows = "window" if result.windows == 1 else "windows"
    if result.model_version:
        windows += f", by model {result.model_version}"
    tiles = (
        (f"{asked.client_ms:.1f} ms", "there and back, measured here"),
        (f"{result.engine_ms:.1f} ms", "in the engine, says the server"),
        (f"{result.queue_ms:.1f} ms", "in the queue, says the server"),
        (f"{rest:.1f} ms", "the rest: tokens, merge, network"),
        (str(result.windows), windows),
    )
    cells = "".join(
        f'<div class="qa-tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
        for value, name in tiles
    )
    return f'<div class="qa-tiles">{cells}</div>'


def header(info: pb.GetInfoResponse, server: str) -> str:
    """The model that answers; `server` says where."""
    facts = (
        info.bundle.source,
        info.bundle.precision,
        info.device,
        server,
        f"electra-qa {info.version}",
    )
    chips = "".join(f"<span>{escape(fact)}</span>" for fact in facts if fact)
    return (
        '<div class="qa-header"><h1>electra-qa</h1>'
        "<p>Finds the answer to a question in a passage, or says that the passage holds none.</p>"
        f'<div class="qa-chips">{chips}</div></div>'
    )
