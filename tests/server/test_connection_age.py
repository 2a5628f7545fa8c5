from __future__ import annotations

import asyncio

import grpc

from electra_qa.bundle import Bundle
from electra_qa.client.messages import request_message
from electra_qa.rpc.electra_qa_pb2_grpc import QuestionAnsweringStub
from electra_qa.server.lifecycle import running
from electra_qa.server.settings import ServerSettings

from .conftest import GatedEngine

READY = grpc.ChannelConnectivity.READY


async def test_an_old_connection_is_ended_and_its_calls_end_well(
    bundle: Bundle, engine: GatedEngine
) -> None:
    settings = ServerSettings(address="127.0.0.1:0", max_connection_age_s=1)
    async with (
        running(bundle, engine, settings) as address,
        grpc.aio.insecure_channel(address) as channel,
        asyncio.timeout(120),
    ):
        engine.batches.clear()
        engine.open.clear()
        stub: QuestionAnsweringStub = QuestionAnsweringStub(channel)
        request = request_message("Who came?", "Rollo came from Denmark.", {})
        asked = asyncio.ensure_future(stub.Answer(request))
        await engine.taken()
        while channel.get_state() is READY:
            await channel.wait_for_state_change(READY)
        engine.open.set()
        assert (await asked).windows == 1
        # The next call connects anew.
        assert (await stub.Answer(request)).windows == 1
