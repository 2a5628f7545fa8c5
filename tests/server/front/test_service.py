"""What goes over the wire, on a real server and with real channels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from grpc_status import rpc_status
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from electra_qa.bundle import Bundle
from electra_qa.client import (
    AsyncClient,
    Client,
    DeadlineExceededError,
    ElectraQAError,
    InternalError,
    InvalidArgumentError,
    ResourceExhaustedError,
    Result,
)
from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.server.front.service import SERVICE
from electra_qa.server.settings import ServerSettings

from ..conftest import PATIENCE_S, Counted, GatedEngine, Serving, until

WITH_FRONT_ENDS = True

CONTEXT = "Rome was founded by Romulus in 753 BC, says the legend."


@pytest.mark.parametrize(
    ("question", "context", "options", "message"),
    [
        ("", CONTEXT, {}, "question is empty"),
        ("who?", "", {}, "context is empty"),
        (" \n\t", CONTEXT, {}, "question is blank"),
        ("who?", "\u2003 \u00a0", {}, "context is blank"),
        ("\x00", CONTEXT, {}, "question has no tokens"),
        ("who?", "\x00\x00", {}, "context has no tokens"),
        ("who?", "a" * 1001, {}, r"at most 1000 characters \(max_context_length\), got 1001"),
        ("a" * 101, CONTEXT, {}, r"at most 100 characters \(max_question_length\), got 101"),
        ("who?", CONTEXT, {"top_k": 0}, "options.top_k must be 1 to 256, got 0"),
        ("who?", CONTEXT, {"top_k": 2**31}, "options.top_k must be 1 to 256, got 2147483648"),
        (
            "who?",
            CONTEXT,
            {"top_k": 257, "rules": "pipeline", "align_to_words": True},
            "options.top_k must be 1 to 256, got 257",
        ),
        ("who?", CONTEXT, {"max_answer_length": 0}, "options.max_answer_length must be 1 to 512"),
        (
            "who?",
            CONTEXT,
            {"max_answer_length": 513},
            "max_answer_length must be 1 to 512, got 513",
        ),
        (
            "who?",
            CONTEXT,
            {"null_score_diff_threshold": float("nan")},
            "options.null_score_diff_threshold must be a number, got NaN",
        ),
        ("who?", CONTEXT, {"max_seq_length": 513}, "max_seq_length must be 68 to 512, got 513"),
        ("who?", CONTEXT, {"max_seq_length": 67}, "max_seq_length must be 68 to 512, got 67"),
        ("who?", CONTEXT, {"max_query_length": 0}, "max_query_length must be 1 to 508, got 0"),
        ("who?", CONTEXT, {"doc_stride": 0}, "options.doc_stride must be 1 to 512, got 0"),
        ("who?", CONTEXT, {"doc_stride": 9, "window_overlap": 9}, "set one, not both"),
        ("who?", CONTEXT, {"window_overlap": 400}, "window_overlap must be under 379"),
    ],
)
async def test_bad_input_is_refused_by_field_and_limit(
    serving: Serving, question: str, context: str, options: Any, message: str
) -> None:
    async with serving(max_context_length=1000, max_question_length=100) as client:
        with pytest.raises(InvalidArgumentError, match=message) as caught:
            await client.answer(question, context, **options)
        assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("question", "context", "message"),
    [
        ("who\ud800?", CONTEXT, "question has a lone surrogate at character 3"),
        ("who?", "\udfff", "context has a lone surrogate at character 0"),
        (7, CONTEXT, "question must be a str, got int"),
    ],
)
async def test_what_is_not_text_is_refused_before_it_is_sent(
    serving: Serving, question: Any, context: Any, message: str
) -> None:
    async with serving() as client:
        with pytest.raises(InvalidArgumentError, match=message):
            await client.answer(question, context)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"top_k": -1}, "options.top_k"), ({"topk": 1}, "no option topk"), ({"rules": "x"}, "rules")],
)
async def test_a_wrong_option_is_refused_before_it_is_sent(
    serving: Serving, options: Any, message: str
) -> None:
    async with serving() as client:
        with pytest.raises(InvalidArgumentError, match=message):
            await client.answer("who?", CONTEXT, **options)


async def test_a_message_that_is_none_has_a_status_and_tells_nothing(serving: Serving) -> None:
    async with serving() as client, grpc.aio.insecure_channel(client.address) as channel:
        call = channel.unary_unary(f"/{SERVICE}/Answer")
        not_utf8 = pb.AnswerRequest(question="abc", context=CONTEXT).SerializeToString()
        for raw in (b"\xff\xff\xff", not_utf8.replace(b"abc", b"a\xffc")):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(raw)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "electra_qa.v1.AnswerRequest" in (caught.value.details() or "")


async def test_a_message_over_the_limit_is_refused_with_the_limit(serving: Serving) -> None:
    large = "a " * 4096
    pairs = [("who?", large)]

    async def refused(call: Any) -> None:
        with pytest.raises(ResourceExhaustedError, match=r"4096.*max_message_bytes") as caught:
            await call
        assert caught.value.retry_after_s is None  # it would be refused again

    async with serving(max_message_bytes=4096) as client:
        await refused(client.answer(*pairs[0]))
        await refused(client.answer_batch(pairs))
        await refused(client.answer_documents("who?", [large]))
        await refused(_all(client.answer_stream(_once("a", pairs[0]))))
        (many,) = await _all(client.answer_many(pairs))
        assert "max_message_bytes" in str(many)
        with Client(client.address) as blocking:
            await refused(asyncio.to_thread(blocking.answer, *pairs[0]))


def test_the_longest_question_there_may_be_fits_ten_times() -> None:
    settings = ServerSettings()
    largest = pb.AnswerRequest(
        question="\U0001f600" * settings.max_question_length,
        context="\U0001f600" * settings.max_context_length,
    )
    assert 10 * largest.ByteSize() < settings.max_message_bytes


async def test_answers_may_be_larger_than_questions(serving: Serving) -> None:
    context = " ".join(f"word{n}" for n in range(400))
    async with serving(max_message_bytes=16_384) as client:
        outcomes = await client.answer_batch([("who?", context)] * 9, top_k=256)
    assert all(len(one.answers) == 256 for one in outcomes if isinstance(one, Result))
    assert sum(len(one.answers) * 20 for one in outcomes if isinstance(one, Result)) > 16_384


async def test_a_long_question_loses_its_end_as_in_the_reference(
    serving: Serving, engine: GatedEngine
) -> None:
    async with serving() as client:
        await client.answer("why " * 200, CONTEXT)
    (batch,) = engine.batches
    assert batch.bounds[0, 0] == 1 + 64 + 1


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=80)


async def test_offsets_are_right_for_any_text(serving: Serving) -> None:
    async with serving() as client:

        @settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
        @given(TEXT)
        def check(context: str) -> None:
            outcomes = asked(context)
            for outcome in outcomes:
                if isinstance(outcome, ElectraQAError):
                    assert isinstance(outcome, InvalidArgumentError)
                    continue
                for answer in outcome.answers:
                    assert context[answer.start : answer.end] == answer.text
                    assert answer.text

        loop = asyncio.get_running_loop()

        def asked(context: str) -> Any:
            batch = client.answer_batch([("who?", context)], top_k=5)
            return asyncio.run_coroutine_threadsafe(batch, loop).result(30)

        await asyncio.to_thread(check)


@pytest.mark.parametrize("answer", ["👩‍👩‍👧", "cafe\u0301", "नमस्ते", "東京", "Ｒｏｍｅ"])
async def test_answers_are_whole_characters(serving: Serving, answer: str) -> None:
    context = f"x {answer} y"
    async with serving() as client:
        result = await client.answer("who?", context, top_k=64)
    texts = {one.text for one in result.answers}
    assert context in texts
    assert not {text for text in texts if text.endswith(("e", "\u200d", "नमस्त"))}


async def test_a_batch_answers_in_order_and_a_bad_question_fails_alone(serving: Serving) -> None:
    request = pb.AnswerBatchRequest(contexts=[CONTEXT, "", "Zeus lived on Olympus."])
    for question, index in (("a?", 0), ("b?", 1), ("", 0), ("c?", 3), ("d?", 2)):
        request.questions.append(pb.BatchQuestion(question=question, context_index=index))
    async with serving() as client, grpc.aio.insecure_channel(client.address) as channel:
        call = channel.unary_unary(f"/{SERVICE}/AnswerBatch")
        response = pb.AnswerBatchResponse.FromString(await call(request.SerializeToString()))
        alone = await client.answer("d?", "Zeus lived on Olympus.")
    kinds = [result.WhichOneof("outcome") for result in response.results]
    assert kinds == ["response", "failure", "failure", "failure", "response"]
    assert [result.failure.message for result in response.results[1:4]] == [
        "context is empty",
        "question is empty",
        "context_index must be under 3, the number of contexts, got 3",
    ]
    assert {result.failure.code for result in response.results[1:4]} == {
        grpc.StatusCode.INVALID_ARGUMENT.value[0]
    }
    assert response.results[4].response.answers[0].text == alone.answers[0].text


async def test_a_batch_has_a_limit(serving: Serving) -> None:
    async with serving(max_batch_questions=3) as client:
        assert len(await client.answer_batch([("a?", CONTEXT)] * 3)) == 3
        for questions in ([], [("a?", CONTEXT)] * 4):
            with pytest.raises(InvalidArgumentError, match=r"1 to 3 .*max_batch_questions"):
                await client.answer_batch(questions)


async def test_a_stream_answers_as_they_get_ready_and_survives_a_bad_question(
    serving: Serving, engine: GatedEngine
) -> None:
    async def questions() -> AsyncIterator[tuple[str, tuple[str, str]]]:
        for number in range(20):
            yield f"id {number}", ("who?" if number != 7 else "", CONTEXT)

    async with serving(max_stream_questions=4) as client:
        outcomes = dict([pair async for pair in client.answer_stream(questions())])
    assert set(outcomes) == {f"id {number}" for number in range(20)}
    failed = {id_ for id_, outcome in outcomes.items() if isinstance(outcome, ElectraQAError)}
    assert failed == {"id 7"}
    assert max(len(batch.input_ids) for batch in engine.batches) <= 4


async def test_a_stream_answers_before_it_ends(serving: Serving) -> None:
    asked: asyncio.Queue[tuple[str, tuple[str, str]]] = asyncio.Queue()

    async def questions() -> AsyncIterator[tuple[str, tuple[str, str]]]:
        while True:
            yield await asked.get()

    async with serving() as client:
        answers = client.answer_stream(questions())
        for id_ in ("a", "b"):
            asked.put_nowait((id_, ("who?", CONTEXT)))
            assert (await asyncio.wait_for(anext(answers), PATIENCE_S))[0] == id_
        await answers.aclose()  # type: ignore[attr-defined]


async def test_a_cancelled_call_leaves_the_queue(
    serving: Serving, engine: GatedEngine, counted: Counted
) -> None:
    async with serving() as client:
        engine.open.clear()
        first = asyncio.create_task(client.answer("first?", CONTEXT))
        await engine.taken()
        second = asyncio.create_task(client.answer("second?", CONTEXT))
        await counted.queued()
        second.cancel()
        await until(lambda: not counted.value("queue_tokens"))
        engine.open.set()
        await first
        await client.answer("third?", CONTEXT)
    assert [len(batch.input_ids) for batch in engine.batches] == [1, 1]


async def test_a_deadline_ends_a_call_and_its_place_in_the_queue(
    serving: Serving, engine: GatedEngine
) -> None:
    async with serving() as client:
        engine.open.clear()
        first = asyncio.create_task(client.answer("first?", CONTEXT))
        await engine.taken()
        for timeout in (0.2, 0, -1):
            with pytest.raises(DeadlineExceededError):
                await client.answer("second?", CONTEXT, timeout=timeout)
        engine.open.set()
        await first
        await client.answer("third?", CONTEXT)
    assert [len(batch.input_ids) for batch in engine.batches] == [1, 1]


async def test_a_full_queue_is_said_at_once(
    serving: Serving, engine: GatedEngine, counted: Counted
) -> None:
    async with serving(max_queue_tokens=10) as client:
        engine.open.clear()
        tasks = [asyncio.create_task(client.answer("first?", CONTEXT))]
        await engine.taken()
        tasks.append(asyncio.create_task(client.answer("second?", CONTEXT)))
        await counted.queued(10)
        with pytest.raises(ResourceExhaustedError, match="max_queue_tokens is 10"):
            await client.answer("third?", CONTEXT)
        engine.open.set()
        assert all(isinstance(result.text, str) for result in await asyncio.gather(*tasks))


async def test_many_questions_wait_for_room_instead_of_failing(
    serving: Serving, engine: GatedEngine, counted: Counted
) -> None:
    async with serving(max_queue_tokens=200) as client:
        engine.open.clear()
        asking = asyncio.create_task(
            _all(client.answer_many([("who?", CONTEXT * 4)] * 40, batch_size=5, concurrency=4))
        )
        await until(lambda: counted.value("rejections_total", reason="queue"))
        engine.open.set()
        assert [type(outcome) for outcome in await asking] == [Result] * 40

        def blocking() -> list[Any]:
            with Client(client.address) as other:
                return list(
                    other.answer_many([("who?", CONTEXT * 4)] * 40, batch_size=5, concurrency=4)
                )

        refused = counted.value("rejections_total", reason="queue")
        engine.open.clear()
        task = asyncio.create_task(asyncio.to_thread(blocking))
        await until(lambda: counted.value("rejections_total", reason="queue") > refused)
        engine.open.set()
        assert [type(outcome) for outcome in await task] == [Result] * 40


async def _all(outcomes: AsyncIterator[Any]) -> list[Any]:
    return [outcome async for outcome in outcomes]


async def test_a_full_queue_says_when_to_try_again(
    serving: Serving, engine: GatedEngine, counted: Counted
) -> None:
    async with serving(max_queue_tokens=10, max_message_bytes=4096) as client:
        with pytest.raises(ResourceExhaustedError) as caught:
            await client.answer("who?", "a " * 4096)
        assert caught.value.retry_after_s is None
        engine.open.clear()
        tasks = [asyncio.create_task(client.answer("who?", CONTEXT))]
        await engine.taken()
        tasks.append(asyncio.create_task(client.answer("who?", CONTEXT)))
        await counted.queued(10)
        with pytest.raises(ResourceExhaustedError) as caught:
            await client.answer("who?", CONTEXT)
        assert caught.value.retry_after_s is not None
        assert 0.05 <= caught.value.retry_after_s <= 10
        assert caught.value.retry_after_s == await _retry_info_of_a_raw_call(client.address)
        async for _, outcome in client.answer_stream(_once("a", ("who?", CONTEXT))):
            assert isinstance(outcome, ResourceExhaustedError)
            assert outcome.retry_after_s == caught.value.retry_after_s
        engine.open.set()
        await asyncio.gather(*tasks)


async def _once(*questions: Any) -> AsyncIterator[Any]:
    yield questions


async def _retry_info_of_a_raw_call(address: str) -> float:
    """As any client of gRPC's status details reads it, in seconds."""
    async with grpc.aio.insecure_channel(address) as channel:
        request = pb.AnswerRequest(question="who?", context=CONTEXT).SerializeToString()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(f"/{SERVICE}/Answer")(request)
    status = rpc_status.from_call(caught.value)
    info = RetryInfo()
    assert status.details[0].Unpack(info)
    return float(info.retry_delay.ToMilliseconds() / 1e3)


async def test_a_call_whose_deadline_is_too_near_is_refused_not_served_late(
    serving: Serving, engine: GatedEngine
) -> None:
    async with serving() as client:
        engine.open.clear()
        slow = asyncio.create_task(client.answer("who?", CONTEXT))
        await engine.taken()
        await asyncio.sleep(0.5)
        engine.open.set()
        await slow
        engine.batches.clear()
        with pytest.raises(DeadlineExceededError, match="the deadline can't be met"):
            await client.answer("who?", CONTEXT * 400, timeout=10)  # some 50 windows
        assert not engine.batches
        await client.answer("who?", CONTEXT * 400, timeout=3_600)


async def test_a_call_is_cut_into_so_many_windows_at_most(
    serving: Serving, engine: GatedEngine
) -> None:
    async with serving(max_windows=10) as client:
        with pytest.raises(InvalidArgumentError, match=r"takes 10 a call \(max_windows\)"):
            await client.answer("who?", CONTEXT * 40, doc_stride=1)
        assert not engine.batches
        outcomes = await client.answer_batch([("who?", CONTEXT)] * 12)
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [Result] * 10 + [InvalidArgumentError] * 2


async def test_an_engine_failure_tells_nothing(serving: Serving, engine: GatedEngine) -> None:
    async with serving() as client:
        engine.failing_lengths = set(engine.buckets)
        with pytest.raises(InternalError, match=r"^the engine failed$"):
            await client.answer("who?", CONTEXT)
        engine.failing_lengths = set()
        await client.answer("who?", CONTEXT)


async def test_info_states_the_bundle_and_the_limits(serving: Serving, bundle: Bundle) -> None:
    async with serving(max_context_length=1234) as client:
        info = await client.info()
    assert info.bundle.sha256 == bundle.sha256
    assert info.bundle.doc_stride == 128
    assert info.limits.max_context_length == 1234
    assert info.limits.max_top_k == 256
    assert info.limits.max_answer_length == 512
    assert info.device == "a test"


@pytest.mark.parametrize("rules", ["run_squad", "pipeline"])
async def test_a_request_goes_past_what_the_graph_decodes(serving: Serving, rules: Any) -> None:
    context = " ".join(f"word{n} of a text without an end," for n in range(30))
    async with serving() as client:
        few = await client.answer("who?", context, top_k=27, max_answer_length=64, rules=rules)
        result = await client.answer("who?", context, top_k=100, max_answer_length=200, rules=rules)
        again = await client.answer("who?", context, top_k=27, max_answer_length=64, rules=rules)
    assert len(result.answers) == 100
    assert max(len(answer.text) for answer in result.answers) > max(
        len(answer.text) for answer in few.answers
    )
    assert again.answers == few.answers
    for answer in result.answers:
        assert context[answer.start : answer.end] == answer.text


async def test_a_long_context_is_cut_into_windows(serving: Serving) -> None:
    async with serving() as client:
        result = await client.answer("who?", CONTEXT * 60)
        few = await client.answer("who?", CONTEXT * 60, max_seq_length=512, doc_stride=400)
    assert result.windows > few.windows > 1


async def test_the_threshold_decides(serving: Serving) -> None:
    async with serving() as client:
        never: Any = {"null_score_diff_threshold": float("-inf")}
        always: Any = {"null_score_diff_threshold": float("inf")}
        assert (await client.answer("who?", CONTEXT, **never)).text == ""
        assert (await client.answer("who?", CONTEXT, **always)).text != ""


def test_the_client_has_the_servers_surface() -> None:
    methods = {
        method.name for method in pb.DESCRIPTOR.services_by_name["QuestionAnswering"].methods
    }
    assert methods == {"Answer", "AnswerBatch", "AnswerDocuments", "AnswerStream", "GetInfo"}
    surface = {"answer", "answer_batch", "answer_documents", "answer_stream", "info"}
    assert surface <= set(dir(AsyncClient))
