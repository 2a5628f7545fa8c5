"""Whether what is sent to an address stays on this machine."""

from __future__ import annotations

import ipaddress


def is_local(address: str) -> bool:
    """unix:/PATH, or HOST:PORT where HOST is localhost or a loopback address.

    Names are not looked up, and what isn't understood is not local: what may be said in plain text
    depends on it.
    """
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    host, _, port = address.rpartition(":")
    if not (port.isascii() and port.isdigit()):
        return False
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
