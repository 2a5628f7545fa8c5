"""Why a server does not start, and why a request is not answered, each with its gRPC status.

Messages of the latter go over the wire: they name the field and the limit, never a path or a stack.
"""

from __future__ import annotations

from grpc import StatusCode


class StartError(Exception):
    """The server can't start as it is set; the message says why."""


# What a caller is told to wait before it tries again, in seconds.
SHORTEST_DELAY_S = 0.05
LONGEST_DELAY_S = 10.0
# Of a message, in characters. It goes into a header, where one that isn't ASCII takes up to 12
# bytes, and over 8 kB of headers clients get RESOURCE_EXHAUSTED instead of what was said.
LONGEST_MESSAGE = 512


class RequestError(Exception):
    """The base: a question fails with `code` and the message, cut where it is too long: some
    repeat what the caller sent.

    retry_delay_s: when to try again, in seconds; None where that makes no sense.
    in_a_smaller_call: a question of many that a call with fewer may answer.
    """

    code = StatusCode.INTERNAL

    def __init__(
        self,
        message: str,
        *,
        retry_delay_s: float | None = None,
        in_a_smaller_call: bool = False,
    ) -> None:
        if len(message) > LONGEST_MESSAGE:
            message = message[: LONGEST_MESSAGE - 1] + "…"
        super().__init__(message)
        self.in_a_smaller_call = in_a_smaller_call
        self.retry_delay_s = (
            None
            if retry_delay_s is None
            else min(max(retry_delay_s, SHORTEST_DELAY_S), LONGEST_DELAY_S)
        )


class InvalidRequestError(RequestError):
    """A field has a value that can't be served, whenever it comes."""

    code = StatusCode.INVALID_ARGUMENT


class OverloadedError(RequestError):
    """The queue is full, or too long for the call's deadline; a little later it may pass."""

    code = StatusCode.RESOURCE_EXHAUSTED


class RateLimitError(RequestError):
    """The caller's token asks more questions a second than it may."""

    code = StatusCode.RESOURCE_EXHAUSTED


class DeadlineError(RequestError):
    """The call's deadline came before the engine took all of its windows, or is sure to."""

    code = StatusCode.DEADLINE_EXCEEDED


SHUTTING_DOWN = "the server is shutting down"


class ShuttingDownError(RequestError):
    """The server finishes what it has and takes nothing new."""

    code = StatusCode.UNAVAILABLE


class EngineFailedError(RequestError):
    """The engine failed on a batch; the server's log has the reason."""

    code = StatusCode.INTERNAL


class NoEngineError(RequestError):
    """The engine's process ended, and is started again."""

    code = StatusCode.UNAVAILABLE


class ModelNotFoundError(RequestError):
    """No model of this name and version is served here."""

    code = StatusCode.NOT_FOUND


class ReloadError(RequestError):
    """The bundle can't be taken into service; the one before it goes on."""

    code = StatusCode.FAILED_PRECONDITION
