"""Any number of questions, cut into calls that a server takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.windows import WindowSettings, count_windows

from .errors import DeadlineExceededError, ElectraQAError, ResourceExhaustedError
from .messages import Options, Outcome, Question, question_of

# Of one call, whatever the server takes: one message holds up the others behind it.
MESSAGE_BYTES = 8 * 2**20
# What protobuf adds to a context, and to a question: tags, lengths, an index.
CONTEXT_BYTES, QUESTION_BYTES, CALL_BYTES = 8, 24, 128
# The most special tokens that a family has in a window.
SPECIAL_TOKENS = 4
USUAL = WindowSettings()


def longest_question(window: int) -> int:
    """What a window of so many tokens has room for beside one token of a text."""
    return window - SPECIAL_TOKENS - 1


@dataclass(frozen=True, slots=True)
class Room:
    """What one call may hold.

    questions, windows: over all of it. message_bytes: of the request.
    window, doc_stride, window_overlap, max_query_length: how its contexts are cut, in tokens.
    """

    questions: int
    windows: int
    message_bytes: int
    window: int
    doc_stride: int
    window_overlap: int | None
    max_query_length: int

    @classmethod
    def of(cls, info: pb.GetInfoResponse, options: Options, batch_size: int) -> Self:
        """Of a server, for calls with these options and at most `batch_size` questions.

        What a server doesn't say (0) is no limit, and as usual.
        """
        limits, bundle = info.limits, info.bundle
        return cls(
            questions=min(batch_size, limits.max_batch_questions or batch_size),
            windows=limits.max_windows or 2**31,
            message_bytes=min(MESSAGE_BYTES, limits.max_message_bytes or MESSAGE_BYTES),
            window=options.get("max_seq_length") or bundle.max_seq_length or USUAL.max_seq_length,
            doc_stride=options.get("doc_stride") or bundle.doc_stride or USUAL.doc_stride,
            window_overlap=options.get("window_overlap"),
            max_query_length=options.get("max_query_length")
            or bundle.max_query_length
            or USUAL.max_query_length,
        )

    def windows_at_most(self, question_bytes: int, context_bytes: int) -> int:
        """Into how many windows a pair is cut if every byte of it is a token.

        No vocabulary makes more tokens than that of a text, but of a few characters that it
        spells out.
        """
        asked = min(question_bytes, self.max_query_length)
        capacity = max(1, self.window - asked - SPECIAL_TOKENS)
        stride = self.doc_stride
        if self.window_overlap is not None:
            stride = max(1, capacity - self.window_overlap)
        return max(1, count_windows(context_bytes, capacity, max(1, stride)))


def calls(questions: Iterable[tuple[str, str]], room: Room) -> Iterator[list[Question]]:
    """The questions in their order, as many a call as there is room for, one at the least.

    Raises TypeError for what is no pair.
    """
    call: list[Question] = []
    contexts: dict[str, int] = {}
    windows, size = 0, CALL_BYTES
    for given in questions:
        pair = question_of(given)
        question_bytes = _bytes(pair.question)
        context_bytes = contexts.get(pair.context)
        new = context_bytes is None
        if context_bytes is None:
            context_bytes = _bytes(pair.context)
        cut = room.windows_at_most(question_bytes, context_bytes)
        more = question_bytes + QUESTION_BYTES + new * (context_bytes + CONTEXT_BYTES)
        full = (
            len(call) == room.questions
            or windows + cut > room.windows
            or size + more > room.message_bytes
        )
        if call and full:
            yield call
            call, contexts, windows, size = [], {}, 0, CALL_BYTES
            more = question_bytes + QUESTION_BYTES + context_bytes + CONTEXT_BYTES
        call.append(pair)
        contexts[pair.context] = context_bytes
        windows += cut
        size += more
    if call:
        yield call


def _bytes(text: str) -> int:
    """In UTF-8; a lone surrogate is refused later, by name."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def asked_again(outcomes: Sequence[Outcome]) -> list[list[int]]:
    """The places of the questions of a call that smaller calls may answer, by call."""
    refused = [
        place
        for place, outcome in enumerate(outcomes)
        if isinstance(outcome, ElectraQAError) and outcome.in_a_smaller_call
    ]
    if len(refused) == len(outcomes):
        return halves(refused)
    return [refused] if refused else []


def is_too_large(failure: ElectraQAError, after: float, timeout: float) -> bool:
    """Whether a call was refused for what it holds: it would be refused again.

    after: how long after its begin it failed. timeout: the call's own. Both in seconds. A deadline
    that is far from over was refused because so much work can't be done by then.
    """
    if isinstance(failure, ResourceExhaustedError):
        return failure.retry_after_s is None
    return isinstance(failure, DeadlineExceededError) and after < timeout / 2


def halves(places: Sequence[int]) -> list[list[int]]:
    """None of a single place, which there is no smaller call for."""
    middle = len(places) // 2
    if not middle:
        return []
    return [list(places[:middle]), list(places[middle:])]
