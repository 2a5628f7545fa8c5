"""Why a request is not answered, each with the gRPC status that it becomes.

Messages go over the wire: they name the field and the limit, never a path or a stack.
"""

from __future__ import annotations

from grpc import StatusCode


class RequestError(Exception):
    """The base: a question fails with `code` and the message."""

    code = StatusCode.INTERNAL
    # Sent along as the trailing metadata RETRY_AFTER, where trying again makes sense.
    retry_after_ms: int | None = None


class InvalidRequestError(RequestError):
    """A field has a value that can't be served, whenever it comes."""

    code = StatusCode.INVALID_ARGUMENT


class OverloadedError(RequestError):
    """The queue is full; the same request may pass a little later."""

    code = StatusCode.RESOURCE_EXHAUSTED
    retry_after_ms = 250


class DeadlineError(RequestError):
    """The call's deadline came before the engine took all of its windows."""

    code = StatusCode.DEADLINE_EXCEEDED


class ShuttingDownError(RequestError):
    """The server finishes what it has and takes nothing new."""

    code = StatusCode.UNAVAILABLE


class EngineFailedError(RequestError):
    """The engine failed on a batch; the server's log has the reason."""

    code = StatusCode.INTERNAL
