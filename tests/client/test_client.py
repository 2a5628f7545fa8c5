"""Both clients against one real server."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Iterator

import grpc
import pytest

from electra_qa.client import (
    AsyncClient,
    Client,
    DeadlineExceededError,
    ElectraQAError,
    InternalError,
    InvalidArgumentError,
    PrivateServer,
    PrivateServerError,
    ResourceExhaustedError,
    Result,
    UnavailableError,
)
from electra_qa.client.errors import from_failure
from electra_qa.rpc import electra_qa_pb2 as pb

Pairs = list[tuple[str, str]]
FLU = (
    "A new strain of flu that has the potential to become a pandemic has been identified in China."
)


def texts(outcomes: list[Result | ElectraQAError]) -> list[str]:
    return [outcome.text for outcome in outcomes if isinstance(outcome, Result)]


async def test_every_way_of_asking_has_the_same_answers(
    server: PrivateServer, pairs: Pairs
) -> None:
    async def stream() -> AsyncIterator[tuple[str, tuple[str, str]]]:
        for number, pair in enumerate(pairs):
            yield str(number), pair

    with Client(server.address) as client:
        expected = [client.answer(*pair) for pair in pairs]
        answers = [result.text for result in expected]
        assert texts(client.answer_batch(pairs)) == answers
        assert texts(list(client.answer_many(pairs, batch_size=5, concurrency=2))) == answers
        streamed = dict(client.answer_stream((str(n), pair) for n, pair in enumerate(pairs)))
        assert texts([streamed[str(n)] for n in range(len(pairs))]) == answers
    async with AsyncClient(server.address) as aclient:
        assert [(await aclient.answer(*pair)).text for pair in pairs] == answers
        assert texts(await aclient.answer_batch(pairs)) == answers
        many = [o async for o in aclient.answer_many(pairs, batch_size=5, concurrency=2)]
        assert texts(many) == answers
        astreamed = dict([pair async for pair in aclient.answer_stream(stream())])
        assert texts([astreamed[str(n)] for n in range(len(pairs))]) == answers
    assert "wild yeast and lactic acid bacteria" in answers
    assert "" in answers


def test_a_result_says_where_and_how_sure(server: PrivateServer) -> None:
    with Client(server.address) as client:
        result = client.answer("Where was the flu identified?", FLU, top_k=5)
    best = result.answers[0]
    assert result.text == best.text == "China"
    assert FLU[best.start : best.end] == "China"
    assert 0 < best.score <= 1
    assert result.null_score - result.null_score_diff == pytest.approx(
        best.start_logit + best.end_logit
    )
    assert [a.start_logit + a.end_logit for a in result.answers] == sorted(
        (a.start_logit + a.end_logit for a in result.answers), reverse=True
    )
    assert len({a.text for a in result.answers}) == 5
    assert result.windows == 1
    assert result.engine_ms > 0


def test_the_clients_have_one_surface() -> None:
    def surface(client: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(member).parameters)
            for name, member in vars(client).items()
            if not name.startswith("_")
        }

    assert surface(Client) == surface(AsyncClient)


@pytest.mark.parametrize(
    ("error", "code", "builtin"),
    [
        (InvalidArgumentError, grpc.StatusCode.INVALID_ARGUMENT, ValueError),
        (DeadlineExceededError, grpc.StatusCode.DEADLINE_EXCEEDED, TimeoutError),
        (ResourceExhaustedError, grpc.StatusCode.RESOURCE_EXHAUSTED, Exception),
        (UnavailableError, grpc.StatusCode.UNAVAILABLE, ConnectionError),
        (InternalError, grpc.StatusCode.INTERNAL, Exception),
        (ElectraQAError, grpc.StatusCode.UNIMPLEMENTED, Exception),
    ],
)
def test_each_status_has_its_error(
    error: type[Exception], code: grpc.StatusCode, builtin: type[Exception]
) -> None:
    made = from_failure(pb.Failure(code=code.value[0], message="why"))
    assert type(made) is error
    assert made.code is code
    assert isinstance(made, builtin)
    assert str(made) == "why"


def test_a_failure_of_many_says_when_to_try_again() -> None:
    failure = pb.Failure(code=grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], message="full")
    made = from_failure(failure)
    assert isinstance(made, ResourceExhaustedError)
    assert made.retry_after_s is None
    failure.retry_delay.FromMilliseconds(1250)
    made = from_failure(failure)
    assert isinstance(made, ResourceExhaustedError)
    assert made.retry_after_s == 1.25


def test_no_server_is_unavailable() -> None:
    with Client("127.0.0.1:1", timeout=20) as client, pytest.raises(UnavailableError):
        client.answer("who?", FLU)


def test_a_deadline_already_past_is_said(server: PrivateServer) -> None:
    with Client(server.address) as client, pytest.raises(DeadlineExceededError):
        client.answer("who?", FLU, timeout=0)


def test_many_reads_no_further_ahead_than_it_asks(server: PrivateServer, pairs: Pairs) -> None:
    read = 0

    def endless() -> Iterator[tuple[str, str]]:
        nonlocal read
        while True:
            read += 1
            yield pairs[read % len(pairs)]

    with Client(server.address) as client:
        outcomes = client.answer_many(endless(), batch_size=2, concurrency=2)
        for _ in range(3):
            next(outcomes)
        assert read <= 3 + 2 * 3
        outcomes.close()  # type: ignore[attr-defined]
        assert client.answer(*pairs[0]).text


@pytest.mark.parametrize("sizes", [{"batch_size": 0}, {"concurrency": 0}])
def test_sizes_that_would_ask_nothing_are_refused(
    server: PrivateServer, pairs: Pairs, sizes: dict[str, int]
) -> None:
    with Client(server.address) as client, pytest.raises(ValueError, match="at least 1"):
        list(client.answer_many(pairs, **sizes))  # type: ignore[arg-type]


def test_one_bad_question_of_many_has_its_error_in_its_place(
    server: PrivateServer, pairs: Pairs
) -> None:
    with Client(server.address) as client:
        outcomes = list(client.answer_many([pairs[0], ("", FLU), pairs[1]]))
    assert [type(outcome) for outcome in outcomes] == [Result, InvalidArgumentError, Result]


def test_what_the_callers_own_questions_raise_comes_through(server: PrivateServer) -> None:
    def questions() -> Iterator[tuple[str, tuple[str, str]]]:
        yield "1", ("who?", FLU)
        raise KeyError("mine")

    with Client(server.address) as client, pytest.raises(KeyError, match="mine"):
        list(client.answer_stream(questions()))


def test_a_private_server_that_does_not_come_up_says_why() -> None:
    with pytest.raises(PrivateServerError, match="no bundle at /no/such/bundle"):
        PrivateServer("/no/such/bundle")
