"""Callers of every kind, each answer compared with what it must be."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any, NamedTuple

import grpc

from electra_qa.client import (
    AsyncClient,
    Client,
    ElectraQAError,
    ResourceExhaustedError,
    Result,
    UnavailableError,
)
from electra_qa.client.errors import from_rpc
from electra_qa.client.stream_end import StreamEnd
from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.rpc import open_inference_grpc_pb2 as oip
from electra_qa.rpc.electra_qa_pb2_grpc import QuestionAnsweringStub
from electra_qa.rpc.open_inference_grpc_pb2_grpc import GRPCInferenceServiceStub

from .questions import QUESTIONS, Answer, answer

Numbers = Sequence[int]
# The number of a question, and its answer with the model's version, or why there is none.
Outcome = tuple[int, tuple[str, Answer] | ElectraQAError]
PAUSE_S = 0.05
# Always an answer, also where the model would rather say that there is none.
ALWAYS = 1e9


@dataclass(frozen=True, slots=True)
class Connections:
    """One caller's own. raw: without retries, so that what comes is what the server said."""

    blocking: Client
    asynchronous: AsyncClient
    raw: grpc.aio.Channel


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[Connections]:
    with Client(address) as blocking:
        async with (
            AsyncClient(address) as asynchronous,
            grpc.aio.insecure_channel(address, [("grpc.enable_retries", 0)]) as raw,
        ):
            yield Connections(blocking, asynchronous, raw)


def pairs(numbers: Numbers) -> list[tuple[str, str]]:
    return [QUESTIONS[number % len(QUESTIONS)] for number in numbers]


def named(numbers: Numbers) -> Iterator[tuple[str, tuple[str, str]]]:
    return zip(map(str, numbers), pairs(numbers), strict=True)


async def anamed(numbers: Numbers) -> AsyncIterator[tuple[str, tuple[str, str]]]:
    for one in named(numbers):
        yield one


def outcome(number: int, said: Result | ElectraQAError) -> Outcome:
    if isinstance(said, ElectraQAError):
        return number, said
    best = said.answers[0]
    return number, (said.model_version, (best.text, best.start, best.end))


async def blocking_answer(to: Connections, numbers: Numbers) -> AsyncIterator[Outcome]:
    for number, pair in zip(numbers, pairs(numbers), strict=True):
        yield outcome(number, await asyncio.to_thread(to.blocking.answer, *pair))


async def blocking_batch(to: Connections, numbers: Numbers) -> AsyncIterator[Outcome]:
    said = await asyncio.to_thread(to.blocking.answer_batch, pairs(numbers))
    for each in map(outcome, numbers, said):
        yield each


async def blocking_many(to: Connections, numbers: Numbers) -> AsyncIterator[Outcome]:
    def read() -> list[Result | ElectraQAError]:
        return list(to.blocking.answer_many(pairs(numbers), batch_size=3, concurrency=2))

    for each in map(outcome, numbers, await asyncio.to_thread(read)):
        yield each


async def blocking_stream(to: Connections, numbers: Numbers) -> AsyncIterator[Outcome]:
    said = await asyncio.to_thread(lambda: list(to.blocking.answer_stream(named(numbers))))
    for id_, one in said:
        yield outcome(int(id_), one)


async def async_answer(to: Connections, numbers: Numbers) -> AsyncIterator[Outcome]:
    for number, pair in zip(numbers, pairs(numbers), strict=True):
        yield outcome(number, await to.asynchronous.answer(*pair))


async def async_batch(to: Connections, numbers: Numbers) -> AsyncIterator[Outcome]:
    for each in map(outcome, numbers, await to.asynchronous.answer_batch(pairs(numbers))):
        yield each


async def async_many(to: Connections, numbers: Numbers) -> AsyncIterator[Outcome]:
    following = iter(numbers)
    async for one in to.asynchronous.answer_many(pairs(numbers), batch_size=3, concurrency=2):
        yield outcome(next(following), one)


async def async_stream(to: Connections, numbers: Numbers) -> AsyncIterator[Outcome]:
    async for id_, one in to.asynchronous.answer_stream(anamed(numbers)):
        yield outcome(int(id_), one)


async def async_documents(to: Connections, numbers: Numbers) -> AsyncIterator[Outcome]:
    for number, (question, context) in zip(numbers, pairs(numbers), strict=True):
        said = await to.asynchronous.answer_documents(question, [context])
        (best,) = said.answers
        assert best.answer is not None
        yield number, (said.model_version, (best.text, best.answer.start, best.answer.end))


async def blocking_documents(to: Connections, numbers: Numbers) -> AsyncIterator[Outcome]:
    for number, (question, context) in zip(numbers, pairs(numbers), strict=True):
        # What comes last has no letters to answer with.
        said = await asyncio.to_thread(
            to.blocking.answer_documents, question, [context, " "], top_k=1
        )
        (best,) = said.answers
        assert best.answer is not None
        yield number, (said.model_version, (best.text, best.answer.start, best.answer.end))


async def raw_answer(to: Connections, numbers: Numbers) -> AsyncIterator[Outcome]:
    stub = QuestionAnsweringStub(to.raw)
    for number, (question, context) in zip(numbers, pairs(numbers), strict=True):
        try:
            said = await stub.Answer(
                pb.AnswerRequest(question=question, context=context), timeout=60
            )
        except grpc.RpcError as error:
            raise from_rpc(error) from None
        yield number, (said.model_version, answer(said))


def infer_request(numbers: Numbers) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(model_name="electra-qa")
    for name, texts in zip(("question", "context"), zip(*pairs(numbers), strict=True), strict=True):
        tensor = request.inputs.add(name=name, datatype="BYTES", shape=[len(numbers)])
        tensor.contents.bytes_contents.extend(text.encode() for text in texts)
    request.parameters["null_score_diff_threshold"].double_param = ALWAYS
    return request


def inferred(numbers: Numbers, said: oip.ModelInferResponse) -> Iterator[Outcome]:
    by_name = {output.name: output.contents for output in said.outputs}
    texts = [text.decode() for text in by_name["answer"].bytes_contents]
    starts, ends = by_name["start"].int_contents, by_name["end"].int_contents
    for number, *best in zip(numbers, texts, starts, ends, strict=True):
        yield number, (said.model_version, (best[0], best[1], best[2]))


async def infer(to: Connections, numbers: Numbers) -> AsyncIterator[Outcome]:
    stub: Any = GRPCInferenceServiceStub(to.raw)
    try:
        said = await stub.ModelInfer(infer_request(numbers), timeout=60)
    except grpc.RpcError as error:
        raise from_rpc(error) from None
    for each in inferred(numbers, said):
        yield each


async def infer_stream(to: Connections, numbers: Numbers) -> AsyncIterator[Outcome]:
    stub: Any = GRPCInferenceServiceStub(to.raw)
    parts = [numbers[place : place + 2] for place in range(0, len(numbers), 2)]
    call = stub.ModelStreamInfer(map(infer_request, parts), timeout=60)
    end, responses = StreamEnd(call), aiter(call)
    try:
        for part in parts:
            said: oip.ModelStreamInferResponse = await end.told(anext(responses))
            if said.error_message:
                raise ElectraQAError(said.error_message)
            for each in inferred(part, said.infer_response):
                yield each
    except grpc.RpcError as error:
        raise from_rpc(error) from None


class Kind(NamedTuple):
    """questions: of one round."""

    ask: Callable[[Connections, Numbers], AsyncIterator[Outcome]]
    questions: int


KINDS = [
    Kind(blocking_answer, 1),
    Kind(blocking_batch, 5),
    Kind(blocking_many, 10),
    Kind(blocking_stream, 10),
    Kind(async_answer, 1),
    Kind(async_batch, 5),
    Kind(async_many, 10),
    Kind(async_stream, 10),
    Kind(blocking_documents, 2),
    Kind(async_documents, 2),
    Kind(raw_answer, 1),
    Kind(infer, 3),
    Kind(infer_stream, 5),
]
# Without our client's retries.
RAW = {kind.ask.__name__ for kind in KINDS[-3:]}


@dataclass(slots=True)
class Tally:
    """right: the answers by the model's version, in the order of QUESTIONS."""

    right: Mapping[str, Sequence[Answer]]
    in_force: str = ""
    answered: Counter[str] = field(default_factory=Counter)
    wrong: list[tuple[str, int, str, Answer]] = field(default_factory=list)
    failed: list[tuple[str, ElectraQAError]] = field(default_factory=list)
    # Told when to come again, as a machine under load may do: no failure.
    refused: int = 0
    # No new questions once it is set.
    ending: asyncio.Event = field(default_factory=asyncio.Event)
    # What is UNAVAILABLE is asked again; else it ends its caller.
    asks_again: bool = True

    def add(self, kind: str, number: int, version: str, said: Answer) -> None:
        self.in_force = version
        self.answered[kind] += 1
        if said != self.right[version][number % len(QUESTIONS)]:
            self.wrong.append((kind, number, version, said))

    @property
    def counts(self) -> Counter[str]:
        counts = Counter(
            answered=self.answered.total(), wrong=len(self.wrong), refused=self.refused
        )
        counts.update(type(error).__name__ for _, error in self.failed)
        return counts


def retry_after(failure: ElectraQAError) -> float | None:
    return failure.retry_after_s if isinstance(failure, ResourceExhaustedError) else None


async def keep_asking(kind: Kind, address: str, first: int, tally: Tally) -> None:
    """Until `tally.ending`, each question until it is answered; ends at any other failure than that
    no server is there."""
    name = kind.ask.__name__
    numbers = count(first)
    async with connected(address) as to:
        while not tally.ending.is_set():
            missing = list(islice(numbers, kind.questions))
            while missing:
                failures = []
                try:
                    async for number, said in kind.ask(to, missing):
                        if isinstance(said, ElectraQAError):
                            failures.append(said)
                        else:
                            tally.add(name, number, *said)
                            missing = [one for one in missing if one != number]
                except ElectraQAError as error:
                    failures.append(error)
                assert failures or not missing, f"{name} ended without {missing}"
                delays = [delay for one in failures if (delay := retry_after(one)) is not None]
                failures = [one for one in failures if retry_after(one) is None]
                tally.refused += len(delays)
                tally.failed += [(name, failure) for failure in failures]
                if not failures:
                    await asyncio.sleep(max(delays, default=0))
                elif not tally.asks_again or not all(
                    isinstance(failure, UnavailableError) for failure in failures
                ):
                    return
                else:
                    await asyncio.sleep(PAUSE_S)


@asynccontextmanager
async def callers(
    address: str, tally: Tally, of_each_kind: int
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """They ask inside the block. Gives what waits for their last answers, and raises TimeoutError
    where these don't come."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(len(KINDS) * of_each_kind + 8))
    asking = [
        asyncio.create_task(keep_asking(kind, address, 7 * place, tally))
        for kind in KINDS
        for place in range(of_each_kind)
    ]

    async def finish() -> None:
        tally.ending.set()
        async with asyncio.timeout(120):
            await asyncio.gather(*asking)

    try:
        yield finish
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
