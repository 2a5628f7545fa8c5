"""Where a server listens."""

from __future__ import annotations

import ipaddress

import grpc

from .errors import StartError


def listen(server: grpc.aio.Server, address: str) -> str:
    """The address with the real port. Raises StartError."""
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise StartError(f"can't listen on {address}: in use, or not an address here") from error
    return address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"


def is_local(address: str) -> bool:
    """Whether only this machine reaches it: a Unix socket, or a loopback address by its number."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0]
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
