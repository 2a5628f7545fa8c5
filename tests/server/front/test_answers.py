"""Answers that are kept: found by content alone, bounded, and the same as without keeping them."""

from __future__ import annotations

import asyncio
import dataclasses
import tracemalloc
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from electra_qa.bundle import Bundle
from electra_qa.client import (
    AsyncClient,
    ElectraQAError,
    InternalError,
    InvalidArgumentError,
    ResourceExhaustedError,
)
from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.rpc import open_inference_grpc_pb2 as v2
from electra_qa.rpc.open_inference_grpc_pb2_grpc import GRPCInferenceServiceStub
from electra_qa.server.front.answers import AnswerCache
from electra_qa.server.front.merging import Answered
from electra_qa.server.front.options import QuestionOptions, parse_options
from electra_qa.server.observe.metrics import Metrics
from electra_qa.server.settings import ServerSettings
from electra_qa.spans import Answer, Prediction
from electra_qa.tokenization import Tokenizer

from ...addresses import free_address
from ..conftest import GatedEngine, Serving
from ..observe.test_metrics import scrape
from .test_stream_contexts import answers

CONTEXT = "Rollo came from Denmark. The Normans came from all over."
OTHER = "Rome was founded by Romulus in 753 BC, says the legend."
MEGABYTE = 2**20


@pytest.fixture
def options(bundle: Bundle) -> QuestionOptions:
    return parse_options(pb.Options(), bundle.manifest, ServerSettings())


def answered(text: str = "Denmark", answers: int = 1) -> Answered:
    one = Answer(text, 16, 23, 0.5, 1.5, 2.5)
    return Answered(Prediction((one,) * answers, False, 0.5, -3.5, 0.1), 1, 0.25, 0.5)


def windows(engine: GatedEngine) -> int:
    return sum(len(batch.input_ids) for batch in engine.batches)


def test_it_is_found_by_content_and_spent_nothing(options: QuestionOptions) -> None:
    metrics = Metrics()
    cache = AnswerCache(MEGABYTE, metrics)
    assert cache.find("Who?", CONTEXT, options) is None
    cache.keep("Who?", CONTEXT, options, answered())
    found = cache.find("".join("Who?"), "".join(list(CONTEXT)), dataclasses.replace(options))
    assert found == dataclasses.replace(answered(), queue_s=0.0, engine_s=0.0)
    for question, context in (("Who? ", CONTEXT), ("who?", CONTEXT), ("Who?", CONTEXT + " ")):
        assert cache.find(question, context, options) is None
    value = metrics.registry.get_sample_value
    assert value("electra_qa_answer_cache_hits_total") == 1
    assert value("electra_qa_answer_cache_misses_total") == 4
    cache.clear()
    assert value("electra_qa_answer_cache_bytes") == 0
    assert cache.find("Who?", CONTEXT, options) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"top_k": 2},
        {"max_answer_length": 29},
        {"null_score_diff_threshold": 0.25},
        {"rules": pb.RULES_PIPELINE},
        {"align_to_words": True},
        {"max_overlap": 0.0},
        {"every_place": True},
        {"rules": pb.RULES_READER, "n_best_size": 3},
        {"doc_stride": 100},
        {"window_overlap": 100},
        {"max_seq_length": 100},
        {"max_query_length": 10},
    ],
)
def test_any_other_option_is_another_question(
    bundle: Bundle, options: QuestionOptions, changed: dict[str, Any]
) -> None:
    cache = AnswerCache(MEGABYTE, Metrics())
    cache.keep("Who?", CONTEXT, options, answered())
    other = parse_options(pb.Options(**changed), bundle.manifest, ServerSettings())
    assert cache.find("Who?", CONTEXT, other) is None


def test_every_option_is_in_this_test() -> None:
    (parametrized,) = test_any_other_option_is_another_question.pytestmark  # type: ignore[attr-defined]
    tried = {name for changed in parametrized.args[1] for name in changed}
    assert tried == {field.name for field in pb.Options.DESCRIPTOR.fields}


def test_of_no_bytes_it_keeps_and_counts_nothing(options: QuestionOptions) -> None:
    metrics = Metrics()
    cache = AnswerCache(0, metrics)
    cache.keep("Who?", CONTEXT, options, answered())
    assert cache.find("Who?", CONTEXT, options) is None
    assert metrics.registry.get_sample_value("electra_qa_answer_cache_misses_total") == 0


def test_its_memory_is_bounded_and_the_least_used_goes_first(options: QuestionOptions) -> None:
    metrics = Metrics()

    def held() -> float:
        return metrics.registry.get_sample_value("electra_qa_answer_cache_bytes") or 0.0

    measure = AnswerCache(MEGABYTE, metrics)
    measure.keep("0", CONTEXT, options, answered())
    size = int(held())
    measure.clear()
    cache = AnswerCache(3 * size, metrics)
    for question in "012":
        cache.keep(question, CONTEXT, options, answered())
    assert cache.find("0", CONTEXT, options)
    cache.keep("3", CONTEXT, options, answered())
    assert [bool(cache.find(q, CONTEXT, options)) for q in "0123"] == [True, False, True, True]
    assert held() == 3 * size
    cache.keep("large", "x" * 3 * size, options, answered())
    assert cache.find("large", "x" * 3 * size, options) is None
    assert held() == 3 * size


@pytest.mark.parametrize("answers", [0, 1, 20])
def test_what_it_says_it_holds_is_what_it_holds(bundle: Bundle, answers: int) -> None:
    metrics = Metrics()
    cache = AnswerCache(100 * MEGABYTE, metrics)

    def fill(count: int) -> None:
        for number in range(count):
            options = parse_options(
                pb.Options(null_score_diff_threshold=number), bundle.manifest, ServerSettings()
            )
            found = tuple(
                Answer(f"text {number} {n}", n + 1000, n + 2000, n / 7, n / 3, n / 9)
                for n in range(answers)
            )
            prediction = Prediction(found, False, number / 3, number / 7, number / 9)
            one = Answered(prediction, 1, number / 3, number / 7)
            cache.keep(f"question {number}?", f"{number} " * 50, options, one)

    fill(10)
    cache.clear()
    tracemalloc.start()
    try:
        fill(1000)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    said = metrics.registry.get_sample_value("electra_qa_answer_cache_bytes")
    assert said is not None
    assert taken <= said <= 1.5 * taken


async def test_what_was_answered_is_not_computed_again(
    serving: Serving, engine: GatedEngine
) -> None:
    address = free_address()
    async with serving(answer_cache_bytes=MEGABYTE, metrics_address=address) as client:
        first = await client.answer("Who came?", CONTEXT)
        again = await client.answer("Who came?", CONTEXT)
        numbers = await asyncio.to_thread(scrape, address)
        other = await client.answer("Who came?", OTHER)
    assert windows(engine) == 2
    assert first.answers == again.answers != other.answers
    assert first.null_score_diff == again.null_score_diff
    assert first.windows == again.windows == 1
    assert again.queue_ms == again.engine_ms == 0 < first.engine_ms
    assert numbers["answer_cache_hits_total", ""] == 1
    assert numbers["answer_cache_misses_total", ""] == 1
    assert numbers["answer_cache_bytes", ""] > len(CONTEXT)
    assert numbers["questions_total", "OK"] == 2
    assert numbers["queue_seconds_count", ""] == 1


async def test_it_is_off_by_default(serving: Serving, engine: GatedEngine) -> None:
    async with serving() as client:
        for _ in range(2):
            await client.answer("Who came?", CONTEXT)
    assert windows(engine) == 2


async def test_every_way_of_asking_has_it(serving: Serving, engine: GatedEngine) -> None:
    """Each asks what another one has asked before."""
    async with serving(answer_cache_bytes=MEGABYTE) as client:
        alone = await client.answer("Who came?", CONTEXT)
        (batch,) = await client.answer_batch([("Who came?", CONTEXT)])
        stream = await answers(client.address, [_of_a_stream()])
        documents = await client.answer_documents("Who came?", [CONTEXT, CONTEXT])
        async with grpc.aio.insecure_channel(client.address) as channel:
            response = await GRPCInferenceServiceStub(channel).ModelInfer(_infer(CONTEXT, CONTEXT))
    assert windows(engine) == 1
    assert not isinstance(batch, ElectraQAError)
    assert batch.answers == alone.answers
    assert stream["a"].response.answers[0].text == alone.answers[0].text
    assert documents.answers[0].text == alone.answers[0].text
    assert documents.windows == 2
    texts = next(output for output in response.outputs if output.name == "answer")
    assert list(texts.contents.bytes_contents) == [alone.text.encode()] * 2


def _of_a_stream() -> pb.AnswerStreamRequest:
    request = pb.AnswerRequest(question="Who came?", context=CONTEXT)
    return pb.AnswerStreamRequest(id="a", request=request)


def _infer(*contexts: str) -> v2.ModelInferRequest:
    request = v2.ModelInferRequest(model_name="electra-qa")
    for name, texts in (("question", ("Who came?",)), ("context", contexts)):
        tensor = request.inputs.add(name=name, datatype="BYTES", shape=[len(texts)])
        tensor.contents.bytes_contents.extend(text.encode() for text in texts)
    return request


async def test_errors_are_not_kept(serving: Serving, engine: GatedEngine) -> None:
    async with serving(answer_cache_bytes=MEGABYTE) as client:
        engine.failing_lengths = {32}
        with pytest.raises(InternalError):
            await client.answer("Who came?", CONTEXT)
        engine.failing_lengths = set()
        assert (await client.answer("Who came?", CONTEXT)).answers


async def test_what_is_kept_is_answered_while_the_queue_is_full(
    serving: Serving, engine: GatedEngine
) -> None:
    address = free_address()
    async with serving(
        answer_cache_bytes=MEGABYTE, max_queue_tokens=1, metrics_address=address
    ) as client:
        await client.answer("Who came?", CONTEXT)
        engine.batches.clear()
        engine.open.clear()
        under_way = [asyncio.create_task(client.answer("Where?", CONTEXT))]
        await engine.taken()
        under_way.append(asyncio.create_task(client.answer("When?", CONTEXT)))
        while not (await asyncio.to_thread(scrape, address))["queue_tokens", ""]:
            await asyncio.sleep(0.01)
        assert (await client.answer("Who came?", CONTEXT)).answers
        # Not where there is something to compute beside it.
        with pytest.raises(ResourceExhaustedError, match="the queue is full"):
            await client.answer_batch([("Who came?", CONTEXT), ("Why?", CONTEXT)])
        engine.open.set()
        await asyncio.gather(*under_way)


async def test_texts_that_take_a_while_to_look_for_are_looked_for_on_a_thread(
    serving: Serving, engine: GatedEngine
) -> None:
    contexts = [f"{n} {'word ' * 10_000}" for n in range(3)]
    questions = [("Who came?", context) for context in contexts]
    async with serving(answer_cache_bytes=MEGABYTE) as client:
        first = await client.answer_batch(questions)
        engine.batches.clear()
        again = await client.answer_batch(questions)
    assert list(map(_content, first)) == list(map(_content, again))
    assert not engine.batches


async def test_a_rate_counts_what_is_kept(serving: Serving, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"search {'s' * 40} 0.001\n", encoding="utf-8")
    tokens.chmod(0o600)
    async with (
        serving(answer_cache_bytes=MEGABYTE, auth_tokens=str(tokens)) as anybody,
        AsyncClient(anybody.address, token="s" * 40) as client,
    ):
        await client.answer("Who came?", CONTEXT)
        with pytest.raises(ResourceExhaustedError, match=r"0\.001 questions a second"):
            await client.answer("Who came?", CONTEXT)


@pytest.mark.parametrize(
    ("limit", "options", "failed"),
    [
        ({"max_windows": 3}, {}, [False, False, False, True]),
        # Each alone has room for five answers; together the first has.
        ({"max_response_bytes": 1200}, {"top_k": 5}, [False, True, True, True]),
    ],
)
async def test_the_limits_of_a_call_are_the_same(
    serving: Serving, limit: dict[str, int], options: Any, failed: list[bool]
) -> None:
    """Whether a call is within them does not depend on who asked before."""
    questions = [(f"Who came {n}?", CONTEXT) for n in range(4)]
    async with serving(answer_cache_bytes=MEGABYTE, **limit) as client:
        before = await client.answer_batch(questions, **options)
        for question, context in questions:
            await client.answer(question, context, **options)
        after = await client.answer_batch(questions, **options)
    assert list(map(_content, before)) == list(map(_content, after))
    assert [isinstance(one, InvalidArgumentError) for one in after] == failed
    (name,) = limit
    assert name in str(after[-1])


@pytest.mark.parametrize("answer_cache_bytes", [0, MEGABYTE])
async def test_a_question_is_tokenized_once_a_call(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, answer_cache_bytes: int
) -> None:
    asked: list[str] = []
    tokenize = Tokenizer.question

    def noted(self: Tokenizer, text: str) -> Any:
        asked.append(text)
        return tokenize(self, text)

    async with serving(answer_cache_bytes=answer_cache_bytes) as client:
        monkeypatch.setattr(Tokenizer, "question", noted)
        contexts = [f"{CONTEXT} {n}" for n in range(5)]
        await client.answer_batch([(q, c) for c in contexts for q in ("Who?", "Where?")])
        async with grpc.aio.insecure_channel(client.address) as channel:
            await GRPCInferenceServiceStub(channel).ModelInfer(_infer(*contexts, OTHER))
    assert sorted(asked) == ["Where?", "Who came?", "Who?"]


QUESTIONS = st.tuples(
    st.sampled_from(["Who came?", "Where from?", ""]),
    st.sampled_from([CONTEXT, OTHER, "Rollo came. " * 100, "\x00"]),
)
CALLS = st.lists(
    st.tuples(
        st.lists(QUESTIONS, min_size=1, max_size=4),
        st.sampled_from([{}, {"top_k": 3}, {"doc_stride": 50, "max_seq_length": 100}]),
    ),
    min_size=1,
    max_size=6,
)


async def test_answers_are_those_of_a_server_that_shares_nothing(
    bundle: Bundle, serving: Serving, engine: GatedEngine
) -> None:
    """Calls that come together and keep answers, against the same ones one after the other."""
    from electra_qa.server.lifecycle import running

    alone = GatedEngine()
    alone.open.set()
    plain = ServerSettings(address="127.0.0.1:0")
    # Small enough that some are dropped.
    async with (
        serving(answer_cache_bytes=8_000) as sharing,
        running(bundle, alone, plain) as address,
        AsyncClient(address) as single,
    ):
        loop = asyncio.get_running_loop()
        alone.batches.clear()

        async def together(calls: Any) -> list[Any]:
            return await asyncio.gather(
                *(sharing.answer_batch(questions, **options) for questions, options in calls)
            )

        async def one_by_one(calls: Any) -> list[Any]:
            return [
                [(await single.answer_batch([one], **options))[0] for one in questions]
                for questions, options in calls
            ]

        @settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
        @given(CALLS)
        def check(calls: Any) -> None:
            found, expected = (
                asyncio.run_coroutine_threadsafe(way(calls), loop).result(60)
                for way in (together, one_by_one)
            )
            for got, wanted in zip(found, expected, strict=True):
                assert list(map(_content, got)) == list(map(_content, wanted))

        await asyncio.to_thread(check)
    assert windows(engine) < windows(alone)


def _content(outcome: Any) -> Any:
    """All but the times."""
    if isinstance(outcome, ElectraQAError):
        return type(outcome), str(outcome)
    return dataclasses.replace(outcome, queue_ms=0.0, engine_ms=0.0)
