"""From what the engine gave back to answers, within what a response may hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from electra_qa.host_decode import decode_on_host
from electra_qa.merge import TooMuchTextError, merge, utf8_bytes
from electra_qa.spans import DecodeOptions, Prediction
from electra_qa.tokenization import TokenizedContext
from electra_qa.windows import Window

from ..engine.batcher import Outcome, WindowResult
from ..errors import InvalidRequestError, RequestError

# What an answer, and a question without its answers, takes of a response at most, in bytes. A
# failure and its message are a question's as well.
ANSWER_BYTES = 64
QUESTION_BYTES = 192

# In units of `slices`, measured: a window that the host decodes, a span that leaves others room,
# and so many characters of a text.
HOST_WINDOW = 250
APART_SPAN = 100
TEXT_CHARACTERS = 8_000


@dataclass(frozen=True, slots=True)
class Answered:
    """What became of a question, and what it spent in the queue and in the engine, in seconds."""

    prediction: Prediction
    windows: int
    queue_s: float
    engine_s: float


@dataclass(frozen=True, slots=True)
class Prepared:
    """A question for the engine."""

    question: str
    context: TokenizedContext
    windows: list[Window]


@dataclass(frozen=True, slots=True)
class Computed:
    """A question, and what the engine made of it."""

    prepared: Prepared
    outcome: Outcome


# What there is to merge of a question, or what became of it without the engine.
Mergeable = Computed | Answered | RequestError


def _keep_nothing(prepared: Prepared, answered: Answered) -> None:
    pass


class Merging:
    """Of one call.

    on_host: whether the request goes past what the graph decodes.
    max_bytes: of the response.
    questions: how many the call has.
    check: raises where nobody waits for the answers.
    keep: called, on whatever thread, with each question that was merged, and its answers.
    """

    def __init__(
        self,
        options: DecodeOptions,
        n_best_size: int,
        *,
        on_host: bool,
        max_bytes: int,
        questions: int,
        check: Callable[[], None],
        keep: Callable[[Prepared, Answered], None] = _keep_nothing,
    ) -> None:
        self._options = options
        self._n_best_size = n_best_size
        self._on_host = on_host
        self._max_bytes = max_bytes
        self._room = max_bytes - questions * QUESTION_BYTES
        self._questions = questions
        self._check = check
        self._keep = keep

    def cost(self, one: Mergeable) -> int:
        """In units of `slices`, at most."""
        if isinstance(one, RequestError):
            return 1
        if isinstance(one, Answered):
            return 1 + len(one.prediction.answers)
        prepared = one.prepared
        windows = len(prepared.windows)
        spans = 1
        if self._options.apart:
            spans = (windows + self._options.top_k) * APART_SPAN
        elif self._options.top_k > 1 or self._on_host:
            spans = windows * max(self._n_best_size, self._options.spans_of_a_window)
        text = spans * (len(prepared.context.text) // TEXT_CHARACTERS)
        return windows * (1 + self._on_host * HOST_WINDOW) + spans + text

    def merge(self, questions: Sequence[Mergeable]) -> list[Answered | RequestError]:
        """Raises what `check` raises."""
        return [self._merge(one) for one in questions]

    def _merge(self, one: Mergeable) -> Answered | RequestError:
        if isinstance(one, RequestError):
            return one
        try:
            if isinstance(one, Answered):
                self._take_room(one.prediction)
                return one
            if isinstance(one.outcome, RequestError):
                return one.outcome
            answered = self._merged(one.prepared, one.outcome)
            self._take_room(answered.prediction)
        except TooMuchTextError:
            return self._too_much()
        self._keep(one.prepared, answered)
        return answered

    def _merged(self, prepared: Prepared, outcome: WindowResult) -> Answered:
        """Raises TooMuchTextError."""
        windows, decoded, options = prepared.windows, outcome.decoded, self._options
        if self._on_host:
            decoded = decode_on_host(windows, decoded, options, self._n_best_size, self._check)
        prediction = merge(
            prepared.context,
            windows,
            decoded,
            options,
            max_text_bytes=self._room,
            check=self._check,
        )
        return Answered(prediction, len(windows), outcome.queue_s, outcome.engine_s)

    def _take_room(self, prediction: Prediction) -> None:
        taken = sum(utf8_bytes(answer.text) + ANSWER_BYTES for answer in prediction.answers)
        if taken > self._room:
            raise TooMuchTextError
        self._room -= taken

    def _too_much(self) -> InvalidRequestError:
        return InvalidRequestError(
            f"the answers of the call hold more than {self._max_bytes} bytes (max_response_bytes): "
            "ask fewer questions at a time, or for fewer answers (options.top_k)",
            in_a_smaller_call=self._questions > 1,
        )
