"""No call of the client's own making is refused, and what is refused all the same is asked anew."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_qa.client import Client, ElectraQAError, InvalidArgumentError, Result
from electra_qa.client.cutting import CALL_BYTES, CONTEXT_BYTES, QUESTION_BYTES, Room, calls
from electra_qa.client.messages import batch_message
from electra_qa.private import ServerProcess
from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.rpc import electra_qa_pb2_grpc as pb_grpc

from .conftest import Blocking, Make, served

CLAUSES = " ".join(
    f"Clause {n} says that the tenant of flat {n} pays 2{n} pounds on day {n % 28 + 1} of every "
    "month."
    for n in range(700)
)
QUESTIONS = [f"What does the tenant of flat {n} pay?" for n in range(64)]
NULL = ["--engine", "null", "--warm-up-lengths", "none"]
LIMITS = {"max-windows": 40, "max-batch-questions": 8, "max-message-bytes": 30_000}


@pytest.fixture(scope="module")
def narrow() -> Iterator[str]:
    """The address of a server that takes little at a time."""
    limits = [part for name, value in LIMITS.items() for part in (f"--{name}", str(value))]
    with ServerProcess(arguments=[*NULL, *limits]) as server:
        yield server.address


@pytest.fixture(scope="module")
def usual() -> Iterator[str]:
    """The address of a server with the default limits."""
    with ServerProcess(arguments=NULL) as server:
        yield server.address


@pytest.fixture(scope="module")
def tiny_windows() -> Iterator[str]:
    """One more, which is asked what would have it expect others to take as long a token."""
    with ServerProcess(arguments=NULL) as server:
        yield server.address


def room(**changes: Any) -> Room:
    return Room(
        **{
            "questions": 5,
            "windows": 12,
            "message_bytes": 400,
            "window": 32,
            "doc_stride": 8,
            "window_overlap": None,
            "max_query_length": 10,
            **changes,
        }
    )


texts = st.text(st.sampled_from("ab é\u4e2d"), max_size=60)


@given(
    st.lists(st.tuples(texts, st.sampled_from(["x" * 70, "yé" * 30, "", "z" * 300])), max_size=40)
)
def test_calls_are_in_order_within_the_room_and_no_smaller_than_they_must(
    pairs: list[tuple[str, str]],
) -> None:
    here = room()
    cut = list(calls(pairs, here))
    assert [pair for call in cut for pair in call] == pairs

    def fits(call: list[Any]) -> bool:
        windows = sum(
            here.windows_at_most(len(q.encode()), len(context.encode())) for q, context in call
        )
        size = (
            CALL_BYTES
            + sum(len(question.encode()) + QUESTION_BYTES for question, _ in call)
            + sum(len(context.encode()) + CONTEXT_BYTES for context in {c for _, c in call})
        )
        assert batch_message(call, {}).ByteSize() <= size
        return (
            len(call) <= here.questions and windows <= here.windows and size <= here.message_bytes
        )

    for call, following in itertools.zip_longest(cut, cut[1:]):
        assert len(call) == 1 or fits(call)
        if following is not None:
            assert not fits([*call, following[0]])


@given(
    st.text(max_size=300),
    st.integers(16, 384),
    st.integers(1, 200),
    st.one_of(st.none(), st.integers(1, 100)),
)
def test_no_text_has_more_windows_than_its_bytes(
    tiny_windows: str, context: str, window: int, doc_stride: int, overlap: int | None
) -> None:
    options: Any = {"max_seq_length": window, "max_query_length": 4, "doc_stride": doc_stride}
    if overlap is not None:
        del options["doc_stride"]
        options["window_overlap"] = overlap
    with Client(tiny_windows) as client:
        try:
            result = client.answer("Who is it?", context, **options)
        except InvalidArgumentError:  # a blank context, or windows that don't move
            return
        here = Room.of(client.info(), options, 64)
    assert result.windows <= here.windows_at_most(10, len(context.encode()))


async def outcomes(make: Make, address: str, pairs: Any, **options: Any) -> list[Any]:
    async with make(address) as client:
        return [one async for one in client.answer_many(pairs, **options)]


@pytest.mark.parametrize("count", [64, 1])
async def test_many_questions_about_one_long_document(make: Make, usual: str, count: int) -> None:
    pairs = [(question, CLAUSES) for question in QUESTIONS[:count]]
    answered = await outcomes(make, usual, pairs)
    assert len(answered) == count
    assert all(isinstance(one, Result) for one in answered)
    windows = sum(one.windows for one in answered)
    assert count == 1 or windows > 4096  # more than one call may have


async def test_texts_that_make_no_message_together(make: Make, usual: str) -> None:
    contexts = [chr(0x4E00 + n) + "\u4e2d" * 190_000 for n in range(16)]
    answered = await outcomes(make, usual, [("Who?", context) for context in contexts])
    assert [type(one) for one in answered] == [Result] * 16


async def test_little_at_a_time_is_taken_in_small_calls(make: Make, narrow: str) -> None:
    contexts = ["Rome was founded by Romulus. " * n for n in (1, 3, 100, 1, 90)]
    pairs = [(f"Who founded Rome, {n}?", contexts[n % 5]) for n in range(60)]
    answered = await outcomes(make, narrow, pairs)
    assert [one.windows for one in answered] == [
        one.windows for one in await outcomes(make, narrow, pairs, batch_size=1)
    ]
    assert all(isinstance(one, Result) for one in answered)


async def test_what_no_call_can_hold_fails_in_its_place(make: Make, narrow: str) -> None:
    long = "Rome was founded by Romulus. " * 900  # of 43 windows
    huge = "Rome was founded by Romulus. " * 2000  # over a message
    pairs = [("Who?", "Rome."), ("Who?", long), ("Who?", "Rome."), ("Who?", huge), ("Who?", "It.")]
    answered = await outcomes(make, narrow, pairs)
    kinds = [type(one) for one in answered]
    assert kinds[0::2] == [Result, Result, Result]
    assert isinstance(answered[1], InvalidArgumentError)
    assert "max_windows" in str(answered[1])
    assert isinstance(answered[3], ElectraQAError)
    assert answered[3].code is grpc.StatusCode.RESOURCE_EXHAUSTED


class Changing(pb_grpc.QuestionAnsweringServicer):
    """Says that it takes anything, and takes three questions about one text."""

    def __init__(self, refusal: str) -> None:
        self.refusal = refusal
        self.sizes: list[int] = []
        self._lock = threading.Lock()

    def GetInfo(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        return pb.GetInfoResponse()

    def AnswerBatch(self, request: Any, context: Any) -> Any:  # noqa: N802
        count = len(request.questions)
        with self._lock:
            self.sizes.append(count)
        if count > 3 and self.refusal == "message":
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max")
        if count > 3 and self.refusal == "deadline":
            context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline can't be met")
        response = pb.AnswerBatchResponse()
        for place, question in enumerate(request.questions):
            if place >= 3:
                failure = pb.Failure(code=3, message="too many", in_a_smaller_call=True)
                response.results.append(pb.Result(failure=failure))
            else:
                answer = pb.Answer(text=question.question)
                one = pb.AnswerResponse(answers=[answer], windows=1)
                response.results.append(pb.Result(response=one))
        return response


@pytest.mark.parametrize("refusal", ["message", "deadline", "some"])
async def test_what_is_refused_all_the_same_is_asked_in_smaller_calls(
    make: Make, refusal: str
) -> None:
    servicer = Changing(refusal)
    pairs = [(str(n), "A text.") for n in range(23)]
    with served(servicer) as address:
        answered = await outcomes(make, address, pairs, batch_size=10)
    assert [one.text for one in answered] == [str(n) for n in range(23)]
    assert max(servicer.sizes) == 10


async def test_a_refusal_counts_from_when_it_came(make: Make) -> None:
    """Not from when somebody looks: a caller may take its time with the answers before."""
    pairs = [(str(n), "A text.") for n in range(8)]
    how = {"batch_size": 4, "concurrency": 2, "timeout": 4}
    with served(Changing("deadline")) as address:
        async with make(address) as client:
            answered = []
            if isinstance(client, Blocking):
                for one in client.client.answer_many(pairs, **how):
                    if not answered:
                        time.sleep(2.2)  # noqa: ASYNC251
                    answered.append(one)
            else:
                async for one in client.answer_many(pairs, **how):
                    if not answered:
                        await asyncio.sleep(2.2)
                    answered.append(one)
    assert [one.text for one in answered] == [str(n) for n in range(8)]


class Refusing(Changing):
    """Takes nothing, however small."""

    def AnswerBatch(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.sizes.append(len(request.questions))
        if self.refusal == "message":
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max")
        failure = pb.Failure(code=3, message="too many", in_a_smaller_call=True)
        return pb.AnswerBatchResponse(results=[pb.Result(failure=failure)] * len(request.questions))


@pytest.mark.parametrize("refusal", ["message", "some"])
async def test_who_takes_nothing_is_not_asked_for_ever(make: Make, refusal: str) -> None:
    servicer = Refusing(refusal)
    with served(servicer) as address:
        answered = await outcomes(make, address, [("Who?", "It.")] * 8)
    assert all(isinstance(one, ElectraQAError) for one in answered)
    assert len(answered) == 8
    assert sorted(servicer.sizes) == [1] * 8 + [2] * 4 + [4] * 2 + [8]


PAIR = ("Who founded Rome?", "Rome was founded by Romulus.")
AS_A_MAPPING = {"question": PAIR[0], "context": PAIR[1]}


@pytest.mark.parametrize("given", [PAIR, list(PAIR), AS_A_MAPPING])
async def test_a_question_and_its_context_may_come_in_a_few_ways(
    make: Make, usual: str, given: Any
) -> None:
    async with make(usual) as client:
        (one,) = await client.answer_batch([given])
        (same,) = [outcome async for outcome in client.answer_many([given])]
    assert one.answers == same.answers
    assert one.answers[0].text in PAIR[1]


@pytest.mark.parametrize(
    "given",
    [
        "ab",
        b"ab",
        "Who founded Rome?",
        ("Who?",),
        ("Who?", "It.", "more"),
        None,
        7,
        {"question": "Who?"},
        {"question": "Who?", "context": "It.", "top_k": 3},
        {"Who?", "It."},
    ],
)
async def test_what_is_no_pair_is_a_type_error(make: Make, usual: str, given: Any) -> None:
    async with make(usual) as client:
        with pytest.raises(TypeError, match="question"):
            await client.answer_batch([PAIR, given])
        with pytest.raises(TypeError, match="question"):
            _ = [outcome async for outcome in client.answer_many([PAIR, given])]


@pytest.mark.parametrize("pair", [(None, "It."), ("Who?", 7), (["Who?"], "It.")])
async def test_what_is_no_text_is_named(make: Make, usual: str, pair: Any) -> None:
    async with make(usual) as client:
        with pytest.raises(InvalidArgumentError, match="must be a str"):
            await client.answer_batch([pair])
        with pytest.raises(InvalidArgumentError, match="must be a str"):
            _ = [outcome async for outcome in client.answer_many([pair])]
