"""`pipeline("question-answering")`, as Transformers had it up to 5.2."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self, TypedDict

from electra_qa.credentials import Credentials, Tls

from .client import Client
from .errors import ElectraQAError
from .messages import Options, Question, Result
from .private import PrivateServer


class PipelineAnswer(TypedDict):
    """score: start probability × end probability. start, end: characters of the context."""

    score: float
    start: int
    end: int
    answer: str


PipelineResult = PipelineAnswer | list[PipelineAnswer]


def pipeline(
    task: str = "question-answering",
    *,
    address: str | None = None,
    bundle: Path | str | None = None,
    tls: Tls | None = None,
    token: str | None = None,
    insecure: bool = False,
) -> QuestionAnsweringPipeline:
    """The question-answering pipeline, answered by the server at `address`.

    Without an address it starts a private server on `bundle` (by default the one in the package),
    and stops it when the pipeline is closed or collected. `task` may only be
    "question-answering". `tls`, `token` and `insecure` are those of `Client`, for the
    server at `address`. Raises ValueError, PrivateServerError.
    """
    if task != "question-answering":
        raise ValueError(f"the only task is 'question-answering', got {task!r}")
    if address is not None and bundle is not None:
        raise ValueError("address and bundle: set one, not both")
    return QuestionAnsweringPipeline(address, bundle, Credentials(tls, token, insecure))


class QuestionAnsweringPipeline:
    """Call it with questions and contexts; see `__call__`. Made by `pipeline`."""

    def __init__(
        self, address: str | None, bundle: Path | str | None, credentials: Credentials
    ) -> None:
        self._server = None
        if address is None:
            self._server = PrivateServer(bundle)
            address = self._server.address
        self._client = Client(
            address,
            tls=credentials.tls,
            token=credentials.token,
            insecure=credentials.insecure,
        )

    def __enter__(self) -> Self:
        self._client.__enter__()  # raises where it is closed
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a pipeline is a connection and can't be pickled: make one in each process")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()
        if self._server is not None:
            self._server.close()

    def __call__(
        self,
        *args: Any,
        question: str | list[str] | None = None,
        context: str | list[str] | None = None,
        top_k: int = 1,
        doc_stride: int | None = None,
        max_answer_len: int = 15,
        max_seq_len: int | None = None,
        max_question_len: int = 64,
        handle_impossible_answer: bool = False,
        align_to_words: bool = True,
    ) -> Any:
        """Answer questions about contexts.

        Either `question=` and `context=` (texts, or lists of both, or a list of questions about one
        context), or a dict with these two keys, a list of such dicts, or a generator of them.

        top_k: how many answers to return, at most.
        doc_stride: how many tokens two windows share, by default 128 (and at most half of a
            window). `run_squad.py` calls something else so; see `Options` for that.
        max_answer_len, max_seq_len, max_question_len: in tokens.
        handle_impossible_answer: let "no answer" be one of the answers: an empty text at 0.
        align_to_words: widen an answer that starts or ends inside a word to the whole word.

        Returns a dict with score, start, end and answer; a list of dicts where `top_k` asks for
        more and there are more; a list of these for several questions; an iterator for a generator.
        Raises ValueError and KeyError for bad arguments and `ElectraQAError`s.
        """
        if top_k < 1:
            raise ValueError(f"top_k parameter should be >= 1 (got {top_k})")
        if max_answer_len < 1:
            raise ValueError(f"max_answer_len parameter should be >= 1 (got {max_answer_len})")
        if max_seq_len is not None:
            # Windows narrower than the longest question are fine for a shorter one.
            max_question_len = max(1, min(max_question_len, max_seq_len - 4))
        options: Options = {
            "rules": "pipeline",
            "top_k": top_k,
            "max_answer_length": max_answer_len,
            "max_query_length": max_question_len,
            "align_to_words": align_to_words,
        }
        if max_seq_len is not None:
            options["max_seq_length"] = max_seq_len
        if doc_stride is None:
            doc_stride = min((max_seq_len or 384) // 2, 128)
        options["window_overlap"] = doc_stride
        inputs = _inputs(args, question, context)
        results = (
            _answers(result, top_k, handle_impossible_answer)
            for result in self._ask(inputs, options)
        )
        if isinstance(inputs, Generator):
            return results
        answers = list(results)
        return answers[0] if len(answers) == 1 else answers

    def _ask(self, inputs: Iterable[Question], options: Options) -> Iterator[Result]:
        for outcome in self._client.answer_many(inputs, **options):
            if isinstance(outcome, ElectraQAError):
                raise outcome
            yield outcome


def _inputs(
    args: tuple[Any, ...], question: str | list[str] | None, context: str | list[str] | None
) -> list[Question] | Generator[Question]:
    if len(args) == 1 and isinstance(args[0], Generator):
        return (_example(item) for item in args[0])
    if len(args) == 2 and all(isinstance(arg, str) for arg in args):
        return [_example({"question": args[0], "context": args[1]})]
    if args:
        items = args[0] if len(args) == 1 else args
        return [_example(item) for item in ([items] if isinstance(items, Mapping) else items)]
    if question is None or context is None:
        raise ValueError("question and context must both be given")
    questions = [question] if isinstance(question, str) else question
    contexts = [context] * len(questions) if isinstance(context, str) else context
    if len(questions) != len(contexts):
        raise ValueError("Questions and contexts don't have the same lengths")
    return [
        _example({"question": q, "context": c}) for q, c in zip(questions, contexts, strict=True)
    ]


def _example(item: Any) -> Question:
    if not isinstance(item, Mapping):
        raise ValueError(f"{item!r} must be a dictionary with the keys question and context")
    for key in ("question", "context"):
        if key not in item:
            raise KeyError("You need to provide a dictionary with keys {question:..., context:...}")
        if item[key] is None:
            raise ValueError(f"`{key}` cannot be None")
        if not item[key]:
            raise ValueError(f"`{key}` cannot be empty")
    return Question(item["question"], item["context"])


def _answers(result: Result, top_k: int, handle_impossible_answer: bool) -> PipelineResult:
    answers: list[PipelineAnswer] = [
        {"score": a.score, "start": a.start, "end": a.end, "answer": a.text} for a in result.answers
    ]
    if handle_impossible_answer:
        answers.append({"score": result.null_probability, "start": 0, "end": 0, "answer": ""})
        answers = sorted(answers, key=lambda answer: -answer["score"])[:top_k]
    return answers[0] if len(answers) == 1 else answers
