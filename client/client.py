"""The blocking client."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self, Unpack

import grpc

from electra_qa.credentials import Credentials, Tls
from electra_qa.private import becomes_healthy
from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.rpc.electra_qa_pb2_grpc import QuestionAnsweringStub

from .channel import DEFAULT_TIMEOUT_S, OPTIONS
from .errors import UnavailableError, from_rpc, wait_before_retry
from .messages import (
    Options,
    Outcome,
    Result,
    batch_message,
    batches,
    check_sizes,
    options_message,
    outcome,
    request_message,
    result,
    stream_messages,
)
from .tracing import with_trace


class Client:
    """Asks a server. Safe to share between threads; close it, or use it in a `with` block.

    address: host:port, or unix:/path.
    timeout: of a call that does not have its own, in seconds.
    tls: None for plain text.
    token: a bearer token, sent with every call. It goes to another machine in plain text only with
        `insecure`.

    Making one raises CredentialsError where TLS or the token can't be used.

    Every method raises `ElectraQAError`s, and takes the options of `Options` by name.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        tls: Tls | None = None,
        token: str | None = None,
        insecure: bool = False,
    ) -> None:
        credentials = Credentials(tls, token, insecure)
        self.address = address
        self.timeout = timeout
        self._channel = credentials.open_channel(address, OPTIONS)
        self._metadata = credentials.metadata
        self._stub = QuestionAnsweringStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._channel.close()

    def _timeout(self, timeout: float | None) -> float:
        return self.timeout if timeout is None else timeout

    def wait_until_ready(self, timeout: float | None = None) -> None:
        """Return once the server's health is SERVING. Raises DeadlineExceededError."""
        try:
            if not becomes_healthy(self._channel, self._timeout(timeout)):
                raise UnavailableError("the server ended its health watch")
        except grpc.RpcError as error:
            raise from_rpc(error) from None

    def info(self, *, timeout: float | None = None) -> pb.GetInfoResponse:
        """The model that answers, its defaults, and the limits of the server."""
        try:
            return self._stub.GetInfo(
                pb.GetInfoRequest(), timeout=self._timeout(timeout), metadata=self._metadata
            )
        except grpc.RpcError as error:
            raise from_rpc(error) from None

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
        try:
            return result(
                self._stub.Answer(
                    request, timeout=self._timeout(timeout), metadata=with_trace(self._metadata)
                )
            )
        except grpc.RpcError as error:
            raise from_rpc(error) from None

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
        request = batch_message(questions, options)
        try:
            response = self._stub.AnswerBatch(
                request, timeout=self._timeout(timeout), metadata=with_trace(self._metadata)
            )
        except grpc.RpcError as error:
            raise from_rpc(error) from None
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

        Reads `questions` only as far ahead as `concurrency` batches of `batch_size`, so that a
        million take no more memory than a few. The timeout is of one batch, and as long as that it
        is tried again where the server's queue is full. A question that failed has its error in its
        place; a batch that failed as a whole raises.
        """
        check_sizes(batch_size, concurrency)
        seconds = self._timeout(timeout)
        pending: deque[tuple[pb.AnswerBatchRequest, grpc.Future[pb.AnswerBatchResponse]]] = deque()
        try:
            for batch in batches(questions, batch_size):
                if len(pending) == concurrency:
                    yield from self._outcomes(*pending.popleft(), seconds)
                request = batch_message(batch, options)
                pending.append(
                    (
                        request,
                        self._stub.AnswerBatch.future(
                            request, timeout=seconds, metadata=with_trace(self._metadata)
                        ),
                    )
                )
            while pending:
                yield from self._outcomes(*pending.popleft(), seconds)
        finally:
            for _, call in pending:
                call.cancel()

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
        source = _Source(questions, options)
        call = self._stub.AnswerStream(
            iter(source), timeout=timeout, metadata=with_trace(self._metadata)
        )
        try:
            for response in call:
                yield response.id, outcome(response.result)
        except grpc.RpcError as error:
            if source.error is not None:
                raise source.error from None
            raise from_rpc(error) from None
        finally:
            call.cancel()

    def _outcomes(
        self,
        request: pb.AnswerBatchRequest,
        call: grpc.Future[pb.AnswerBatchResponse],
        seconds: float,
    ) -> list[Outcome]:
        give_up = time.monotonic() + seconds
        while True:
            try:
                return [outcome(message) for message in call.result().results]
            except grpc.RpcError as error:
                failure = from_rpc(error)
            time.sleep(wait_before_retry(failure, give_up - time.monotonic()))
            call = self._stub.AnswerBatch.future(
                request, timeout=seconds, metadata=with_trace(self._metadata)
            )


class _Source:
    """Requests for gRPC, which reads them on a thread of its own and drops what they raise."""

    def __init__(self, questions: Iterable[tuple[str, tuple[str, str]]], options: Options) -> None:
        self._questions = questions
        self._options = options
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[pb.AnswerStreamRequest]:
        try:
            yield from stream_messages(self._questions, self._options)
        except Exception as error:
            self.error = error
            raise
