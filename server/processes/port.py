"""One port for several processes: the system gives each of them its share of the connections."""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

from ..errors import StartError

UNIX = ("unix:", "unix-abstract:")


# How long it waits for the processes of a server before it, which was killed, to be gone.
GONE_S, LOOK_S = 1.0, 0.05


@asynccontextmanager
async def shared_port(address: str, front_ends: int) -> AsyncIterator[str]:
    """Hold the port inside the block, without listening; gives the address with the real one.

    Raises StartError where somebody else listens there, or no port can be shared.
    """
    if address.startswith(UNIX):
        if front_ends > 1:
            raise StartError(
                f"{address} can't be shared: a Unix socket has one listener; set front_ends to 1, "
                "or an address with a port"
            )
        yield address
        return
    host, _, port = address.rpartition(":")
    with ExitStack() as stack:
        give_up = time.monotonic() + GONE_S
        while True:
            try:
                held = _held(host.removeprefix("[").removesuffix("]"), int(port), stack)
                break
            except (OSError, ValueError, OverflowError) as error:
                stack.close()
                in_use = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
                if not in_use or time.monotonic() > give_up:
                    raise StartError(
                        f"can't listen on {address}: in use, or not an address here"
                    ) from error
            await asyncio.sleep(LOOK_S)
        yield f"{host}:{held}"


def _held(host: str, port: int, stack: ExitStack) -> int:
    """Raises OSError and OverflowError."""
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, *_, where in found:
        # Who listens alone is seen, and who shares as well.
        with _bound(family, (where[0], port), shared=False) as alone:
            alone.listen()
            port = alone.getsockname()[1]
        stack.enter_context(_bound(family, (where[0], port), shared=True))
    return port


def _bound(family: int, where: tuple[str | int, int], *, shared: bool) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        # As gRPC has it: else connections that have ended keep the port for a minute.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(where[0] != "::"))
        made.bind(where)
    except BaseException:
        made.close()
        raise
    return made
