"""What goes between Ray's proxy and a replica, and back.

Ray passes a message, a status' code and its text, and nothing else: the deadline of a call and the
details of an error (when to try again) travel in the message.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

import grpc
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

Metadata = tuple[tuple[str, str | bytes], ...]

_DETAILS = "grpc-status-details-bin"
_MESSAGE, _ERROR = b"\0", b"\1"


@dataclass(frozen=True, slots=True)
class Call:
    """raw: the caller's message; of a call of many messages empty, those follow.

    remaining_s: until the call's deadline, None where it has none.
    """

    raw: bytes
    remaining_s: float | None


class EndedError(Exception):
    """A call ended with a status that is not OK."""

    def __init__(self, code: grpc.StatusCode, message: str, trailing: Metadata = ()) -> None:
        super().__init__(message)
        self.code = code
        self.trailing = trailing


class Reply:
    """What a replica says, in the form that Ray serializes."""

    def __init__(self, frame: bytes) -> None:
        self._frame = frame

    def SerializeToString(self) -> bytes:  # noqa: N802
        return self._frame


def message_reply(message: bytes) -> Reply:
    return Reply(_MESSAGE + message)


def error_reply(error: EndedError) -> Reply:
    for name, value in error.trailing:
        if name == _DETAILS and isinstance(value, bytes):
            return Reply(_ERROR + value)
    return Reply(_ERROR + Status(code=error.code.value[0], message=str(error)).SerializeToString())


def read_reply(frame: bytes) -> bytes:
    """The message of a reply. Raises EndedError where it is an error."""
    if frame[:1] == _MESSAGE:
        return frame[1:]
    status = Status.FromString(frame[1:])
    as_told = rpc_status.to_status(status)
    trailing = as_told.trailing_metadata if status.details else ()
    raise EndedError(as_told.code, status.message, trailing)


class ReplicaContext:
    """As much of gRPC's context as the services ask for."""

    def __init__(self, remaining_s: float | None) -> None:
        self._remaining_s = remaining_s

    def time_remaining(self) -> float | None:
        return self._remaining_s

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()
    ) -> NoReturn:
        raise EndedError(code, details, trailing_metadata)
