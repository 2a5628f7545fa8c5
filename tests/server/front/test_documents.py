"""AnswerDocuments under limits: the queue, bytes, deadlines, a caller who goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_qa.client import (
    DeadlineExceededError,
    Document,
    InvalidArgumentError,
    ResourceExhaustedError,
)
from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.rpc.electra_qa_pb2_grpc import QuestionAnsweringStub
from electra_qa.server.front.promising import most_promising

from ..conftest import Counted, GatedEngine, Serving, until

WITH_FRONT_ENDS = True

QUESTION = "who founded rome?"
TEXT = "Rome was founded by Romulus in 753 BC, says the legend."


async def test_a_call_waits_for_room_that_it_took_itself(
    serving: Serving, engine: GatedEngine
) -> None:
    # A queue that a few documents fill: the pieces behind them wait, and none is lost.
    async with serving(max_queue_tokens=200) as client:
        documents = [f"{TEXT} {n}" for n in range(300)]
        result = await client.answer_documents(QUESTION, documents)
    assert result.documents_read == 300
    assert result.documents_failed == 0
    assert sum(len(batch.input_ids) for batch in engine.batches) == 300


async def test_a_call_that_finds_no_room_is_refused(
    serving: Serving, engine: GatedEngine, counted: Counted
) -> None:
    async with serving(max_queue_tokens=50) as client:
        engine.open.clear()
        others = [asyncio.create_task(client.answer(QUESTION, TEXT + " x" * n)) for n in range(9)]
        await engine.taken()
        await counted.queued(50)
        with pytest.raises(ResourceExhaustedError, match="the queue is full"):
            await client.answer_documents(QUESTION, iter([TEXT]))
        # A list can be sent again.
        refused = counted.value(
            "requests_total", method="AnswerDocuments", code="RESOURCE_EXHAUSTED"
        )
        again = asyncio.create_task(client.answer_documents(QUESTION, [TEXT]))
        await until(
            lambda: (
                refused
                < counted.value(
                    "requests_total", method="AnswerDocuments", code="RESOURCE_EXHAUSTED"
                )
            )
        )
        engine.open.set()
        assert (await again).documents_read == 1
        await asyncio.gather(*others, return_exceptions=True)


async def test_it_reads_no_further_than_it_works(serving: Serving, engine: GatedEngine) -> None:
    made = 0

    def documents() -> Iterator[str]:
        nonlocal made
        for made in range(1, 201):
            yield f"{made} " + "word " * 20_000

    async with serving() as client:
        engine.open.clear()
        asked = asyncio.create_task(client.answer_documents(QUESTION, documents()))
        await engine.taken()
        await asyncio.sleep(1)
        assert made < 150  # four pieces, and what fits into gRPC's windows
        asked.cancel()
        engine.open.set()
        with pytest.raises(asyncio.CancelledError):
            await asked
        # What waited went with the call.
        assert (await client.answer(QUESTION, TEXT)).answers


async def test_what_is_held_until_the_end_is_bounded(serving: Serving) -> None:
    documents = ["word " * 19_000 for _ in range(40)]
    limits = {"max_message_bytes": 2**20, "max_inflight_bytes": 2**20}
    async with serving(**limits) as client:
        for given in (documents, iter(documents)):  # a list isn't sent again for ever
            with pytest.raises(InvalidArgumentError, match="max_inflight_bytes"):
                await client.answer_documents(QUESTION, given, read_top=1)
        assert (await client.answer_documents(QUESTION, documents[:3], read_top=1)).documents == 3
        # And the bytes of the refused call are free again.
        assert (await client.answer_documents(QUESTION, documents)).documents_read == 40


async def test_a_call_under_way_waits_for_the_bytes_of_others(
    serving: Serving, engine: GatedEngine
) -> None:
    one = "word " * 19_000
    async with serving(max_message_bytes=150_000, max_inflight_bytes=200_000) as client:
        begun = asyncio.Event()

        async def documents() -> AsyncIterator[str]:
            for _ in range(3):  # each a message of its own when the next one is here
                yield one
            await engine.taken()
            engine.open.clear()
            begun.set()
            await asyncio.sleep(0.3)
            yield one
            yield one

        asked = asyncio.create_task(client.answer_documents(QUESTION, documents()))
        await begun.wait()
        others = [asyncio.create_task(client.answer(f"{QUESTION} {n}", one)) for n in range(2)]
        await asyncio.sleep(1)
        assert not asked.done()
        engine.open.set()
        assert (await asked).documents_read == 5
        await asyncio.gather(*others, return_exceptions=True)


async def test_the_deadline_ends_it(serving: Serving, engine: GatedEngine) -> None:
    async with serving() as client:
        engine.open.clear()
        with pytest.raises(DeadlineExceededError):
            await client.answer_documents(QUESTION, [TEXT] * 100, timeout=0.5)
        engine.open.set()
        assert (await client.answer_documents(QUESTION, [TEXT])).documents_read == 1


async def test_the_answers_of_a_call_are_bounded(serving: Serving) -> None:
    documents = [Document(TEXT, "i" * 1000 + str(n)) for n in range(64)]
    async with serving(max_response_bytes=20_000) as client:
        with pytest.raises(InvalidArgumentError, match="max_response_bytes"):
            await client.answer_documents(QUESTION, documents, top_k=64)
        assert (await client.answer_documents(QUESTION, documents, top_k=8)).answers


async def ask(address: str, *messages: pb.AnswerDocumentsRequest) -> pb.AnswerDocumentsResponse:
    async def requests() -> AsyncIterator[pb.AnswerDocumentsRequest]:
        for message in messages:
            yield message

    async with grpc.aio.insecure_channel(address) as channel:
        return await QuestionAnsweringStub(channel).AnswerDocuments(requests(), timeout=30)


async def test_the_question_is_of_the_first_message(serving: Serving) -> None:
    document = pb.Document(id="a", text=TEXT)
    first = pb.AnswerDocumentsRequest(question=QUESTION, documents=[document])
    async with serving() as client:
        answered = await ask(
            client.address, first, pb.AnswerDocumentsRequest(documents=[document, document])
        )
        assert (answered.documents, answered.documents_read) == (3, 3)
        for messages, match in (
            ((), "without a message"),
            ((first, first), "question and options are of the first message"),
            ((pb.AnswerDocumentsRequest(documents=[document]), first), "question is empty"),
        ):
            with pytest.raises(grpc.aio.AioRpcError, match=match) as refused:
                await ask(client.address, *messages)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@given(
    question=st.lists(st.integers(0, 9), min_size=1, max_size=5),
    texts=st.lists(st.lists(st.integers(0, 9), max_size=9), min_size=1, max_size=9),
    count=st.integers(1, 9),
)
def test_the_most_promising_are_those_with_the_rarest_of_the_questions_tokens(
    question: list[int], texts: list[list[int]], count: int
) -> None:
    tokens = [np.array(text, np.int32) for text in texts]
    places = most_promising(np.array(question, np.int32), tokens, count)
    assert places == sorted(set(places))
    assert len(places) == min(count, len(texts))
    # BM25 as Lucene has it, which is the library's default.
    k1, b = 1.5, 0.75
    mean = sum(map(len, texts)) / len(texts) or 1.0
    scores = [
        sum(
            np.log(1 + (len(texts) - df + 0.5) / (df + 0.5))
            * text.count(token)
            / (text.count(token) + k1 * (1 - b + b * len(text) / mean))
            for token in set(question)
            if (df := sum(token in other for other in texts))
        )
        for text in texts
    ]
    chosen = [scores[place] for place in places]
    left = [score for place, score in enumerate(scores) if place not in places]
    assert not left or min(chosen) >= max(left) - 1e-5
