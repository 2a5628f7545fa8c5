from __future__ import annotations

import grpc
import pytest
from google.rpc.status_pb2 import Status

from electra_qa.client import ResourceExhaustedError
from electra_qa.client.errors import from_rpc


class Altered(grpc.RpcError):
    """As a proxy leaves it: the code or the details are no more those of the status beside it."""

    def __init__(self, trailer: bytes) -> None:
        self._trailer = trailer

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.RESOURCE_EXHAUSTED

    def details(self) -> str:
        return "too much"

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        return (("grpc-status-details-bin", self._trailer),)


@pytest.mark.parametrize(
    "trailer",
    [
        Status(code=13, message="too much").SerializeToString(),
        Status(code=8, message="another").SerializeToString(),
        b"\xff\xff",
    ],
)
def test_a_status_that_a_proxy_altered_is_still_an_error_of_ours(trailer: bytes) -> None:
    error = from_rpc(Altered(trailer))
    assert isinstance(error, ResourceExhaustedError)
    assert str(error) == "too much"
    assert error.retry_after_s is None
