"""What goes between a front end and an engine process: one message a call and one back.

The first byte is the kind. What comes often is a fixed head and arrays, in this machine's order of
bytes; the rest is JSON. Times are of CLOCK_MONOTONIC, which is one for all processes of a machine,
in seconds.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice, repeat
from struct import Struct
from typing import Any

import numpy as np
import numpy.typing as npt

from electra_qa.spans import DecodedWindow

from .. import errors
from ..engine.batcher import Outcome, RowRequest, WindowRequest, WindowResult
from ..engine.rows import row_tokens, split_rows
from ..errors import RequestError

MODEL, CALL, CANCEL, RELEASE, ANSWER, REFUSAL, STATUS = range(7)

# kind, with_logits, generation, call, deadline, questions, windows
_CALL = Struct("=BBxxIQdII")
# kind, generation, call
_OF_CALL = Struct("=BxxxIQ")
# kind, works, generation, queued tokens, queue_s
_STATUS = Struct("=BBxxIQd")
# kind, with_logits, generation, call, then of _STATUS, then questions, windows, spans of a window
_ANSWER = Struct("=BBxxIQQdIIII")


@dataclass(frozen=True, slots=True)
class Call:
    """A call's windows. Of its questions all look at the logits, or none.

    generation: of the engine's models.
    deadline: None for none.
    """

    generation: int
    number: int
    deadline: float | None
    requests: list[RowRequest]
    with_logits: bool


def pack_call(
    generation: int, number: int, deadline: float | None, requests: Sequence[WindowRequest]
) -> bytes:
    questions = [request.rows for request in requests]
    rows = [row for of_question in questions for row in of_question]
    # By question its windows, then by window its tokens.
    numbers = array("i", map(len, questions))
    numbers.extend(map(row_tokens, rows))
    head = _CALL.pack(
        CALL,
        bool(requests) and requests[0].with_logits,
        generation,
        number,
        math.nan if deadline is None else deadline,
        len(questions),
        len(rows),
    )
    return b"".join((head, numbers.tobytes(), *rows))


def unpack_call(raw: bytes) -> Call:
    _, with_logits, generation, number, deadline, questions, windows = _CALL.unpack_from(raw)
    at = _CALL.size + 4 * (questions + windows)
    numbers = memoryview(raw)[_CALL.size : at].cast("i").tolist()
    rows = iter(split_rows(raw[at:], numbers[questions:]))
    requests = [RowRequest(list(islice(rows, count))) for count in numbers[:questions]]
    return Call(
        generation,
        number,
        None if math.isnan(deadline) else deadline,
        requests,
        bool(with_logits),
    )


@dataclass(frozen=True, slots=True)
class Queue:
    """Of an engine's model. queue_s: how long what waits will take."""

    queued_tokens: int = 0
    queue_s: float = 0.0


def pack_of_call(kind: int, generation: int, number: int = 0) -> bytes:
    """CANCEL and RELEASE."""
    return _OF_CALL.pack(kind, generation, number)


def unpack_of_call(raw: bytes) -> tuple[int, int]:
    """generation, number"""
    _, generation, number = _OF_CALL.unpack(raw)
    return generation, number


def pack_status(generation: int, works: bool, queue: Queue) -> bytes:
    return _STATUS.pack(STATUS, works, generation, queue.queued_tokens, queue.queue_s)


def unpack_status(raw: bytes) -> tuple[int, bool, Queue]:
    """generation, works, queue"""
    _, works, generation, queued_tokens, queue_s = _STATUS.unpack(raw)
    return generation, bool(works), Queue(queued_tokens, queue_s)


def pack_answer(call: Call, outcomes: Sequence[Outcome], queue: Queue) -> bytes:
    """Of a call's questions what became of them, in their order."""
    decoded: list[DecodedWindow] = []
    failures: list[RequestError] = []
    # Of each question its windows (−1: it failed), batches, queue_s and engine_s.
    figures = array("d")
    for one in outcomes:
        if isinstance(one, WindowResult):
            decoded += one.decoded
            figures.extend((len(one.decoded), one.batches, one.queue_s, one.engine_s))
        else:
            failures.append(one)
            figures.extend((-1, 0, 0, 0))
    head = _ANSWER.pack(
        ANSWER,
        call.with_logits,
        call.generation,
        call.number,
        queue.queued_tokens,
        queue.queue_s,
        len(outcomes),
        len(decoded),
        len(decoded[0].spans) if decoded else 0,
        len(failures),
    )
    parts = [head, figures.tobytes()]
    parts += [one.spans.tobytes() for one in decoded]
    parts += [one.span_logits.tobytes() for one in decoded]
    parts += [one.null_logits.tobytes() for one in decoded]
    parts += [one.log_partition.tobytes() for one in decoded]
    if call.with_logits:
        lengths = [
            row_tokens(row)
            for request, one in zip(call.requests, outcomes, strict=True)
            if isinstance(one, WindowResult)
            for row in request.rows
        ]
        parts.append(array("i", lengths).tobytes())
        parts += [one.logits[:n].tobytes() for one, n in zip(decoded, lengths, strict=True)]
    if failures:
        parts.append(json.dumps([_error_fields(one) for one in failures]).encode())
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class Answer:
    generation: int
    number: int
    queue: Queue
    outcomes: list[Outcome]


_NO_LOGITS = np.empty((0, 2), np.float32)


def unpack_answer(raw: bytes) -> Answer:
    _, with_logits, generation, number, queued_tokens, queue_s, questions, windows, n, failures = (
        _ANSWER.unpack_from(raw)
    )
    at = _ANSWER.size + 32 * questions
    figures = memoryview(raw)[_ANSWER.size : at].cast("d").tolist()
    # All that follows is of four bytes; the failures come last.
    size = windows * (4 * n + 4)
    ints = np.frombuffer(raw, np.int32, size, at)
    floats = ints.view(np.float32)
    at += 4 * size
    ends = [windows * part for part in (2 * n, 4 * n, 4 * n + 2, 4 * n + 4)]
    logits: Iterable[npt.NDArray[np.float32]] = repeat(_NO_LOGITS, windows)
    if with_logits:
        lengths = np.frombuffer(raw, np.int32, windows, at)
        at += lengths.nbytes
        flat = np.frombuffer(raw, np.float32, 2 * int(lengths.sum()), at).reshape(-1, 2)
        at += flat.nbytes
        logits = [
            flat[end - length : end] for length, end in zip(lengths, lengths.cumsum(), strict=True)
        ]
    decoded = map(
        DecodedWindow,
        ints[: ends[0]].reshape(windows, n, 2),
        floats[ends[0] : ends[1]].reshape(windows, n, 2),
        floats[ends[1] : ends[2]].reshape(windows, 2),
        floats[ends[2] :].reshape(windows, 2),
        logits,
    )
    errors = iter(json.loads(raw[at:]) if failures else ())
    outcomes: list[Outcome] = []
    for place in range(0, len(figures), 4):
        count, batches, in_queue_s, engine_s = figures[place : place + 4]
        outcomes.append(
            _error(next(errors))
            if count < 0
            else WindowResult(list(islice(decoded, int(count))), in_queue_s, engine_s, int(batches))
        )
    return Answer(generation, number, Queue(queued_tokens, queue_s), outcomes)


def pack_refusal(generation: int, number: int, error: RequestError) -> bytes:
    return _OF_CALL.pack(REFUSAL, generation, number) + json.dumps(_error_fields(error)).encode()


def unpack_refusal(raw: bytes) -> tuple[int, RequestError]:
    """number, why"""
    _, _, number = _OF_CALL.unpack_from(raw)
    return number, _error(json.loads(raw[_OF_CALL.size :]))


def _error_fields(error: RequestError) -> list[Any]:
    return [type(error).__name__, str(error), error.retry_delay_s, error.in_a_smaller_call]


def _error(fields: list[Any]) -> RequestError:
    name, message, retry_delay_s, in_a_smaller_call = fields
    kind: type[RequestError] = getattr(errors, name)
    return kind(message, retry_delay_s=retry_delay_s, in_a_smaller_call=in_a_smaller_call)


@dataclass(frozen=True, slots=True)
class Announced:
    """A model that an engine has put into force.

    manifest, tokenizer: the contents of the bundle's files. sha256: of the bundle.
    """

    generation: int
    device: str
    sha256: str
    manifest: str
    tokenizer: str


def pack_model(model: Announced) -> bytes:
    return bytes((MODEL,)) + json.dumps(asdict(model)).encode()


def unpack_model(raw: bytes) -> Announced:
    return Announced(**json.loads(raw[1:]))
