"""What gRPC's own tools and defaults ask of a server: reflection, health, keep-alive, gzip."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from electra_qa.bundle import Bundle
from electra_qa.client import AsyncClient, ResourceExhaustedError
from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.rpc import open_inference_grpc_pb2 as inference_pb
from electra_qa.rpc.open_inference_grpc_pb2_grpc import GRPCInferenceServiceStub
from electra_qa.server.lifecycle import SERVICES, running
from electra_qa.server.settings import ServerSettings

from ..addresses import free_address
from .conftest import GatedEngine, Serving

CONTEXT = "Rome was founded by Romulus in 753 BC, says the legend."


def reflected_call(address: str, method: str, message: dict[str, Any]) -> Any:
    """What grpcurl does: learns the messages from the server and makes them from JSON."""
    service, _, name = method.partition("/")
    with grpc.insecure_channel(address) as channel:
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        described = pool.FindServiceByName(service).FindMethodByName(name)
        request = ParseDict(message, GetMessageClass(described.input_type)())
        response = GetMessageClass(described.output_type)
        call = channel.unary_unary(
            f"/{method}",
            request_serializer=lambda sent: sent.SerializeToString(),
            response_deserializer=response.FromString,
        )
        return MessageToDict(call(request, timeout=30))


async def test_every_service_can_be_called_by_reflection_alone(serving: Serving) -> None:
    options = {"null_score_diff_threshold": 1e9}
    tensors = [
        {"name": name, "datatype": "BYTES", "shape": [1], "contents": {"bytesContents": [text]}}
        for name, text in (("question", "d2hvPw=="), ("context", "WmV1cw=="))
    ]
    async with serving() as client:

        def call(method: str, message: Any) -> Any:
            return asyncio.to_thread(reflected_call, client.address, method, message)

        question = {"question": "who?", "context": "Zeus", "options": options}
        answer = await call("electra_qa.v1.QuestionAnswering/Answer", question)
        inference = {
            "model_name": "electra-qa",
            "inputs": tensors,
            "outputs": [{"name": "answer"}],
            "parameters": {"null_score_diff_threshold": {"double_param": 1e9}},
        }
        infer = await call("inference.GRPCInferenceService/ModelInfer", inference)
        health = await call("grpc.health.v1.Health/Check", {"service": SERVICES[1]})
        listed = await asyncio.to_thread(_services, client.address)
    assert answer["answers"][0]["text"] == "Zeus"
    assert infer["outputs"][0]["contents"] == {"bytesContents": ["WmV1cw=="]}
    assert health == {"status": "SERVING"}
    assert set(listed) == {
        "electra_qa.v1.QuestionAnswering",
        "inference.GRPCInferenceService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


def _services(address: str) -> list[str]:
    with grpc.insecure_channel(address) as channel:
        services: list[str] = list(ProtoReflectionDescriptorDatabase(channel).get_services())
        return services


async def test_nothing_is_ready_before_the_engine_is_warm(
    bundle: Bundle, engine: GatedEngine
) -> None:
    """A free port is taken first: while it warms up the server says its address to nobody."""
    address = free_address()
    engine.open.clear()
    server = running(bundle, engine, ServerSettings(address=address))
    starting = asyncio.create_task(server.__aenter__())
    await engine.taken()
    async with grpc.aio.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        inference: Any = GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]

        async def said() -> tuple[set[int], set[bool]]:
            requests = [health_pb2.HealthCheckRequest(service=name) for name in ("", *SERVICES)]
            statuses = {(await health.Check(request)).status for request in requests}
            server_ready = await inference.ServerReady(inference_pb.ServerReadyRequest())
            model = inference_pb.ModelReadyRequest(name="electra-qa")
            model_ready = await inference.ModelReady(model)
            assert (await inference.ServerLive(inference_pb.ServerLiveRequest())).live
            return statuses, {server_ready.ready, model_ready.ready}

        cold = await said()
        engine.open.set()
        await starting
        warm = await said()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health.Check(health_pb2.HealthCheckRequest(service="no.such.Service"))
        await server.__aexit__(None, None, None)
    assert cold == ({health_pb2.HealthCheckResponse.NOT_SERVING}, {False})
    assert warm == ({health_pb2.HealthCheckResponse.SERVING}, {True})
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


# gRPC's client does not ping more often than once a second, whatever it is told.
PINGING = [
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.use_local_subchannel_pool", 1),
]


async def test_clients_may_ping_at_the_interval_with_and_without_calls(
    serving: Serving, engine: GatedEngine
) -> None:
    async with (
        serving(min_ping_interval_s=0.5) as client,
        grpc.aio.insecure_channel(client.address, options=PINGING) as idle,
        grpc.aio.insecure_channel(client.address, options=PINGING) as calling,
    ):
        await idle.channel_ready()
        engine.open.clear()
        call = asyncio.ensure_future(_ask(calling))
        await asyncio.sleep(6)  # twice as long as it takes to cut off those of the next test
        assert idle.get_state() is grpc.ChannelConnectivity.READY
        engine.open.set()
        assert pb.AnswerResponse.FromString(await call).answers


async def test_a_client_that_pings_more_often_is_cut_off(
    serving: Serving, engine: GatedEngine
) -> None:
    async with (
        serving(min_ping_interval_s=10) as client,
        grpc.aio.insecure_channel(client.address, options=PINGING) as channel,
    ):
        engine.open.clear()
        with pytest.raises(grpc.aio.AioRpcError, match=r"(?i)too.many.pings"):
            await _ask(channel)
        engine.open.set()


async def _ask(channel: grpc.aio.Channel) -> bytes:
    request = pb.AnswerRequest(question="who?", context=CONTEXT).SerializeToString()
    call = channel.unary_unary("/electra_qa.v1.QuestionAnswering/Answer")
    response: bytes = await call(request, timeout=25)
    return response


@dataclass
class Tap:
    """A proxy between client and server that counts what the server sends, in bytes."""

    address: str = ""
    received: int = 0


@asynccontextmanager
async def tapped(address: str) -> AsyncIterator[Tap]:
    tap = Tap()
    host, _, port = address.rpartition(":")

    async def carry(
        source: asyncio.StreamReader, target: asyncio.StreamWriter, *, count: bool
    ) -> None:
        while data := await source.read(65536):
            tap.received += len(data) * count
            target.write(data)
            await target.drain()
        target.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection(host, int(port))
        await asyncio.gather(
            carry(reader, forth, count=False),
            carry(back, writer, count=True),
            return_exceptions=True,
        )

    proxy = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with proxy:
        tap.address = f"127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
        yield tap


async def test_compressed_questions_are_answered_compressed_where_that_is_set(
    serving: Serving,
) -> None:
    received = {}
    questions = pb.AnswerBatchRequest(
        contexts=[CONTEXT * 3],
        questions=[pb.BatchQuestion(question="who?")] * 200,
        options=pb.Options(top_k=20),
    )
    for compression in ("none", "gzip"):
        async with (
            serving(compression=compression) as client,
            tapped(client.address) as tap,
            grpc.aio.insecure_channel(tap.address, compression=grpc.Compression.Gzip) as channel,
        ):
            call = channel.unary_unary("/electra_qa.v1.QuestionAnswering/AnswerBatch")
            response = await call(questions.SerializeToString())
            assert len(pb.AnswerBatchResponse.FromString(response).results) == 200
            received[compression] = tap.received
            # One who does not compress is understood as well.
            async with AsyncClient(client.address) as plain:
                assert (await plain.answer("who?", CONTEXT)).answers
    assert len(response) <= received["none"]
    assert received["gzip"] < len(response) / 3


async def test_a_compressed_message_is_measured_as_it_unpacks(serving: Serving) -> None:
    request = pb.AnswerRequest(question="who?", context="a " * 100_000).SerializeToString()
    async with (
        serving(max_message_bytes=65536) as client,
        grpc.aio.insecure_channel(client.address, compression=grpc.Compression.Gzip) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError, match="larger than max") as caught:
            await channel.unary_unary("/electra_qa.v1.QuestionAnswering/Answer")(request)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(ResourceExhaustedError):
            await client.answer("who?", "a " * 100_000)
