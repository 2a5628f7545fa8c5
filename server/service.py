"""The `QuestionAnswering` gRPC service: messages in, messages out, errors to statuses."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from electra_qa import __version__
from electra_qa.bundle import Bundle
from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.spans import Rules

from .answerer import Answered, Answerer
from .errors import InvalidRequestError, RequestError, ShuttingDownError
from .metrics import Metrics
from .options import QuestionOptions, max_top_k, parse_options
from .settings import ServerSettings

log = logging.getLogger(__name__)

SERVICE = pb.DESCRIPTOR.services_by_name["QuestionAnswering"].full_name

Context = grpc.aio.ServicerContext[bytes, Message]
Request = TypeVar("Request", bound=Message)


class QuestionAnsweringService:
    """Requests come as bytes and are parsed here, so that a message that can't be parsed has a
    status of its own instead of gRPC's own way of failing."""

    def __init__(
        self,
        answerer: Answerer,
        bundle: Bundle,
        settings: ServerSettings,
        device: str,
        metrics: Metrics,
    ) -> None:
        self._answerer = answerer
        self._bundle = bundle
        self._settings = settings
        self._device = device
        self._metrics = metrics
        self._default_options = parse_options(pb.Options(), bundle.manifest)
        self._draining = asyncio.Event()
        self._open_calls = 0
        self._idle = asyncio.Event()
        metrics.open_calls.set_function(lambda: self._open_calls)

    async def drain(self, timeout_s: float) -> bool:
        """Take nothing new and wait for what was accepted. False if it took over `timeout_s`."""
        self._draining.set()
        if not self._open_calls:
            return True
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    @contextmanager
    def _counted(self, method: str) -> Iterator[None]:
        """Writes down how a call ended and how long it took."""
        started = time.perf_counter()
        code = "OK"
        try:
            yield
        except RequestError as error:
            code = error.code.name
            raise
        except (asyncio.CancelledError, GeneratorExit):
            code = "CANCELLED"
            raise
        except Exception:
            code = "INTERNAL"
            raise
        finally:
            self._metrics.call_ended(method, code, time.perf_counter() - started)

    @contextmanager
    def _open(self) -> Iterator[None]:
        """Counts a call as open. Raises ShuttingDownError once the server drains."""
        if self._draining.is_set():
            raise ShuttingDownError(SHUTTING_DOWN)
        self._open_calls += 1
        try:
            yield
        finally:
            self._open_calls -= 1
            if self._draining.is_set() and not self._open_calls:
                self._idle.set()

    def handler(self) -> grpc.GenericRpcHandler:
        unary: dict[str, Callable[[bytes, Context], Awaitable[Message]]] = {
            "Answer": self.answer,
            "AnswerBatch": self.answer_batch,
            "GetInfo": self.get_info,
        }
        handlers: dict[str, Any] = {
            name: grpc.unary_unary_rpc_method_handler(
                self._guarded(name, method), response_serializer=_serialize
            )
            for name, method in unary.items()
        }
        handlers["AnswerStream"] = grpc.stream_stream_rpc_method_handler(
            self.answer_stream, response_serializer=_serialize
        )
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    def _guarded(
        self, name: str, method: Callable[[bytes, Context], Awaitable[Message]]
    ) -> Callable[[bytes, Context], Awaitable[Message]]:
        """Errors become statuses; of one that nobody foresaw, nothing goes over the wire."""

        async def guarded(raw: bytes, context: Context) -> Message:
            try:
                with self._counted(name):
                    return await method(raw, context)
            except RequestError as error:
                await _abort(context, error)
            except Exception:
                log.exception("a call failed")
                await _abort(context, RequestError(INTERNAL_ERROR))

        return guarded

    async def answer(self, raw: bytes, context: Context) -> pb.AnswerResponse:
        with self._open():
            return await self._answer(_parse(pb.AnswerRequest, raw), _deadline(context))

    async def answer_batch(self, raw: bytes, context: Context) -> pb.AnswerBatchResponse:
        with self._open():
            request = _parse(pb.AnswerBatchRequest, raw)
            limit = self._settings.max_batch_questions
            if not 1 <= len(request.questions) <= limit:
                raise InvalidRequestError(
                    f"questions must be 1 to {limit} (max_batch_questions), "
                    f"got {len(request.questions)}"
                )
            answered = await self._answerer.answer_batch(
                list(request.contexts),
                [(question.question, question.context_index) for question in request.questions],
                self._options(request),
                _deadline(context),
            )
            return pb.AnswerBatchResponse(results=[_result(one) for one in answered])

    async def answer_stream(
        self, raws: AsyncIterator[bytes], context: Context
    ) -> AsyncIterator[pb.AnswerStreamResponse]:
        """Reads on while at most `max_stream_questions` are under way."""
        try:
            with self._counted("AnswerStream"), self._open():
                async with aclosing(self._answers(raws, _deadline(context))) as answers:
                    async for answer in answers:
                        yield answer
        except ShuttingDownError as error:
            await _abort(context, error)
        except Exception:
            log.exception("a stream failed")
            await _abort(context, RequestError(INTERNAL_ERROR))

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
                    while (await room.acquire()) and not self._draining.is_set():
                        raw = await self._next(raws)
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
        _parse(pb.GetInfoRequest, raw)
        manifest, settings = self._bundle.manifest, self._settings
        return pb.GetInfoResponse(
            bundle=pb.BundleInfo(
                source=manifest.source,
                precision=manifest.precision,
                sha256=self._bundle.sha256,
                max_seq_length=manifest.max_seq_length,
                doc_stride=manifest.doc_stride,
                max_query_length=manifest.max_query_length,
                max_answer_length=manifest.max_answer_length,
                null_score_diff_threshold=manifest.null_score_diff_threshold,
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
            device=self._device,
        )

    async def _answer(self, request: pb.AnswerRequest, deadline: float | None) -> pb.AnswerResponse:
        options = self._options(request)
        answered = await self._answerer.answer(request.question, request.context, options, deadline)
        return _response(answered)

    def _options(self, request: pb.AnswerRequest | pb.AnswerBatchRequest) -> QuestionOptions:
        if not request.HasField("options"):
            return self._default_options
        return parse_options(request.options, self._bundle.manifest)

    async def _stream_response(self, raw: bytes, deadline: float | None) -> pb.AnswerStreamResponse:
        id_ = ""
        try:
            request = _parse(pb.AnswerStreamRequest, raw)
            id_ = request.id
            response = await self._answer(request.request, deadline)
            return pb.AnswerStreamResponse(id=id_, result=pb.Result(response=response))
        except RequestError as error:
            return pb.AnswerStreamResponse(id=id_, result=_failure(error))
        except Exception:
            log.exception("a question of a stream failed")
            return pb.AnswerStreamResponse(id=id_, result=_failure(RequestError(INTERNAL_ERROR)))

    async def _next(self, raws: AsyncIterator[bytes]) -> bytes | object | None:
        """The next message of a stream; END at its end, None when the server is to stop."""
        following = asyncio.ensure_future(anext(raws, END))
        draining = asyncio.create_task(self._draining.wait())
        try:
            await asyncio.wait((following, draining), return_when=asyncio.FIRST_COMPLETED)
            return following.result() if following.done() else None
        finally:
            following.cancel()
            draining.cancel()


END = object()
SHUTTING_DOWN = "the server is shutting down"
INTERNAL_ERROR = "internal error; the server's log has the reason"


async def _abort(context: Context, error: RequestError) -> NoReturn:
    await context.abort(error.code, str(error), _details(error))
    raise AssertionError("abort does not return")


def _details(error: RequestError) -> tuple[tuple[str, str | bytes], ...]:
    """The error as trailing metadata, in google.rpc's form, where it says when to try again."""
    if error.retry_delay_s is None:
        return ()
    status = Status(code=error.code.value[0], message=str(error))
    status.details.add().Pack(RetryInfo(retry_delay=_duration(error.retry_delay_s)))
    metadata: tuple[tuple[str, str | bytes], ...] = rpc_status.to_status(status).trailing_metadata
    return metadata


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromMilliseconds(round(seconds * 1e3))
    return duration


def _parse(kind: type[Request], raw: bytes) -> Request:
    try:
        return kind.FromString(raw)
    except DecodeError as error:
        raise InvalidRequestError(
            f"the message is not a {kind.DESCRIPTOR.full_name}, or a text in it is not UTF-8"
        ) from error


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def _deadline(context: Context) -> float | None:
    remaining = context.time_remaining()
    return None if remaining is None else asyncio.get_running_loop().time() + remaining


def _result(answered: Answered | RequestError) -> pb.Result:
    if isinstance(answered, RequestError):
        return _failure(answered)
    return pb.Result(response=_response(answered))


def _failure(error: RequestError) -> pb.Result:
    delay = error.retry_delay_s
    return pb.Result(
        failure=pb.Failure(
            code=error.code.value[0],
            message=str(error),
            retry_delay=None if delay is None else _duration(delay),
        )
    )


def _response(answered: Answered) -> pb.AnswerResponse:
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
    )
