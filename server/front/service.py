"""The `QuestionAnswering` gRPC service: messages in, messages out."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial

import grpc

from electra_qa import __version__
from electra_qa.rpc import electra_qa_pb2 as pb

from ..errors import InvalidRequestError, RequestError
from ..settings import ServerSettings
from .calls import Calls
from .documents import answer_documents
from .handlers import (
    INTERNAL_ERROR,
    Context,
    Unary,
    deadline,
    generic_handler,
    parse,
    parsed,
)
from .merging import Answered
from .messages import failure, response, result
from .model import Model
from .models import Models
from .options import QuestionOptions
from .slices import in_slices
from .stream_contexts import StreamContexts
from .streams import responses
from .waiting import Waiting

log = logging.getLogger(__name__)

SERVICE = pb.DESCRIPTOR.services_by_name["QuestionAnswering"].full_name


class QuestionAnsweringService:
    def __init__(self, models: Models, settings: ServerSettings, calls: Calls) -> None:
        self._models = models
        self._settings = settings
        self._calls = calls

    def handler(self) -> grpc.GenericRpcHandler:
        unary: dict[str, Unary] = {
            "Answer": self.answer,
            "AnswerBatch": self.answer_batch,
            "GetInfo": self.get_info,
        }
        return generic_handler(
            SERVICE,
            self._calls,
            unary,
            streams={"AnswerStream": self.answer_stream},
            collecting={"AnswerDocuments": self.answer_documents},
        )

    async def answer(self, raw: bytes, context: Context) -> pb.AnswerResponse:
        with self._calls.open():
            request = await parsed(partial(parse, pb.AnswerRequest), raw)
            return await self._answer(request, request.context, deadline(context))

    async def answer_batch(self, raw: bytes, context: Context) -> bytes:
        with self._calls.open():
            call_deadline = deadline(context)
            batch = await parsed(_read_batch, raw)
            limit = self._settings.max_batch_questions
            if not 1 <= len(batch.questions) <= limit:
                raise InvalidRequestError(
                    f"questions must be 1 to {limit} (max_batch_questions), "
                    f"got {len(batch.questions)}"
                )
            with self._models.current as model:
                answered = await model.answerer.answer_batch(
                    batch.contexts, batch.questions, model.options(batch.options), call_deadline
                )
            # Messages that are joined are one with the fields of all.
            return b"".join(
                await in_slices(
                    partial(_serialized, model), answered, _cost, Waiting(call_deadline)
                )
            )

    def answer_stream(
        self, raws: AsyncIterator[bytes], context: Context
    ) -> AsyncGenerator[pb.AnswerStreamResponse]:
        """Reads on while at most `max_stream_questions` are under way."""
        respond = partial(
            self._stream_response, contexts=StreamContexts(), deadline=deadline(context)
        )
        limit = self._settings.max_stream_questions
        return responses(raws, respond, self._calls, limit=limit, in_order=False)

    async def answer_documents(
        self, raws: AsyncIterator[bytes], context: Context
    ) -> pb.AnswerDocumentsResponse:
        """Reads on while few pieces of what it has read are under way."""
        with self._models.current as model:
            return await answer_documents(
                raws, model, self._calls, self._settings, deadline(context)
            )

    async def get_info(self, raw: bytes, _: Context) -> pb.GetInfoResponse:
        parse(pb.GetInfoRequest, raw)
        model, settings = self._models.current, self._settings
        manifest = model.bundle.manifest
        return pb.GetInfoResponse(
            bundle=pb.BundleInfo(
                source=manifest.source,
                precision=manifest.precision,
                sha256=model.bundle.sha256,
                max_seq_length=manifest.max_seq_length,
                doc_stride=manifest.doc_stride,
                max_query_length=manifest.max_query_length,
                max_answer_length=manifest.max_answer_length,
                null_score_diff_threshold=manifest.null_score_diff_threshold,
                model_version=model.version,
            ),
            limits=pb.Limits(
                max_context_length=settings.max_context_length,
                max_question_length=settings.max_question_length,
                max_top_k=settings.max_top_k,
                max_answer_length=manifest.max_seq_length_limit,
                max_seq_length=manifest.max_seq_length_limit,
                max_batch_questions=settings.max_batch_questions,
                max_message_bytes=settings.max_message_bytes,
                max_queue_tokens=settings.max_queue_tokens,
                max_windows=settings.max_windows,
                max_response_bytes=settings.max_response_bytes,
                max_inflight_bytes=settings.max_inflight_bytes,
            ),
            version=__version__,
            device=model.device,
        )

    async def _answer(
        self, request: pb.AnswerRequest, context: str, deadline: float | None
    ) -> pb.AnswerResponse:
        with self._models.current as model:
            answered = await model.answerer.answer(
                request.question, context, _options(request, model), deadline
            )
        return response(answered, model.version)

    async def _stream_response(
        self, raw: bytes, contexts: StreamContexts, deadline: float | None
    ) -> pb.AnswerStreamResponse:
        id_ = ""
        turn = contexts.turn()
        try:
            with turn:
                request = await parsed(partial(parse, pb.AnswerStreamRequest), raw)
                id_ = request.id
                text = await turn.context(request)
            with self._calls.holding(raw):
                answered = await self._answer(request.request, text, deadline)
            return pb.AnswerStreamResponse(id=id_, result=pb.Result(response=answered))
        except RequestError as error:
            return pb.AnswerStreamResponse(id=id_, result=pb.Result(failure=failure(error)))
        except Exception:
            log.exception("a question of a stream failed")
            failed = failure(RequestError(INTERNAL_ERROR))
            return pb.AnswerStreamResponse(id=id_, result=pb.Result(failure=failed))


@dataclass(frozen=True, slots=True)
class _Batch:
    """An AnswerBatchRequest without the message, which would hold its texts once more.

    questions: each a text and the index of its context. options: None where none are set.
    """

    contexts: list[str]
    questions: list[tuple[str, int]]
    options: pb.Options | None


def _read_batch(raw: bytes) -> _Batch:
    """Raises InvalidRequestError."""
    request = parse(pb.AnswerBatchRequest, raw)
    options = None
    if request.HasField("options"):
        options = pb.Options()
        options.CopyFrom(request.options)
    return _Batch(
        list(request.contexts),
        [(question.question, question.context_index) for question in request.questions],
        options,
    )


def _options(request: pb.AnswerRequest, model: Model) -> QuestionOptions:
    return model.options(request.options if request.HasField("options") else None)


def _serialized(model: Model, answered: Sequence[Answered | RequestError]) -> bytes:
    """As an AnswerBatchResponse."""
    results = [result(one, model.version) for one in answered]
    return pb.AnswerBatchResponse(results=results).SerializeToString()


def _cost(answered: Answered | RequestError) -> int:
    """In units of `slices`: messages take as long as spans, and a slice has a megabyte of text,
    since it is serialized in one piece."""
    if isinstance(answered, RequestError):
        return 3
    return sum(1 + len(answer.text) // 500 for answer in answered.prediction.answers) + 3
