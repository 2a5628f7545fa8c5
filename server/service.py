"""The `QuestionAnswering` gRPC service: messages in, messages out, errors to statuses."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
from google.protobuf.message import Message

from electra_qa import __version__
from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.spans import Rules

from .answerer import Answered
from .calls import (
    END,
    INTERNAL_ERROR,
    Calls,
    Context,
    abort,
    deadline,
    duration,
    parse,
    serialize,
)
from .errors import SHUTTING_DOWN, InvalidRequestError, RequestError, ShuttingDownError
from .model import Model
from .models import Models
from .options import QuestionOptions, max_top_k
from .settings import ServerSettings

log = logging.getLogger(__name__)

SERVICE = pb.DESCRIPTOR.services_by_name["QuestionAnswering"].full_name


class QuestionAnsweringService:
    """Requests come as bytes and are parsed here, so that a message that can't be parsed has a
    status of its own instead of gRPC's own way of failing."""

    def __init__(self, models: Models, settings: ServerSettings, calls: Calls) -> None:
        self._models = models
        self._settings = settings
        self._calls = calls

    def handler(self) -> grpc.GenericRpcHandler:
        unary: dict[str, Callable[[bytes, Context], Awaitable[Message]]] = {
            "Answer": self.answer,
            "AnswerBatch": self.answer_batch,
            "GetInfo": self.get_info,
        }
        handlers: dict[str, Any] = {
            name: grpc.unary_unary_rpc_method_handler(
                self._calls.guarded(name, method), response_serializer=serialize
            )
            for name, method in unary.items()
        }
        handlers["AnswerStream"] = grpc.stream_stream_rpc_method_handler(
            self.answer_stream, response_serializer=serialize
        )
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    async def answer(self, raw: bytes, context: Context) -> pb.AnswerResponse:
        with self._calls.open():
            return await self._answer(parse(pb.AnswerRequest, raw), deadline(context))

    async def answer_batch(self, raw: bytes, context: Context) -> pb.AnswerBatchResponse:
        with self._calls.open():
            request = parse(pb.AnswerBatchRequest, raw)
            limit = self._settings.max_batch_questions
            if not 1 <= len(request.questions) <= limit:
                raise InvalidRequestError(
                    f"questions must be 1 to {limit} (max_batch_questions), "
                    f"got {len(request.questions)}"
                )
            with self._models.current as model:
                answered = await model.answerer.answer_batch(
                    list(request.contexts),
                    [(question.question, question.context_index) for question in request.questions],
                    _options(request, model),
                    deadline(context),
                )
            return pb.AnswerBatchResponse(results=[_result(one, model) for one in answered])

    async def answer_stream(
        self, raws: AsyncIterator[bytes], context: Context
    ) -> AsyncIterator[pb.AnswerStreamResponse]:
        """Reads on while at most `max_stream_questions` are under way."""
        try:
            with self._calls.counted("AnswerStream"), self._calls.open():
                async with aclosing(self._answers(raws, deadline(context))) as answers:
                    async for answer in answers:
                        yield answer
        except ShuttingDownError as error:
            await abort(context, error)
        except Exception:
            log.exception("a stream failed")
            await abort(context, RequestError(INTERNAL_ERROR))

    async def _answers(
        self, raws: AsyncIterator[bytes], deadline: float | None
    ) -> AsyncGenerator[pb.AnswerStreamResponse]:
        """Raises ShuttingDownError, after its answers, where draining cut the reading short."""
        room = asyncio.Semaphore(self._settings.max_stream_questions)
        ready: asyncio.Queue[pb.AnswerStreamResponse | None] = asyncio.Queue()

        async def answer_one(raw: bytes) -> None:
            ready.put_nowait(await self._stream_response(raw, deadline))

        async def read_all() -> bool:
            try:
                async with asyncio.TaskGroup() as tasks:
                    while (await room.acquire()) and not self._calls.draining:
                        raw = await self._calls.next_message(raws)
                        if raw is END:
                            return True
                        if isinstance(raw, bytes):
                            tasks.create_task(answer_one(raw))
                return False
            finally:
                ready.put_nowait(None)

        reader = asyncio.create_task(read_all())
        try:
            while (response := await ready.get()) is not None:
                yield response
                room.release()
            if not await reader:
                raise ShuttingDownError(SHUTTING_DOWN)
        finally:
            reader.cancel()

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
                max_top_k=max_top_k(manifest.n_best_size, Rules.RUN_SQUAD, False),
                max_answer_length=manifest.max_answer_length_limit,
                max_seq_length=manifest.max_seq_length_limit,
                max_batch_questions=settings.max_batch_questions,
                max_message_bytes=settings.max_message_bytes,
                max_queue_tokens=settings.max_queue_tokens,
                max_windows=settings.max_windows,
            ),
            version=__version__,
            device=model.device,
        )

    async def _answer(self, request: pb.AnswerRequest, deadline: float | None) -> pb.AnswerResponse:
        with self._models.current as model:
            answered = await model.answerer.answer(
                request.question, request.context, _options(request, model), deadline
            )
        return _response(answered, model)

    async def _stream_response(self, raw: bytes, deadline: float | None) -> pb.AnswerStreamResponse:
        id_ = ""
        try:
            request = parse(pb.AnswerStreamRequest, raw)
            id_ = request.id
            response = await self._answer(request.request, deadline)
            return pb.AnswerStreamResponse(id=id_, result=pb.Result(response=response))
        except RequestError as error:
            return pb.AnswerStreamResponse(id=id_, result=_failure(error))
        except Exception:
            log.exception("a question of a stream failed")
            return pb.AnswerStreamResponse(id=id_, result=_failure(RequestError(INTERNAL_ERROR)))


def _options(request: pb.AnswerRequest | pb.AnswerBatchRequest, model: Model) -> QuestionOptions:
    return model.options(request.options if request.HasField("options") else None)


def _result(answered: Answered | RequestError, model: Model) -> pb.Result:
    if isinstance(answered, RequestError):
        return _failure(answered)
    return pb.Result(response=_response(answered, model))


def _failure(error: RequestError) -> pb.Result:
    delay = error.retry_delay_s
    return pb.Result(
        failure=pb.Failure(
            code=error.code.value[0],
            message=str(error),
            retry_delay=None if delay is None else duration(delay),
        )
    )


def _response(answered: Answered, model: Model) -> pb.AnswerResponse:
    prediction = answered.prediction
    return pb.AnswerResponse(
        answers=[
            pb.Answer(
                text=answer.text,
                start=answer.start,
                end=answer.end,
                score=answer.score,
                start_logit=answer.start_logit,
                end_logit=answer.end_logit,
            )
            for answer in prediction.answers
        ],
        is_impossible=prediction.is_impossible,
        null_score=prediction.null_score,
        null_score_diff=prediction.null_score_diff,
        null_probability=prediction.null_probability,
        windows=answered.windows,
        timing=pb.Timing(queue_ms=answered.queue_s * 1e3, engine_ms=answered.engine_s * 1e3),
        model_version=model.version,
    )
