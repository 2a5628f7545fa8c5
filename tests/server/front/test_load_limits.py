"""What one call, and all calls together, may take of a server: memory, and everybody's time."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest

from electra_qa.client import (
    DeadlineExceededError,
    InvalidArgumentError,
    ResourceExhaustedError,
    Result,
)
from electra_qa.merge import TooMuchTextError, merge
from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.rpc.electra_qa_pb2_grpc import QuestionAnsweringStub
from electra_qa.server.errors import StartError
from electra_qa.server.front.waiting import CallerGoneError, Waiting
from electra_qa.spans import DecodeOptions, Rules, decode, row
from electra_qa.tokenization import Tokenizer
from electra_qa.windows import WindowSettings, make_windows

from ..conftest import PATIENCE_S, GatedEngine, Serving

WITH_FRONT_ENDS = True

CONTEXT = "Rome was founded by Romulus in 753 BC, says the legend."
# One token that no vocabulary has, for each word.
LONG_WORDS = " ".join("q" * 18_000 for _ in range(11))


@pytest.fixture
def callbacks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The CPU time of each of the event loop's callbacks, in seconds: what the others wait for,
    and the same on a loaded machine."""
    seconds: list[float] = []
    run = asyncio.Handle._run  # type: ignore[attr-defined]

    def timed(self: asyncio.Handle) -> None:
        began = time.thread_time()
        run(self)
        seconds.append(time.thread_time() - began)

    monkeypatch.setattr(asyncio.Handle, "_run", timed)
    return seconds


def ask(address: str, request: pb.AnswerBatchRequest) -> pb.AnswerBatchResponse:
    """On this thread, which is not the event loop's."""
    with grpc.insecure_channel(address, [("grpc.max_receive_message_length", -1)]) as channel:
        return QuestionAnsweringStub(channel).AnswerBatch(request, timeout=300)


async def test_long_answers_fail_before_they_are_built(serving: Serving) -> None:
    pairs = [(f"who {n}?", LONG_WORDS) for n in range(32)]
    async with serving(max_response_bytes=2**20) as client:
        outcomes = await client.answer_batch(pairs, top_k=9)
    assert isinstance(outcomes[0], Result)
    assert isinstance(outcomes[-1], InvalidArgumentError)
    with pytest.raises(InvalidArgumentError, match=r"1048576 bytes \(max_response_bytes\)"):
        raise outcomes[-1]
    answered = [one for one in outcomes if isinstance(one, Result)]
    assert sum(len(answer.text) for one in answered for answer in one.answers) < 2**20


@pytest.mark.parametrize("rules", ["run_squad", "pipeline"])
async def test_one_answer_over_the_limit_fails(serving: Serving, rules: Any) -> None:
    async with serving(max_response_bytes=10_000) as client:
        with pytest.raises(InvalidArgumentError, match="max_response_bytes"):
            await client.answer("who?", LONG_WORDS, rules=rules)
        await client.answer("who?", CONTEXT, rules=rules)


@pytest.mark.parametrize(
    ("context", "questions", "options"),
    [
        (CONTEXT * 3, 1_024, pb.Options(top_k=64)),
        (CONTEXT * 8, 64, pb.Options(top_k=100, max_answer_length=200)),
        (CONTEXT * 8, 512, pb.Options(top_k=100, rules=pb.RULES_PIPELINE, align_to_words=True)),
        ("a" + "\u0301" * 199_000, 128, pb.Options()),
    ],
    ids=["many answers", "decoded on the host", "pipeline", "marks"],
)
async def test_a_large_call_holds_up_nobody(
    serving: Serving,
    callbacks: list[float],
    context: str,
    questions: int,
    options: pb.Options,
) -> None:
    """Before, one callback took half a second and more, with the marks ten."""
    request = pb.AnswerBatchRequest(contexts=[context], options=options)
    for number in range(questions):
        request.questions.append(pb.BatchQuestion(question=f"who {number}?"))
    async with serving() as client:
        callbacks.clear()
        response = await asyncio.to_thread(ask, client.address, request)
        longest = max(callbacks)
    assert len(response.results) == questions
    assert response.results[0].HasField("response")
    assert longest < 0.15


def test_marks_are_looked_for_once(tokenizer: Tokenizer) -> None:
    text = "a" + "\u0301" * 199_000
    context = tokenizer.context(text)
    began = time.process_time()
    for _ in range(1_000):
        assert context.characters(0, 0) == (0, len(text))
    assert time.process_time() - began < 1  # each took 20 ms


@pytest.mark.parametrize(
    "text",
    [
        "cafe\u0301 x",
        "नमस्ते दुनिया",
        "👩\u200d👩\u200d👧 y",
        "\u0301a",
        "a\u0301\u200d",
        "é\u0300\u0301 e\u0301",
    ],
)
def test_ends_are_behind_the_marks(tokenizer: Tokenizer, text: str) -> None:
    context = tokenizer.context(text)
    plain = tokenizer._tokenizer.encode(text, add_special_tokens=False).offsets
    assert len(plain) == len(context.ids) > 0
    for token, (start, end) in enumerate(plain):
        marks = re.match("[\u0300\u0301\u200d\u0900-\u0903\u093a-\u094f]*", text[end:])
        assert marks is not None
        assert context.characters(token, token) == (start, end + marks.end())


async def test_the_bytes_under_way_have_a_bound(serving: Serving, engine: GatedEngine) -> None:
    async with serving(max_message_bytes=8_192, max_inflight_bytes=8_192) as client:
        engine.open.clear()
        first = asyncio.create_task(client.answer("who?", "Rome " * 1_000))
        await engine.taken()
        with pytest.raises(ResourceExhaustedError, match="max_inflight_bytes is 8192") as caught:
            await client.answer("who?", "Rome " * 1_000)
        assert caught.value.retry_after_s is not None
        async for _, outcome in client.answer_stream(_once(("a", ("who?", "Rome " * 1_000)))):
            assert isinstance(outcome, ResourceExhaustedError)
        await asyncio.wait_for(client.info(), PATIENCE_S)
        engine.open.set()
        await first
        await client.answer("who?", "Rome " * 1_000)


async def _once(one: tuple[str, tuple[str, str]]) -> AsyncIterator[tuple[str, tuple[str, str]]]:
    yield one


async def test_a_bound_that_no_message_fits_under_is_refused(serving: Serving) -> None:
    with pytest.raises(StartError, match=r"max_inflight_bytes \(4096\) must be at least"):
        async with serving(max_inflight_bytes=4_096):
            pass


async def test_who_gave_up_costs_no_more_work(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenized: list[Any] = []

    def slow(self: Tokenizer, text: str) -> object:
        tokenized.append(text)
        time.sleep(0.1)
        return original(self, text)

    original = Tokenizer.context
    async with serving() as client:
        monkeypatch.setattr(Tokenizer, "context", slow)
        pairs = [(f"who {n}?", f"{n} {CONTEXT * 30}") for n in range(1_000)]
        with pytest.raises(DeadlineExceededError):
            await client.answer_batch(pairs, timeout=0.5)
        done = -1
        while done < len(tokenized):
            done = len(tokenized)
            await asyncio.sleep(0.5)
    assert done < 500


async def test_nothing_is_tokenized_past_max_windows(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenized: list[Any] = []
    original = Tokenizer.context
    monkeypatch.setattr(
        Tokenizer, "context", lambda self, text: tokenized.append(text) or original(self, text)
    )
    async with serving(max_windows=3) as client:
        tokenized.clear()
        outcomes = await client.answer_batch([(f"{n}?", f"{n} {CONTEXT}") for n in range(40)])
    assert [isinstance(one, Result) for one in outcomes] == [True] * 3 + [False] * 37
    assert len(tokenized) == 3


def test_work_for_nobody_ends() -> None:
    waiting = Waiting(None)
    with waiting.waited_for():
        waiting.check()
    with pytest.raises(CallerGoneError):
        waiting.check()


def test_merging_looks_whether_it_is_wanted_and_stays_within_its_room(tokenizer: Tokenizer) -> None:
    context = tokenizer.context(CONTEXT)
    (window,) = make_windows(
        np.array([1], np.int32),
        context.ids,
        settings=WindowSettings(),
        cls_id=tokenizer.cls_id,
        sep_id=tokenizer.sep_id,
    )
    zeros = np.zeros((1, window.length), np.float32)
    decoded = row(decode(zeros, zeros, np.array([window.bounds(9)]), 64), 0)

    def stop() -> None:
        raise CallerGoneError

    for rules in Rules:
        options = DecodeOptions(top_k=20, rules=rules)
        whole = merge(context, [window], [decoded], options)
        assert len(whole.answers) == 20
        with pytest.raises(CallerGoneError):
            merge(context, [window], [decoded], options, check=stop)
        with pytest.raises(TooMuchTextError):
            merge(context, [window], [decoded], options, max_text_bytes=50)
        assert merge(context, [window], [decoded], options, max_text_bytes=50_000) == whole
