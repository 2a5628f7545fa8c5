"""A context that many questions of a stream share is sent once."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterable

import grpc
import pytest

from electra_qa.client.messages import StreamMessages
from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.rpc.electra_qa_pb2_grpc import QuestionAnsweringStub

from ..conftest import Serving

ROME = "Rome was founded by Romulus in 753 BC, says the legend."
LONG = "Paris lies on the Seine. " * 5_000  # it takes a thread to parse a message with ten of it


def asked(id_: str, context: str, *, same: bool = False) -> pb.AnswerStreamRequest:
    request = pb.AnswerRequest(question=f"who founded {id_}?", context=context)
    return pb.AnswerStreamRequest(id=id_, request=request, same_context=same)


async def answers(address: str, messages: Iterable[pb.AnswerStreamRequest]) -> dict[str, pb.Result]:
    async def requests() -> AsyncIterator[pb.AnswerStreamRequest]:
        for message in messages:
            yield message

    async with grpc.aio.insecure_channel(address) as channel:
        call = QuestionAnsweringStub(channel).AnswerStream(requests(), timeout=60)
        return {response.id: response.result async for response in call}


async def test_it_is_that_of_the_message_before_whatever_that_was_answered(
    serving: Serving,
) -> None:
    broken = pb.AnswerStreamRequest(
        id="broken", request=pb.AnswerRequest(question="", context=ROME)
    )
    padded = asked("padded", LONG)
    padded.request.question = "x" * 1_100_000  # a message that is parsed on a thread
    messages = [
        asked("a", ROME),
        asked("b", "", same=True),
        broken,
        asked("c", "", same=True),
        padded,
        asked("d", "", same=True),
        asked("e", "", same=True),
        asked("f", ROME),
        asked("g", ROME, same=True),
        asked("h", "", same=True),
    ]
    async with serving(max_windows=10_000) as client:
        results = await answers(client.address, messages)
        expected = {
            id_: await client.answer(f"who founded {id_}?", context)
            for id_, context in {
                **dict.fromkeys("abcfh", ROME),
                **dict.fromkeys("de", LONG),
            }.items()
        }
    for id_, result in expected.items():
        found = results[id_].response
        assert [(a.text, a.start) for a in found.answers] == [
            (a.text, a.start) for a in result.answers
        ], id_
        assert found.windows == result.windows
    assert "question" in results["broken"].failure.message
    assert "must be empty with same_context" in results["g"].failure.message


async def test_there_must_be_one_before(serving: Serving) -> None:
    async with serving() as client:
        results = await answers(client.address, [asked("a", "", same=True), asked("b", ROME)])
    assert results["a"].failure.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert results["a"].failure.message == "same_context: no message before has a context"
    assert results["b"].response.answers


@pytest.mark.parametrize("seed", range(3))
async def test_the_clients_messages_say_the_same_as_whole_ones(serving: Serving, seed: int) -> None:
    draw = random.Random(seed)
    contexts = [f"{ROME} It is chapter {n}." for n in range(3)]
    pairs = [(f"who founded {n}?", draw.choice(contexts)) for n in range(60)]
    messages = StreamMessages({})
    sent = [messages.of(str(n), pair) for n, pair in enumerate(pairs)]
    assert [bool(one.request.context) for one in sent] == [
        n == 0 or pairs[n][1] != pairs[n - 1][1] for n in range(60)
    ]
    async with serving() as client:
        results = await answers(client.address, sent)
        for n, (question, context) in enumerate(pairs):
            expected = await client.answer(question, context)
            assert results[str(n)].response.answers[0].text == expected.answers[0].text
