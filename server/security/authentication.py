"""Who may call: everybody with a token of the file. Health is for everybody."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
from grpc_health.v1 import health_pb2

from electra_qa.files import MAX_TEXT_BYTES, read_regular

from ..observe.metrics import Metrics
from .rate_limit import RateLimit, current_limit
from .tokens import Token, TokenFileError, digest, parse_tokens

HEALTH = f"/{health_pb2.DESCRIPTOR.services_by_name['Health'].full_name}/"
# The same whatever is wrong.
REFUSAL = "a valid bearer token is needed"

if TYPE_CHECKING:
    Handler: TypeAlias = grpc.RpcMethodHandler[Any, Any]  # generic in its stubs only


class Authentication(grpc.aio.ServerInterceptor):
    """Tokens of a file, compared by digest and in constant time."""

    def __init__(self, path: str, metrics: Metrics) -> None:
        self._path = path
        self._metrics = metrics
        self._limits: dict[Token, RateLimit | None] = {}

    def load(self) -> None:
        """Raises TokenFileError, and leaves what was in force."""
        try:
            tokens = parse_tokens(read_regular(Path(self._path), MAX_TEXT_BYTES))
        except OSError as error:
            raise TokenFileError(f"{self._path} can't be read: {error.strerror}") from error
        except TokenFileError as error:
            raise TokenFileError(f"{self._path}: {error}") from error
        # A token that stays as it is keeps what it has used up.
        before = self._limits
        self._limits = {
            token: before.get(token)
            or (None if token.rate is None else RateLimit(token.name, token.rate))
            for token in tokens
        }

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """The handler; None for a method that there isn't."""
        details: Any = handler_call_details
        if not details.method.startswith(HEALTH):
            limits = self._limits
            token = _find(limits, details.invocation_metadata)
            if token is None:
                self._metrics.rejections.labels("token").inc()
                return _REFUSE
            current_limit.set(limits[token])
        return await continuation(handler_call_details)


def _find(tokens: Sequence[Token] | dict[Token, Any], metadata: Any) -> Token | None:
    values = [value for key, value in metadata if key == "authorization"]
    scheme, _, secret = values[0].partition(" ") if len(values) == 1 else ("", "", "")
    sought = digest(secret)
    found = None
    for token in tokens:
        # No way out of the loop: how long it takes must not say which one it was.
        if hmac.compare_digest(token.digest, sought):
            found = token
    return found if scheme.lower() == "bearer" else None


async def _refuse(_: AsyncIterator[bytes], context: Any) -> None:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, REFUSAL)


# For calls of every kind: as a stream's, it doesn't wait for a message to come.
_REFUSE: Handler = grpc.stream_stream_rpc_method_handler(_refuse)
