"""What comes out of a message is what went in."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from electra_qa.server.engine.batcher import WindowRequest, WindowResult
from electra_qa.server.errors import (
    DeadlineError,
    EngineFailedError,
    InvalidRequestError,
    NoEngineError,
    OverloadedError,
    RequestError,
)
from electra_qa.server.processes import messages
from electra_qa.server.processes.messages import Queue
from electra_qa.server.processes.wire import Peer
from electra_qa.spans import DecodedWindow
from electra_qa.windows import Window

ERRORS = (OverloadedError, DeadlineError, EngineFailedError, NoEngineError, InvalidRequestError)

windows = st.builds(
    Window,
    st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=40).map(
        lambda ids: np.array(ids, np.int32)
    ),
    *[st.integers(0, 2**31 - 1)] * 4,
    st.just(0),
)
errors = st.builds(
    lambda kind, text, delay, smaller: kind(text, retry_delay_s=delay, in_a_smaller_call=smaller),
    st.sampled_from(ERRORS),
    st.text(),
    st.none() | st.floats(0.05, 10),
    st.booleans(),
)


@st.composite
def calls(draw: st.DrawFn) -> list[WindowRequest]:
    with_logits = draw(st.booleans())
    questions = draw(st.lists(st.tuples(st.lists(windows, max_size=4), st.integers(1, 512))))
    return [WindowRequest(its, longest, with_logits) for its, longest in questions]


def decoded(window: Window, spans: int, rng: np.random.Generator) -> DecodedWindow:
    """With the logits of a batch that is longer than the window."""
    return DecodedWindow(
        rng.integers(0, 512, (spans, 2), np.int32),
        rng.normal(size=(spans, 2)).astype(np.float32),
        rng.normal(size=2).astype(np.float32),
        rng.normal(size=2).astype(np.float32),
        rng.normal(size=(window.length + 3, 2)).astype(np.float32),
    )


def same(one: Any, other: Any) -> bool:
    return bool(one.dtype == other.dtype and np.array_equal(one, other))


def fields(error: RequestError) -> tuple[Any, ...]:
    return type(error), str(error), error.retry_delay_s, error.in_a_smaller_call


@given(calls(), st.none() | st.floats(allow_nan=False), st.integers(0, 2**32 - 1))
def test_a_call(requests: list[WindowRequest], deadline: float | None, generation: int) -> None:
    raw = messages.pack_call(generation, 2**60, deadline, requests)
    assert raw[0] == messages.CALL
    call = messages.unpack_call(raw)
    assert (call.generation, call.number, call.deadline) == (generation, 2**60, deadline)
    assert call.with_logits == any(sent.with_logits for sent in requests)
    assert [got.rows for got in call.requests] == [sent.rows for sent in requests]


@given(calls(), st.lists(errors), st.integers(1, 5), st.integers(0, 2**32), st.data())
def test_an_answer(
    requests: list[WindowRequest],
    failures: list[RequestError],
    spans: int,
    seed: int,
    data: st.DataObject,
) -> None:
    rng = np.random.default_rng(seed)
    call = messages.unpack_call(messages.pack_call(3, 4, None, requests))
    outcomes: list[WindowResult | RequestError] = []
    for request in requests:
        if failures and data.draw(st.booleans()):
            outcomes.append(data.draw(st.sampled_from(failures)))
            continue
        its = [decoded(window, spans, rng) for window in request.windows]
        outcomes.append(WindowResult(its, rng.random(), rng.random(), 5))
    raw = messages.pack_answer(call, outcomes, Queue(2**40, 0.25))
    assert raw[0] == messages.ANSWER
    answer = messages.unpack_answer(raw)
    assert (answer.generation, answer.number, answer.queue) == (3, 4, Queue(2**40, 0.25))
    assert len(answer.outcomes) == len(outcomes)
    for request, got, sent in zip(requests, answer.outcomes, outcomes, strict=True):
        if isinstance(sent, RequestError):
            assert isinstance(got, RequestError)
            assert fields(got) == fields(sent)
            continue
        assert isinstance(got, WindowResult)
        assert (got.queue_s, got.engine_s, got.batches) == (sent.queue_s, sent.engine_s, 5)
        for window, one, other in zip(request.windows, got.decoded, sent.decoded, strict=True):
            for name in ("spans", "span_logits", "null_logits", "log_partition"):
                assert same(getattr(one, name), getattr(other, name))
            length = window.length if request.with_logits else 0
            assert same(one.logits, other.logits[:length])


@given(errors)
def test_a_refusal(error: RequestError) -> None:
    raw = messages.pack_refusal(1, 2, error)
    assert raw[0] == messages.REFUSAL
    number, got = messages.unpack_refusal(raw)
    assert number == 2
    assert fields(got) == fields(error)


def test_a_status() -> None:
    raw = messages.pack_status(7, True, Queue(3, 0.5))
    assert raw[0] == messages.STATUS
    assert messages.unpack_status(raw) == (7, True, Queue(3, 0.5))


async def test_messages_come_whole_however_they_are_cut() -> None:
    ours, theirs = socket.socketpair()
    got: list[bytes] = []
    ended = asyncio.Event()
    peer = Peer(got.append, on_end=ended.set)
    loop = asyncio.get_running_loop()
    await loop.create_unix_connection(lambda: peer, sock=theirs)
    sent = [b"", b"a", bytes(1000), b"last"]
    ours.setblocking(False)
    for place, message in enumerate(sent):
        raw = len(message).to_bytes(4, "little") + message
        step = 1 if place < 2 else 333
        for at in range(0, len(raw), step):
            await loop.sock_sendall(ours, raw[at : at + step])
            await asyncio.sleep(0)
    ours.close()
    await asyncio.wait_for(ended.wait(), 10)
    assert got == sent
    peer.send(b"to nobody")
