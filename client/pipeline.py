"""`pipeline("question-answering")`, as Transformers had it up to 5.2."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self, TypedDict

from electra_qa.credentials import Credentials, Tls
from electra_qa.models import Precision

from .client import Client
from .errors import ElectraQAError, is_nothing_to_read
from .messages import Question, Result
from .pipeline_arguments import (
    IGNORED,
    MAX_BATCH_SIZE,
    NAMES,
    CallOptions,
    as_files,
    bundle_precision,
    check_names,
    server_device,
)
from .pipeline_inputs import read_inputs
from .private import PrivateServer
from .timeouts import DEFAULT_TIMEOUT_S

TASK = "question-answering"


class PipelineAnswer(TypedDict):
    """score: start probability × end probability. start, end: characters of the context."""

    score: float
    start: int
    end: int
    answer: str


PipelineResult = PipelineAnswer | list[PipelineAnswer]


def pipeline(
    task: str | None = None,
    model: Any = None,
    config: Any = None,
    tokenizer: Any = None,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    device: Any = None,
    dtype: Any = None,
    torch_dtype: Any = None,
    precision: Precision | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    local_files_only: bool = False,
    bundle: Path | str | None = None,
    address: str | None = None,
    tls: Tls | None = None,
    insecure: bool = False,
    **options: Any,
) -> QuestionAnsweringPipeline:
    """The question-answering pipeline, on a private server or on the one at `address`.

    A private server stops when the pipeline is closed or collected.

    task: "question-answering", or None for it.
    model: a checkpoint's folder or its id on the Hugging Face hub, of which a bundle is built once,
        into the user's cache; a bundle's folder; or a model of Transformers, with `tokenizer`. By
        default the bundle in the package.
    tokenizer: a folder, a hub id or a tokenizer of Transformers, in place of the checkpoint's own.
    revision: of the hub, a branch, a tag or a commit.
    token: of the hub; with `address` the bearer token of the server there.
    device: "cpu" or -1, the default; "cuda" or 0, one GPU.
    dtype, torch_dtype: float32 or float16 (for which bfloat16 stands too); "auto" is the default.
        `precision` is the same in our words, "fp32", "fp16" or "int8"; by default
        "fp32", and "fp16" on a GPU.
    model_kwargs: its dtype is taken, as it was.
    local_files_only: ask the hub nothing.
    bundle: a bundle's folder, and nothing else.
    address, tls, insecure: of a server that runs already, see `Client`.
    options: those of `QuestionAnsweringPipeline.__call__`, as defaults of its calls. Arguments of
        Transformers that choose nothing here (padding, framework, trust_remote_code, use_fast and
        such) are taken with a warning.

    Raises ValueError, TypeError, and PrivateServerError where the model can't be built or served.
    """
    if task not in (None, TASK):
        raise ValueError(f"the only task is {TASK!r}, got {task!r}")
    _check_where(address=address, model=model, bundle=bundle)
    more = dict(model_kwargs or {})
    asked = bundle_precision(
        precision, dtype, torch_dtype, {n: more.pop(n, None) for n in ("dtype", "torch_dtype")}
    )
    if model is None:
        _check_none("model", revision=revision, tokenizer=tokenizer, dtype=asked)
    ignored = {"config": config, "model_kwargs": more or None}
    names = [*pipeline.__annotations__, *CallOptions.__dataclass_fields__, "topk", *IGNORED]
    check_names("pipeline()", options, [n for n in names if n not in ("options", "return")])
    defaults = CallOptions().updated("pipeline()", options | ignored)
    if address is not None:
        _check_none("a private server", device=device)
        if isinstance(token, bool):
            raise TypeError("token must be a str: with address it is that of the server")
        credentials = Credentials(tls, token, insecure)
        return QuestionAnsweringPipeline(address, None, credentials, defaults)
    if tls is not None or insecure or (token is not None and model is None):
        raise ValueError("tls, insecure and a token are for the server at address")
    with as_files(model, tokenizer) as (model_files, tokenizer_files):
        server = PrivateServer(
            bundle,
            model=model_files,
            revision=revision,
            precision=asked,
            tokenizer=tokenizer_files,
            token=token,
            local_files_only=local_files_only,
            device=server_device(device),
        )
    return QuestionAnsweringPipeline(server.address, server, Credentials(), defaults)


def _check_where(**places: Any) -> None:
    given = [name for name, value in places.items() if value is not None]
    if len(given) > 1:
        raise ValueError(f"{given[0]} and {given[1]}: set one, not both")


def _check_none(of: str, **arguments: Any) -> None:
    for name, value in arguments.items():
        if value is not None:
            raise ValueError(f"{name} is of {of}, and there is none")


class QuestionAnsweringPipeline:
    """Call it with questions and contexts; see `__call__`. Made by `pipeline`."""

    def __init__(
        self,
        address: str,
        server: PrivateServer | None,
        credentials: Credentials,
        defaults: CallOptions,
    ) -> None:
        """server: ends with the pipeline."""
        self._server = server
        self._defaults = defaults
        self._client = Client(
            address,
            timeout=None if server else DEFAULT_TIMEOUT_S,
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
        top_k: int | None = None,
        doc_stride: int | None = None,
        max_answer_len: int | None = None,
        max_seq_len: int | None = None,
        max_question_len: int | None = None,
        handle_impossible_answer: bool | None = None,
        align_to_words: bool | None = None,
        batch_size: int | None = None,
        **others: Any,
    ) -> Any:
        """Answer questions about contexts.

        Either `question=` and `context=` (texts, or lists of both, or a list of questions about one
        context), or a dict with these two keys, a list of such dicts, or a generator of them. A
        SquadExample does for a dict.

        top_k: how many answers to return, at most. By default 1.
        doc_stride: how many tokens two windows share, by default 128 (and at most half of a
            window). `run_squad.py` calls something else so; see `Options` for that.
        max_answer_len, max_seq_len, max_question_len: in tokens, by default 15, the model's, and as
            many as fit: Transformers' default of 64 never cut a question.
        handle_impossible_answer: let "no answer" be one of the answers: an empty text at 0.
        align_to_words: widen an answer that starts or ends inside a word to the whole word. By
            default it is.
        batch_size: how many questions go to the server in one message, by default 64. It batches
            windows as suits it, whatever this says.
        others: what Transformers took and means nothing here (padding, num_workers), and topk.

        Returns a dict with score, start, end and answer; a list of dicts where `top_k` asks for
        more and there are more; a list of these for several questions; an iterator for a generator.
        A context with nothing to read in it has no answers, an empty list. Raises ValueError and
        KeyError for bad arguments and `ElectraQAError`s; of several, they name the one that it was.
        """
        for old in ("data", "X"):
            if (inputs := others.pop(old, None)) is not None:
                warnings.warn(
                    f"{old} is deprecated, use question and context", FutureWarning, stacklevel=2
                )
                args = (inputs,)
        options = self._defaults.updated(
            "the pipeline",
            others
            | {
                "top_k": top_k,
                "doc_stride": doc_stride,
                "max_answer_len": max_answer_len,
                "max_seq_len": max_seq_len,
                "max_question_len": max_question_len,
                "handle_impossible_answer": handle_impossible_answer,
                "align_to_words": align_to_words,
                "batch_size": batch_size,
            },
        )
        inputs = read_inputs(args, question, context)
        several = isinstance(inputs, Generator) or len(inputs) > 1
        results = self._ask(inputs, options, several)
        if isinstance(inputs, Generator):
            return results
        answers = list(results)
        return answers[0] if len(answers) == 1 else answers

    @cached_property
    def _window_lengths(self) -> tuple[int, int]:
        """The model's own max_seq_length, and the most that it takes, in tokens."""
        info = self._client.info()
        return info.bundle.max_seq_length, info.limits.max_seq_length

    def _ask(
        self, inputs: Iterable[Question], options: CallOptions, several: bool
    ) -> Iterator[PipelineResult]:
        outcomes = self._client.answer_many(
            inputs,
            batch_size=min(options.batch_size, MAX_BATCH_SIZE),
            **options.of_the_client(*self._window_lengths),
        )
        try:
            for index, outcome in enumerate(outcomes):
                if isinstance(outcome, Result):
                    yield _answers(outcome, options)
                elif is_nothing_to_read(outcome):  # which Transformers answered
                    yield _no_answers(options)
                else:
                    if several:
                        outcome.args = (f"inputs[{index}]: {outcome}",)
                    raise outcome
        except ElectraQAError as error:
            error.args = (_in_the_words_of_the_call(str(error)),)
            raise


def _in_the_words_of_the_call(message: str) -> str:
    for ours, theirs in NAMES.items():
        message = message.replace(ours, theirs)
    return message


def _answers(result: Result, options: CallOptions) -> PipelineResult:
    answers: list[PipelineAnswer] = [
        {"score": a.score, "start": a.start, "end": a.end, "answer": a.text} for a in result.answers
    ]
    if options.handle_impossible_answer:
        answers.append(_impossible(result.null_probability))
        answers = sorted(answers, key=lambda answer: -answer["score"])[: options.top_k]
    return answers[0] if len(answers) == 1 else answers


def _no_answers(options: CallOptions) -> PipelineResult:
    return _impossible(1.0) if options.handle_impossible_answer else []


def _impossible(score: float) -> PipelineAnswer:
    return {"score": score, "start": 0, "end": 0, "answer": ""}
