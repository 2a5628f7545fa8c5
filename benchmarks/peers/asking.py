"""How questions go to a peer and answers come back, by its protocol."""

from __future__ import annotations

import abc
import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.rpc.electra_qa_pb2_grpc import QuestionAnsweringStub

from ..load import OK, closed_loop
from .connections import HttpConnections
from .roster import Protocol

Question = tuple[str, str]

CALLERS = 64
BATCH_QUESTIONS = 64
BATCH_CALLERS = 4
LINE_LIMIT = 2**27
DEADLINE_S = 120.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a peer found; whether it is an answer is for one threshold to say, everybody's.

    text: of the best span, "" where there is none.
    null_score_diff: the null score − the span's, in the model's logits.
    """

    text: str
    null_score_diff: float

    def at(self, null_score_diff_threshold: float) -> str:
        """Its text, or "" for no answer."""
        return "" if self.null_score_diff > null_score_diff_threshold else self.text


class AskError(Exception):
    """A peer gave no answer; the message is short enough to be counted by."""


class Asker(abc.ABC):
    """errors: how many questions had no answer, by what was said instead."""

    def __init__(self) -> None:
        self.errors: dict[str, int] = {}

    @abc.abstractmethod
    async def answer(self, question: Question) -> Answer:
        """One question. Raises AskError."""

    @abc.abstractmethod
    async def answer_all(self, questions: Sequence[Question]) -> list[Answer | None]:
        """Many, the way that is fastest for it; None where there is no answer."""

    async def renew(self) -> None:  # noqa: B027
        """Called after a pause, in which it may have lost its connections."""

    async def close(self) -> None:  # noqa: B027
        """It is not asked any more."""

    def count(self, error: AskError) -> str:
        name = str(error)
        self.errors[name] = self.errors.get(name, 0) + 1
        return name


class LinesAsker(Asker):
    """A library's process, which answers one message at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        super().__init__()
        if process.stdin is None or process.stdout is None:
            raise ValueError("the process needs pipes")
        self._to, self._from = process.stdin, process.stdout
        self._turn = asyncio.Lock()

    async def wait_until_ready(self) -> None:
        if not await self._from.readline():
            raise AskError("the process ended")

    async def answer(self, question: Question) -> Answer:
        return (await self._ask([question]))[0]

    async def answer_all(self, questions: Sequence[Question]) -> list[Answer | None]:
        return list(await self._ask(questions))

    async def _ask(self, questions: Sequence[Question]) -> list[Answer]:
        async with self._turn:
            self._to.write(json.dumps({"questions": questions}).encode() + b"\n")
            await self._to.drain()
            line = await self._from.readline()
        if not line:
            raise AskError("the process ended")
        return [Answer(*one) for one in json.loads(line)["answers"]]


class ServerAsker(Asker):
    """A server, which gets a question a call from as many callers as make it busy."""

    async def answer_all(self, questions: Sequence[Question]) -> list[Answer | None]:
        answers: list[Answer | None] = [None] * len(questions)

        async def send(request: int) -> str:
            try:
                answers[request] = await self.answer(questions[request])
            except AskError as error:
                return self.count(error)
            return OK

        await closed_loop(send, CALLERS, requests=len(questions))
        return answers


Encode = Callable[[str, str], Any]
Decode = Callable[[Any], Answer]

_HTTP: dict[Protocol, tuple[str, Encode, Decode]] = {
    "litserve": (
        "/predict",
        lambda question, context: {"question": question, "context": context},
        lambda response: Answer(response["answer"], response["null_score_diff"]),
    ),
    "bentoml": (
        "/answer",
        lambda question, context: {"questions": [{"question": question, "context": context}]},
        lambda response: Answer(*response[0]),
    ),
    # The Open Inference Protocol, version 2, of MLServer and Triton.
    "v2": (
        "/v2/models/qa/infer",
        lambda question, context: {
            "inputs": [
                {"name": name, "shape": [1, 1], "datatype": "BYTES", "data": [text]}
                for name, text in (("question", question), ("context", context))
            ]
        },
        lambda response: _from_outputs(response["outputs"]),
    ),
}


def _from_outputs(outputs: Sequence[Any]) -> Answer:
    data = {output["name"]: output["data"][0] for output in outputs}
    return Answer(str(data["answer"]), float(data["null_score_diff"]))


class HttpAsker(ServerAsker):
    """JSON over HTTP on kept connections."""

    def __init__(self, port: int, protocol: Protocol) -> None:
        super().__init__()
        self._path, self._encode, self._decode = _HTTP[protocol]
        self._connections = HttpConnections("127.0.0.1", port)

    async def answer(self, question: Question) -> Answer:
        body = json.dumps(self._encode(*question)).encode()
        try:
            async with asyncio.timeout(DEADLINE_S):
                status, response = await self._connections.post(self._path, body)
        except (OSError, asyncio.IncompleteReadError, TimeoutError, KeyError) as error:
            raise AskError(type(error).__name__) from error
        if status != 200:
            raise AskError(f"HTTP {status}")
        return self._decode(json.loads(response))

    async def renew(self) -> None:
        self._connections.drop()

    async def close(self) -> None:
        self._connections.drop()


class GrpcAsker(ServerAsker):
    """electra-qa, a question a call."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self._stub = QuestionAnsweringStub(self._channel)

    async def answer(self, question: Question) -> Answer:
        request = pb.AnswerRequest(question=question[0], context=question[1])
        try:
            response = await self._stub.Answer(request, timeout=DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            raise AskError(error.code().name) from error
        return _from_response(response)

    async def close(self) -> None:
        await self._channel.close()


class GrpcBatchAsker(GrpcAsker):
    """electra-qa, many questions a call, over contexts that go with them once."""

    async def answer_all(self, questions: Sequence[Question]) -> list[Answer | None]:
        answers: list[Answer | None] = [None] * len(questions)
        starts = range(0, len(questions), BATCH_QUESTIONS)

        async def send(request: int) -> str:
            start = starts[request]
            try:
                texts = await self._batch(questions[start : start + BATCH_QUESTIONS])
            except AskError as error:
                return self.count(error)
            answers[start : start + len(texts)] = texts
            return OK

        await closed_loop(send, BATCH_CALLERS, requests=len(starts))
        return answers

    async def _batch(self, questions: Sequence[Question]) -> list[Answer | None]:
        places = {context: i for i, context in enumerate(dict.fromkeys(c for _, c in questions))}
        request = pb.AnswerBatchRequest(
            contexts=list(places),
            questions=[
                pb.BatchQuestion(question=question, context_index=places[context])
                for question, context in questions
            ],
        )
        try:
            response = await self._stub.AnswerBatch(request, timeout=DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            raise AskError(error.code().name) from error
        return [
            _from_response(result.response) if result.HasField("response") else None
            for result in response.results
        ]


def _from_response(response: pb.AnswerResponse) -> Answer:
    """Its own threshold, which `is_impossible` is by, has no say."""
    text = response.answers[0].text if response.answers else ""
    return Answer(text, response.null_score_diff)


def make_asker(protocol: Protocol, port: int) -> ServerAsker:
    """For a server on a port of this machine. Call it inside a running event loop."""
    if protocol == "grpc":
        return GrpcAsker(port)
    if protocol == "grpc-batch":
        return GrpcBatchAsker(port)
    return HttpAsker(port, protocol)
