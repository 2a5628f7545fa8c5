"""The blocking client."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle
from types import TracebackType
from typing import Generic, NoReturn, Self, TypeVar, Unpack

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from electra_qa.credentials import Credentials, Tls
from electra_qa.interrupts import begun, close
from electra_qa.private import becomes_healthy
from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.rpc.electra_qa_pb2_grpc import QuestionAnsweringStub

from .channel import (
    CHECK_S,
    LONGEST_WATCH_S,
    LOOK_UP_AGAIN_S,
    channel_options,
    check_channels,
    name_not_found,
)
from .cutting import Room, asked_again, calls, halves, is_too_large
from .documents import (
    Document,
    DocumentsQuestion,
    DocumentsResult,
    check_documents,
    documents_result,
)
from .errors import (
    ClosedError,
    DeadlineExceededError,
    ElectraQAError,
    UnavailableError,
    from_rpc,
    wait_before_retry,
)
from .messages import (
    Options,
    Outcome,
    Question,
    Result,
    batch_message,
    check_sizes,
    options_message,
    outcome,
    question_of,
    request_message,
    result,
    stream_messages,
)
from .timeouts import DEFAULT_TIMEOUT_S, grpc_timeout, seconds_of
from .took import Took
from .tracing import with_trace

Message = TypeVar("Message")

# Connections of a parent, in its forked child: closing one there could wait for ever.
_of_the_parent: list[_Connection] = []


class _Connection:
    """Channels and what calls through them in turn, of one process."""

    def __init__(self, address: str, credentials: Credentials, channels: int) -> None:
        self._channels = [
            credentials.open_channel(address, channel_options()) for _ in range(channels)
        ]
        self._stubs = cycle([QuestionAnsweringStub(channel) for channel in self._channels])
        self.health = HealthStub(self._channels[0])
        self.pid = os.getpid()
        self.made = time.monotonic()

    @property
    def questions(self) -> QuestionAnsweringStub:
        return next(self._stubs)

    def close(self) -> None:
        for channel in self._channels:
            close(channel)


class Client:
    """Asks a server. Safe to share between threads; close it, or use it in a `with` block.

    address: host:port, or unix:/path.
    timeout: of a call that does not have its own, in seconds; None or infinity for none.
    tls: None for plain text.
    token: a bearer token, sent with every call. It goes to another machine in plain text only with
        `insecure`.
    channels: connections that calls take in turn. A server with several front ends answers all
        calls of a connection with the same one.

    Making one raises CredentialsError where TLS or the token can't be used.

    Every method raises `ElectraQAError`s, `ClosedError` once it is closed, and takes the options of
    `Options` by name. A forked child may use its parent's, with a connection of its own.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout: float | None = DEFAULT_TIMEOUT_S,
        tls: Tls | None = None,
        token: str | None = None,
        insecure: bool = False,
        channels: int = 1,
    ) -> None:
        seconds_of(timeout)
        check_channels(channels)
        self.address = address
        self.timeout = timeout
        self._credentials = Credentials(tls, token, insecure)
        self._metadata = self._credentials.metadata
        self._channels = channels
        self._connection = self._connected()
        self._closed = False
        # What `answer_many` cuts its calls by, once it has asked.
        self._limits: pb.GetInfoResponse | None = None

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Client is a connection and can't be pickled: make one in each process")

    def close(self) -> None:
        """Calls that are under way raise ClosedError."""
        self._closed = True
        if self._connection.pid == os.getpid():
            self._connection.close()

    def _connected(self) -> _Connection:
        return _Connection(self.address, self._credentials, self._channels)

    def _open(self) -> _Connection:
        """The connection of this process. Raises ClosedError."""
        if self._closed:
            raise _closed()
        if self._connection.pid != os.getpid():
            _of_the_parent.append(self._connection)
            self._connection = self._connected()
        return self._connection

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """What gRPC raises, as errors of ours."""
        try:
            yield
        except grpc.RpcError as error:
            failure = _closed() if self._closed else from_rpc(error)
            if name_not_found(failure):
                self._look_up_again()
            raise failure from None
        except (ValueError, grpc.FutureCancelledError):
            # Another thread closed it just before the call was made.
            if self._closed:
                raise _closed() from None
            raise

    def _look_up_again(self) -> None:
        """No call is under way that has found a server: the old channel is let go, not closed."""
        if time.monotonic() - self._connection.made > LOOK_UP_AGAIN_S:
            self._connection = self._connected()

    def _seconds(self, timeout: float | None) -> float:
        return seconds_of(timeout, self.timeout)

    def wait_until_ready(self, timeout: float | None = None) -> None:
        """Return once the server's health is SERVING. Raises DeadlineExceededError."""
        give_up = time.monotonic() + self._seconds(timeout)
        while True:
            left = give_up - time.monotonic()
            try:
                with self._failures():
                    health = self._open().health
                    if becomes_healthy(health, grpc_timeout(min(left, LONGEST_WATCH_S))):
                        return
            except DeadlineExceededError:
                if left <= LONGEST_WATCH_S:
                    raise
                # Unlike the watch it says why, and where it is the name that is looked up again.
                with suppress(ElectraQAError), self._failures():
                    self._open().health.Check(health_pb2.HealthCheckRequest(), timeout=CHECK_S)
            else:
                raise UnavailableError("the server ended its health watch")

    def info(self, *, timeout: float | None = None) -> pb.GetInfoResponse:
        """The model that answers, its defaults, and the limits of the server."""
        seconds = grpc_timeout(self._seconds(timeout))
        with self._failures():
            return self._open().questions.GetInfo(
                pb.GetInfoRequest(), timeout=seconds, metadata=self._metadata
            )

    def answer(
        self,
        question: str,
        context: str,
        *,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Result:
        """Ask one question about one context."""
        request = request_message(question, context, options)
        seconds = grpc_timeout(self._seconds(timeout))
        with self._failures():
            response = self._open().questions.Answer(
                request, timeout=seconds, metadata=with_trace(self._metadata)
            )
        return result(response)

    def answer_batch(
        self,
        questions: Iterable[tuple[str, str]],
        *,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> list[Outcome]:
        """Ask (question, context) pairs in one message; shared contexts are sent once.

        A question that failed has its error in the list, in its place.
        """
        request = batch_message(map(question_of, questions), options)
        seconds = grpc_timeout(self._seconds(timeout))
        with self._failures():
            response = self._open().questions.AnswerBatch(
                request, timeout=seconds, metadata=with_trace(self._metadata)
            )
        return [outcome(message) for message in response.results]

    def answer_many(
        self,
        questions: Iterable[tuple[str, str]],
        *,
        batch_size: int = 64,
        concurrency: int = 4,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Iterator[Outcome]:
        """Ask any number of (question, context) pairs; outcomes come in order, as they get ready.

        Reads `questions` only as far ahead as `concurrency` calls of at most `batch_size`, so that
        a million take no more memory than a few. A call is as large as the server takes, and what
        it refuses all the same is asked in smaller ones: a question that it would take alone is
        answered. One that failed has its error in its place. The timeout is of one call, and as
        long as that it is tried again where the server's queue is full. A call that failed as a
        whole raises.
        """
        check_sizes(batch_size, concurrency)
        options_message(options)
        seconds = self._seconds(timeout)
        if self._limits is None:
            self._limits = self.info(timeout=timeout)
        room = Room.of(self._limits, options, batch_size)
        pending: deque[_Call] = deque()
        try:
            for batch in calls(questions, room):
                if len(pending) == concurrency:
                    yield from self._outcomes(pending.popleft(), options, seconds)
                pending.append(self._begin(batch, batch_message(batch, options), seconds))
            while pending:
                yield from self._outcomes(pending.popleft(), options, seconds)
        finally:
            for call in pending:
                call.future.cancel()

    def _begin(
        self, batch: Sequence[Question], request: pb.AnswerBatchRequest, seconds: float
    ) -> _Call:
        with self._failures():
            stub, timeout = self._open().questions, grpc_timeout(seconds)
            metadata = with_trace(self._metadata)
            future = begun(
                lambda: stub.AnswerBatch.future(request, timeout=timeout, metadata=metadata)
            )
        return _Call(batch, request, Took(future, time.monotonic), future)

    def _outcomes(self, call: _Call, options: Options, seconds: float) -> list[Outcome]:
        """Of one call and of those that it takes to ask again what was too much for it."""
        give_up = time.monotonic() + seconds
        while True:
            try:
                with self._failures():
                    outcomes = [outcome(message) for message in call.future.result().results]
                again = asked_again(outcomes)
                break
            except ElectraQAError as failure:
                if is_too_large(failure, call.took.seconds(), seconds):
                    outcomes = [failure] * len(call.questions)
                    again = halves(range(len(outcomes)))
                    break
                time.sleep(wait_before_retry(failure, give_up - time.monotonic()))
            call = self._begin(call.questions, call.request, seconds)
        if again:
            self._limits = None  # they may be others by now
        for places in again:
            smaller = [call.questions[place] for place in places]
            begun = self._begin(smaller, batch_message(smaller, options), seconds)
            answered = self._outcomes(begun, options, seconds)
            for place, one in zip(places, answered, strict=True):
                outcomes[place] = one
        return outcomes

    def answer_documents(
        self,
        question: str,
        documents: Iterable[str | Document],
        *,
        answers_per_document: int = 1,
        no_answer: bool = False,
        read_top: int | None = None,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> DocumentsResult:
        """Ask one question about any number of texts; the best `top_k` answers over all of them.

        answers_per_document: how many of them may be of the same document.
        no_answer: have "no answer" as one of the results, in its place among them.
        read_top: read only so many documents, the most promising ones by BM25. The server then
            holds all of them until the last has come, and what it holds is bounded.
        timeout: of all of it, by default none.

        Reads `documents` as the server reads them, so that they need no memory all at once. One
        that can't be read is told of in the result. A list is sent again where the server's queue
        is full, as long as the timeout; an iterator can't be, and raises ResourceExhaustedError.
        What `documents` raises is raised here.
        """
        check_documents(documents)
        asked = DocumentsQuestion(question, options, answers_per_document, no_answer, read_top)
        seconds = seconds_of(timeout)
        give_up = time.monotonic() + seconds
        while True:
            source = _Source(asked.messages(documents))
            try:
                with self._failures():
                    response = self._open().questions.AnswerDocuments(
                        source,
                        timeout=grpc_timeout(give_up - time.monotonic()),
                        metadata=with_trace(self._metadata),
                    )
                return documents_result(response)
            except ElectraQAError as failure:
                if source.error is not None:
                    raise source.error from None
                if not isinstance(documents, Sequence):
                    raise
                time.sleep(wait_before_retry(failure, give_up - time.monotonic()))

    def answer_stream(
        self,
        questions: Iterable[tuple[str, tuple[str, str]]],
        *,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Iterator[tuple[str, Outcome]]:
        """Send (id, (question, context)) as they come; get (id, outcome) as they get ready.

        In whatever order the answers come. `timeout` is of the whole stream, by default none.
        What `questions` raises is raised here.
        """
        options_message(options)
        seconds = grpc_timeout(seconds_of(timeout))
        source = _Source(stream_messages(questions, options))
        with self._failures():
            stub, metadata = self._open().questions, with_trace(self._metadata)
            call = begun(lambda: stub.AnswerStream(source, timeout=seconds, metadata=metadata))
        try:
            while True:
                try:
                    with self._failures():
                        response = next(call)
                except StopIteration:
                    return
                except ElectraQAError:
                    if source.error is not None:
                        raise source.error from None
                    raise
                yield response.id, outcome(response.result)
        finally:
            call.cancel()


@dataclass(frozen=True, slots=True)
class _Call:
    """An AnswerBatch under way."""

    questions: Sequence[Question]
    request: pb.AnswerBatchRequest
    took: Took
    future: grpc.Future[pb.AnswerBatchResponse]


class _Source(Generic[Message]):
    """Requests for gRPC, which reads them on a thread of its own and drops what they raise."""

    def __init__(self, messages: Iterator[Message]) -> None:
        self._messages = messages
        self.error: BaseException | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Message:
        try:
            return next(self._messages)
        except StopIteration:
            raise
        except BaseException as error:
            self.error = error
            # Of others than these gRPC's thread would die, and the call never end.
            raise RuntimeError("the caller's iterable ended with an error") from error


def _closed() -> ClosedError:
    return ClosedError("the client is closed")
