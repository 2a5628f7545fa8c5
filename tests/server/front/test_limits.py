"""What one client may take up of a server. The limits of a message are in test_service.py."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.rpc.electra_qa_pb2_grpc import QuestionAnsweringStub

from ..conftest import GatedEngine, Serving

CONTEXT = "Rome was founded by Romulus in 753 BC, says the legend."
REQUEST = pb.AnswerRequest(question="who?", context=CONTEXT)


def connection(address: str) -> grpc.Channel:
    """A connection of its own. (Not grpc.aio's: its closed channels keep theirs until Python
    collects their calls, which lie in a reference cycle.)"""
    return grpc.insecure_channel(
        address, [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    )


async def ask(channel: grpc.Channel) -> None:
    await asyncio.to_thread(QuestionAnsweringStub(channel).Answer, REQUEST, timeout=30)


async def test_connections_over_the_limit_are_closed_and_a_closed_one_makes_room(
    serving: Serving,
) -> None:
    async with serving(max_connections=3) as client:
        await client.info()
        first, second = connection(client.address), connection(client.address)
        await ask(first)
        await ask(second)
        with connection(client.address) as over, pytest.raises(grpc.RpcError) as caught:
            await ask(over)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        await client.answer("who?", CONTEXT)
        first.close()
        async with asyncio.timeout(30):
            while True:
                with connection(client.address) as one_more:
                    try:
                        await ask(one_more)
                        break
                    except grpc.RpcError as error:
                        if error.code() is not grpc.StatusCode.UNAVAILABLE:
                            raise
                        await asyncio.sleep(0.05)
        second.close()


async def test_calls_over_the_limit_of_a_connection_wait_with_the_client(
    serving: Serving, engine: GatedEngine
) -> None:
    async with serving(max_concurrent_streams=2) as client:
        await client.info()  # the client knows the limit once the connection stands
        engine.open.clear()
        calls = [asyncio.create_task(client.answer(f"who {n}?", CONTEXT)) for n in range(5)]
        await engine.taken()
        await asyncio.sleep(0.3)
        engine.open.set()
        await asyncio.gather(*calls)
        # One was with the engine. Had all the others waited there too, they were the next batch.
        assert sum(len(batch.input_ids) for batch in engine.batches) == 5
        assert max(len(batch.input_ids) for batch in engine.batches) <= 2
