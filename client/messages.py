"""What a caller gives and gets, and how it goes over the wire."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypedDict, cast

from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.spans import Answer

from .errors import ElectraQAError, InvalidArgumentError, from_failure


class Question(NamedTuple):
    """A question about a context. Plain pairs of texts do as well."""

    question: str
    context: str


class Options(TypedDict, total=False):
    """What a caller may choose; what is left out has the bundle's default.

    top_k: how many answers to return, at most.
    max_answer_length: in tokens.
    null_score_diff_threshold: there is no answer where null_score_diff is over this.
    max_seq_length, max_query_length, doc_stride: of the windows, in tokens, as in `run_squad.py`.
    window_overlap: instead of doc_stride: how many tokens two windows share.
    rules: whose rules make answers out of spans, see `electra_qa.merge.merge`.
    align_to_words: widen an answer that starts or ends inside a word.
    max_overlap: leave out an answer that shares more than this part of its characters, or of the
        other's, with a better one: 0 for answers that don't overlap, up to 1.
    every_place: answers with the same text are one for each place that it stands at.
    n_best_size: by the rules "reader", how many spans of each window are looked at.
    """

    top_k: int
    max_answer_length: int
    null_score_diff_threshold: float
    max_seq_length: int
    max_query_length: int
    doc_stride: int
    window_overlap: int
    rules: Literal["run_squad", "pipeline", "reader"]
    align_to_words: bool
    max_overlap: float
    every_place: bool
    n_best_size: int


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a question.

    answers: the best spans, best first, also where is_impossible says that none is the answer.
    null_score, null_score_diff, null_probability: see `electra_qa.spans.Prediction`.
    windows: how many windows the context was cut into.
    queue_ms, engine_ms: what the question spent in the server's queue and in its engine.
    model_version: which of the server's bundles gave the answer, see `Client.info`; "" from a
        server that does not say.
    """

    answers: tuple[Answer, ...]
    is_impossible: bool
    null_score: float
    null_score_diff: float
    null_probability: float
    windows: int
    queue_ms: float
    engine_ms: float
    model_version: str

    @property
    def text(self) -> str:
        """The answer, as SQuAD 2.0 wants it: "" where there is none."""
        return "" if self.is_impossible else self.answers[0].text


Outcome = Result | ElectraQAError


def question_of(given: object) -> Question:
    """A pair of texts as a Question; a mapping with these two keys does as well.

    Raises TypeError for anything else, a text among it, and InvalidArgumentError for a pair of
    something else than texts.
    """
    if isinstance(given, Mapping):
        if given.keys() != {"question", "context"}:
            raise TypeError(
                f"a question needs the keys question and context, got {', '.join(map(repr, given))}"
            )
        given = given["question"], given["context"]
    if isinstance(given, (str, bytes)) or not isinstance(given, Sequence) or len(given) != 2:
        raise TypeError(
            f"a question must be a pair (question, context), got {type(given).__name__}"
            + (f" of {len(given)}" if isinstance(given, (list, tuple)) else "")
        )
    question, context = given
    return Question(_check_type("question", question), _check_type("context", context))


def given_options(**options: Any) -> Options:
    """Those that are not None."""
    given = {name: value for name, value in options.items() if value is not None}
    return cast(Options, given)


def options_message(options: Options) -> pb.Options:
    """Raises InvalidArgumentError for a name that is no option, or a value of the wrong type."""
    message = pb.Options()
    for name, value in options.items():
        try:
            if name == "rules":
                message.rules = pb.Rules.Value(f"RULES_{str(value).upper()}")
            else:
                setattr(message, name, value)
        except AttributeError as error:
            raise InvalidArgumentError(f"there is no option {name}") from error
        except (TypeError, ValueError) as error:
            raise InvalidArgumentError(f"options.{name}: {error}") from error
    return message


def request_message(question: str, context: str, options: Options) -> pb.AnswerRequest:
    return pb.AnswerRequest(
        question=check_text("question", question),
        context=check_text("context", context),
        options=options_message(options),
    )


def batch_message(questions: Iterable[Question], options: Options) -> pb.AnswerBatchRequest:
    """A context that several questions share goes over the wire once."""
    message = pb.AnswerBatchRequest(options=options_message(options))
    places: dict[str, int] = {}
    for question, context in questions:
        if context not in places:
            places[context] = len(places)
            message.contexts.append(check_text("context", context))
        message.questions.append(
            pb.BatchQuestion(
                question=check_text("question", question), context_index=places[context]
            )
        )
    return message


class StreamMessages:
    """Makes them one by one: a context that is that of the question before isn't sent again."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._context: str | None = None

    def of(self, id_: str, given: object) -> pb.AnswerStreamRequest:
        question, context = question_of(given)
        same = context == self._context
        self._context = context
        return pb.AnswerStreamRequest(
            id=check_text("id", id_),
            request=request_message(question, "" if same else context, self._options),
            same_context=same,
        )


def stream_messages(
    questions: Iterable[tuple[str, tuple[str, str]]], options: Options
) -> Iterator[pb.AnswerStreamRequest]:
    messages = StreamMessages(options)
    for id_, given in questions:
        yield messages.of(id_, given)


def result(response: pb.AnswerResponse) -> Result:
    return Result(
        answers=tuple(map(answer_of, response.answers)),
        is_impossible=response.is_impossible,
        null_score=response.null_score,
        null_score_diff=response.null_score_diff,
        null_probability=response.null_probability,
        windows=response.windows,
        queue_ms=response.timing.queue_ms,
        engine_ms=response.timing.engine_ms,
        model_version=response.model_version,
    )


def answer_of(message: pb.Answer) -> Answer:
    return Answer(
        message.text,
        message.start,
        message.end,
        message.score,
        message.start_logit,
        message.end_logit,
    )


def outcome(message: pb.Result) -> Outcome:
    if message.HasField("failure"):
        return from_failure(message.failure)
    return result(message.response)


def check_sizes(batch_size: int, concurrency: int) -> None:
    """Raises ValueError for sizes with which nothing would be asked."""
    if batch_size < 1 or concurrency < 1:
        raise ValueError(
            f"batch_size and concurrency must be at least 1, got {batch_size} and {concurrency}"
        )


def check_text(field: str, text: str) -> str:
    """Raises InvalidArgumentError for what protobuf would refuse, saying which field it is."""
    try:
        _check_type(field, text).encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(
            f"{field} has a lone surrogate at character {error.start}, which is not text"
        ) from error
    return text


def _check_type(field: str, text: object) -> str:
    if not isinstance(text, str):
        raise InvalidArgumentError(f"{field} must be a str, got {type(text).__name__}")
    return text
