"""What runs around Ray's handling of a call, in a real gRPC server, with Ray's part played here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

pytest.importorskip("ray", reason="needs ray: pip install 'electra-qa[ray]'")

from electra_qa.client import (
    AsyncClient,
    ElectraQAError,
    InternalError,
    ResourceExhaustedError,
    UnavailableError,
)
from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.server.ray.messages import Call, EndedError, error_reply, message_reply
from electra_qa.server.ray.proxy import add_question_answering

ByRay = Callable[[Any, Any], Awaitable[bytes]]
SECRET = "/a/path/of/the/server"


async def questions() -> AsyncIterator[tuple[str, tuple[str, str]]]:
    yield "1", ("Who?", "Rome.")


class Proxy:
    """As Ray's server does: its own functions take the place of the handlers'."""

    def __init__(self, by_ray: ByRay) -> None:
        self._by_ray = by_ray
        self.handlers: Any = None

    def add_generic_rpc_handlers(self, handlers: tuple[Any]) -> None:
        (self.handlers,) = handlers
        self.handlers._method_handlers = {
            path: method._replace(
                response_serializer=None,
                unary_unary=self._by_ray,
                stream_unary=self._by_ray,
                stream_stream=self._stream,
            )
            for path, method in self.handlers._method_handlers.items()
        }

    async def _stream(self, calls: AsyncIterator[Any], context: Any) -> AsyncIterator[bytes]:
        if reply := await self._by_ray(calls, context):
            yield reply


@asynccontextmanager
async def proxied(by_ray: ByRay) -> AsyncIterator[AsyncClient]:
    proxy = Proxy(by_ray)
    add_question_answering(None, proxy)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((proxy.handlers,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with AsyncClient(f"127.0.0.1:{port}") as client:
            yield client
    finally:
        await server.stop(None)


async def test_message_and_deadline_go_to_the_replica() -> None:
    calls: list[Call] = []

    async def by_ray(call: Call, _: Any) -> bytes:
        calls.append(call)
        response = pb.AnswerResponse(model_version="1").SerializeToString()
        return message_reply(response).SerializeToString()

    async with proxied(by_ray) as client:
        await client.answer("Who?", "Rome.", timeout=50)
        await client.answer("Who?", "Rome.", timeout=float("inf"))
    assert pb.AnswerRequest.FromString(calls[0].raw).question == "Who?"
    assert calls[0].remaining_s is not None
    assert 40 < calls[0].remaining_s < 51  # gRPC rounds up
    assert calls[1].remaining_s is None


async def test_the_deadline_of_a_stream_comes_before_its_messages() -> None:
    came: list[Any] = []

    async def by_ray(calls: AsyncIterator[Any], _: Any) -> bytes:
        came.extend([one async for one in calls])
        return message_reply(b"").SerializeToString()

    async with proxied(by_ray) as client:
        await client.answer_documents("Who?", ["Rome.", "Paris."], timeout=50)
        async for _ in client.answer_stream(questions()):
            pass
    assert [type(one) for one in came] == [Call, bytes, Call, bytes]
    assert came[0].raw == b""
    assert 40 < came[0].remaining_s < 51  # gRPC rounds up
    assert came[2].remaining_s is None


async def test_an_error_of_the_replica_is_the_callers() -> None:
    async def by_ray(*_: Any) -> bytes:
        return error_reply(EndedError(grpc.StatusCode.INTERNAL, "no luck")).SerializeToString()

    async with proxied(by_ray) as client:
        with pytest.raises(InternalError, match="no luck"):
            await client.answer("Who?", "Rome.")
        with pytest.raises(InternalError, match="no luck"):
            await anext(client.answer_stream(questions()))


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        # A replica that is gone.
        (grpc.StatusCode.INTERNAL, UnavailableError, "is gone"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, ResourceExhaustedError, "replicas are busy"),
        (grpc.StatusCode.NOT_FOUND, UnavailableError, "no application takes calls here yet"),
        (grpc.StatusCode.UNAVAILABLE, UnavailableError, "is gone"),
    ],
)
async def test_what_ray_says_of_its_own_is_told_in_our_words(
    code: grpc.StatusCode, kind: type[ElectraQAError], said: str
) -> None:
    async def by_ray(_: Any, context: Any) -> bytes:
        context.set_code(code)
        context.set_details(f"Traceback: {SECRET}")
        return b""

    async with proxied(by_ray) as client:
        with pytest.raises(kind, match=said) as failed:
            await client.answer("Who?", "Rome.")
        assert SECRET not in str(failed.value)
        if isinstance(failed.value, ResourceExhaustedError):
            assert failed.value.retry_after_s
        with pytest.raises(kind, match=said):
            await anext(client.answer_stream(questions()))
