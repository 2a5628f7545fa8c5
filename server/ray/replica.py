"""A replica: a bundle, its engine and the services, with Ray's proxy in gRPC's place."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc
import ray
from grpc_health.v1 import health_pb2

from electra_qa.engines import EngineSettings

from ..front.calls import Calls
from ..front.health import Health
from ..front.model import EngineParts
from ..front.models import Models, warmed_up
from ..front.service import SERVICE as QUESTIONS
from ..front.service import QuestionAnsweringService
from ..loading import load
from ..observe.metrics import Metrics
from ..open_inference.service import SERVICE as INFERENCE
from ..open_inference.service import InferenceProtocolService
from ..threads import on_own_thread
from .arguments import Arguments
from .autoscaling import Load
from .exported import Exported
from .messages import Call, EndedError, ReplicaContext, Reply, error_reply, message_reply
from .methods import METHODS, Method

log = logging.getLogger(__name__)

# Between two looks of a health watch, in seconds.
WATCH_S = 0.5


class Replica:
    """Ray makes one on an event loop of its own, and calls the methods of `METHODS` by name."""

    async def __init__(self, arguments: Arguments) -> None:  # type: ignore[misc]
        settings = arguments.settings
        parts = await on_own_thread(_loaded, arguments, _cpus())
        self._max_message_bytes = settings.max_message_bytes
        self._metrics = Metrics()
        self._calls = Calls(self._metrics, settings.max_inflight_bytes)
        self._health = Health((QUESTIONS, INFERENCE))
        self._models = Models(parts, None, settings, self._metrics, None, self._tell_health)
        self._load = Load(self._metrics.registry)
        self._exported = Exported(self._metrics.registry)
        question_answering = QuestionAnsweringService(self._models, settings, self._calls)
        inference = InferenceProtocolService(self._models, settings, self._calls, self._health)
        collected = _Collected()
        await self._health.add_to(collected)  # type: ignore[arg-type]
        collected.add_generic_rpc_handlers((question_answering.handler(), inference.handler()))
        self._handlers = {method.name: collected.handler(method) for method in METHODS}
        await self._tell_health()

    async def _tell_health(self) -> None:
        await self._health.set_ready(self._models.current.works)

    def check_health(self) -> None:
        """Raises RuntimeError where the engine fails on everything: Ray makes a new replica."""
        if not self._models.current.works:
            raise RuntimeError("the engine fails on everything")

    def record_autoscaling_stats(self) -> dict[str, float]:
        """For `autoscaling.ByTokens`."""
        return self._load.since_last_time()

    async def __del__(self) -> None:
        """Ray waits for it, after the last call."""
        self._exported.close()
        await self._models.close()

    async def one_for_one(self, name: str, call: Call) -> Reply:
        context = ReplicaContext(call.remaining_s)
        handler = self._handlers[name]
        try:
            self._check_size(call.raw)
            return _reply(handler, await handler.unary_unary(_read(handler, call.raw), context))
        except EndedError as error:
            return error_reply(error)

    async def one_for_many(self, name: str, stream: AsyncIterator[Any]) -> Reply:
        handler = self._handlers[name]
        try:
            context = await _context(stream)
            return _reply(handler, await handler.stream_unary(self._raws(stream), context))
        except EndedError as error:
            return error_reply(error)

    async def many_for_many(self, name: str, stream: AsyncIterator[Any]) -> AsyncGenerator[Reply]:
        handler = self._handlers[name]
        try:
            context = await _context(stream)
            responses = handler.stream_stream(self._raws(stream), context)
            async with aclosing(responses):
                async for response in responses:
                    yield _reply(handler, response)
        except EndedError as error:
            yield error_reply(error)

    async def many_for_one(self, name: str, call: Call) -> AsyncGenerator[Reply]:
        """Of health alone: a watch, which ends once it has said SERVING, so that nobody who holds
        one keeps a replica from ending."""
        assert name == "Watch"
        serving = health_pb2.HealthCheckResponse(status="SERVING")
        said = b""
        while said != serving.SerializeToString():
            reply = await self.one_for_one("Check", call)
            now = reply.SerializeToString()[1:]
            if now != said:
                yield reply
            said = now
            await asyncio.sleep(0 if said == serving.SerializeToString() else WATCH_S)

    async def _raws(self, stream: AsyncIterator[Any]) -> AsyncIterator[bytes]:
        async for raw in stream:
            self._check_size(raw)
            yield raw

    def _check_size(self, raw: bytes) -> None:
        """As gRPC's server does, in its words."""
        if len(raw) > self._max_message_bytes:
            raise EndedError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"SERVER: Received message larger than max ({len(raw)} vs. "
                f"{self._max_message_bytes})",
            )


def _named(method: Method) -> Callable[..., Any]:
    """A method of `Replica`. Ray tells generators from others by looking at the function."""
    name = method.name
    if method.reads and method.writes:

        async def many_for_many(self: Replica, stream: AsyncIterator[Any]) -> AsyncGenerator[Reply]:
            async with aclosing(self.many_for_many(name, stream)) as replies:
                async for reply in replies:
                    yield reply

        return many_for_many
    if method.writes:

        async def many_for_one(self: Replica, call: Call) -> AsyncGenerator[Reply]:
            async with aclosing(self.many_for_one(name, call)) as replies:
                async for reply in replies:
                    yield reply

        return many_for_one
    if method.reads:

        async def one_for_many(self: Replica, stream: AsyncIterator[Any]) -> Reply:
            return await self.one_for_many(name, stream)

        return one_for_many

    async def one_for_one(self: Replica, call: Call) -> Reply:
        return await self.one_for_one(name, call)

    return one_for_one


for _method in METHODS:
    setattr(Replica, _method.name, _named(_method))


@dataclass(frozen=True, slots=True)
class _CallDetails:
    method: str
    invocation_metadata: tuple[()] = ()


class _Collected:
    """Takes the handlers of services as a gRPC server does."""

    def __init__(self) -> None:
        self._handlers: list[grpc.GenericRpcHandler] = []

    def add_generic_rpc_handlers(self, handlers: tuple[grpc.GenericRpcHandler, ...]) -> None:
        self._handlers.extend(handlers)

    def add_registered_method_handlers(self, *_: object) -> None:
        """Those of `add_generic_rpc_handlers` are the same."""

    def handler(self, method: Method) -> Any:
        details: Any = _CallDetails(method.path)
        found = (handlers.service(details) for handlers in self._handlers)
        return next(handler for handler in found if handler is not None)


def _read(handler: Any, raw: bytes) -> Any:
    return raw if handler.request_deserializer is None else handler.request_deserializer(raw)


def _reply(handler: Any, response: Any) -> Reply:
    return message_reply(handler.response_serializer(response))


async def _context(stream: AsyncIterator[Any]) -> ReplicaContext:
    """Of the first message, which the proxy puts before the caller's."""
    first = await anext(stream, None)
    return ReplicaContext(first.remaining_s if isinstance(first, Call) else 0.0)


def _cpus() -> int:
    """That Ray gives this replica; the engine has no more threads than these."""
    assigned = ray.get_runtime_context().get_assigned_resources()
    return max(1, int(assigned.get("CPU", 1)))


def _loaded(arguments: Arguments, cpus: int) -> EngineParts:
    """Raises BundleError, EngineError or ValueError."""
    settings = arguments.settings
    bundle, engine = load(
        arguments.choice.path(arguments.device, progress=False),
        EngineSettings(
            arguments.device,
            arguments.threads or cpus,
            arguments.streams,
            settings.max_batch_tokens,
        ),
    )
    return warmed_up(bundle, engine, settings)
