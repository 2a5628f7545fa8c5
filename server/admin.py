"""The `Admin` gRPC service: for the operator, and for nobody else.

It has an address of its own, which must be one of this machine, so that whatever lets callers in
to the questions (a public address, a proxy on loopback) does not let them in here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from electra_qa.addresses import is_local
from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.rpc import electra_qa_pb2_grpc as pb_grpc

from .channel_options import channel_options
from .errors import ReloadError, StartError
from .listen import listen
from .settings import ServerSettings
from .sockets import claimed

log = logging.getLogger(__name__)

# Gives the version that is in force then. Raises ReloadError.
Reload = Callable[[], Awaitable[str]]


class AdminService(pb_grpc.AdminServicer):
    def __init__(self, reload: Reload) -> None:
        self._reload = reload

    async def Reload(  # noqa: N802
        self, _: pb.ReloadRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ReloadResponse:
        try:
            # It goes on where the caller does not wait for it.
            version = await asyncio.shield(self._reload())
        except ReloadError as error:
            await context.abort(error.code, str(error))
        except Exception:
            await context.abort(
                grpc.StatusCode.INTERNAL, "the reload failed; the server's log has the reason"
            )
        return pb.ReloadResponse(model_version=version)


@asynccontextmanager
async def administered(reload: Reload, settings: ServerSettings) -> AsyncIterator[None]:
    """Serve `Admin` inside the block, at `admin_address`. Raises StartError."""
    address = settings.admin_address
    if address is None:
        yield
        return
    if not is_local(address):
        raise StartError(
            f"admin_address must be unix:/PATH or a loopback address, got {address}: whoever "
            "reaches it may reload"
        )
    server = grpc.aio.server(options=channel_options(settings))
    pb_grpc.add_AdminServicer_to_server(AdminService(reload), server)
    with claimed(address):
        listen(server.add_insecure_port, address)
        await server.start()
        try:
            yield
        finally:
            await server.stop(None)
