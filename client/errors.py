"""Every way a call can fail, in one hierarchy, named after the gRPC statuses."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from grpc_status import rpc_status

from electra_qa.rpc import electra_qa_pb2 as pb


class ElectraQAError(Exception):
    """The base of all of them, and any status that has no class of its own.

    code: the gRPC status, None where no call was made.
    in_a_smaller_call: the question was one too many for its call, and may be answered in one with
        fewer; `answer_many` asks again by itself.
    """

    code: grpc.StatusCode | None
    in_a_smaller_call: bool = False

    def __init__(self, message: str, code: grpc.StatusCode | None = None) -> None:
        super().__init__(message)
        self.code = code


class InvalidArgumentError(ElectraQAError, ValueError):
    """The question can't be answered as it was asked; the message names the field and the limit."""


class DeadlineExceededError(ElectraQAError, TimeoutError):
    """The answer did not come within the timeout."""


class ResourceExhaustedError(ElectraQAError):
    """The server's queue is full, or too long for the timeout: try again later. Or the message is
    over the server's size limit.

    retry_after_s: when to try again, in seconds; None where that makes no sense.
    """

    retry_after_s: float | None = None


class UnavailableError(ElectraQAError, ConnectionError):
    """No server is there, or it is shutting down."""


class UnauthenticatedError(ElectraQAError, PermissionError):
    """The server asks for a token, and has none like the one that came, if one did."""


class InternalError(ElectraQAError):
    """The server failed on the question; its log has the reason."""


class ClosedError(ElectraQAError, RuntimeError):
    """The client or the private server was closed, before the call or while it was under way."""


class PrivateServerError(ElectraQAError):
    """The server that the client starts for itself did not come up."""


_CLASSES: dict[grpc.StatusCode, type[ElectraQAError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhaustedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    # By the server: what is cancelled here is no error of a call.
    grpc.StatusCode.CANCELLED: UnavailableError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.INTERNAL: InternalError,
}
_BY_NUMBER = {status.value[0]: status for status in grpc.StatusCode}


# How gRPC refuses a message, by its length or by that of what it unpacks to.
_OVER_THE_LIMIT = "Received message larger than max"

# How a server refuses a context without a single token.
_NOTHING_TO_READ = ("context is empty", "context is blank", "context has no tokens")


def is_nothing_to_read(error: ElectraQAError) -> bool:
    """Whether the context of a question has nothing in it."""
    return isinstance(error, InvalidArgumentError) and str(error).startswith(_NOTHING_TO_READ)


def from_status(code: grpc.StatusCode, message: str) -> ElectraQAError:
    return _CLASSES.get(code, ElectraQAError)(message, code)


def wait_before_retry(failure: ElectraQAError, seconds_left: float) -> float:
    """How long to wait before trying again, in seconds; raises `failure` where that is no use."""
    if not isinstance(failure, ResourceExhaustedError) or failure.retry_after_s is None:
        raise failure
    if failure.retry_after_s > seconds_left:
        raise failure
    return failure.retry_after_s


def from_failure(failure: pb.Failure) -> ElectraQAError:
    """For a question of many, which has the status code as a number."""
    code = _BY_NUMBER.get(failure.code, grpc.StatusCode.UNKNOWN)
    delay = failure.retry_delay if failure.HasField("retry_delay") else None
    error = _from_status(code, failure.message, delay)
    error.in_a_smaller_call = failure.in_a_smaller_call
    return error


def from_rpc(error: grpc.RpcError) -> ElectraQAError:
    """For what a call raised: it is a `grpc.Call` as well, which has the status."""
    code = error.code() if hasattr(error, "code") else grpc.StatusCode.UNKNOWN
    details = error.details() if hasattr(error, "details") else None
    return _from_status(code, _in_our_words(details or code.name), _retry_delay(error))


def _in_our_words(details: str) -> str:
    """gRPC itself refuses what is over the server's limit, and knows no name for that."""
    if _OVER_THE_LIMIT not in details:
        return details
    return (
        f"{details}: a message to this server has at most max_message_bytes. Ask less in one call, "
        "as answer_many does by itself, or have the server started with a larger "
        "--max-message-bytes"
    )


def _retry_delay(error: Any) -> Duration | None:
    """What the server says in a google.rpc.RetryInfo, if it does."""
    try:
        status = rpc_status.from_call(error) if hasattr(error, "trailing_metadata") else None
    except (DecodeError, ValueError):  # a proxy changed the code or the message, not the details
        return None
    info = RetryInfo()
    found = any(detail.Unpack(info) for detail in (status.details if status else ()))
    delay: Duration = info.retry_delay
    return delay if found else None


def _from_status(code: grpc.StatusCode, message: str, delay: Duration | None) -> ElectraQAError:
    error = from_status(code, message)
    if isinstance(error, ResourceExhaustedError) and delay is not None:
        error.retry_after_s = delay.ToMilliseconds() / 1e3
    return error
