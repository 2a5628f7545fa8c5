"""How a client shows who it is, and how it knows the server: TLS and a bearer token."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from .addresses import is_local
from .certificates import CertificateError, check_authorities, check_pair

# RFC 6750, section 2.1. gRPC shows a whole header that it can't send in its error.
TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")

Options = Sequence[tuple[str, Any]]
Metadata = tuple[tuple[str, str], ...]


class CredentialsError(ValueError):
    """TLS or the token can't be used as they are given; the message says why."""


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS to the server, with PEM files.

    ca: the authorities that the server's certificate is checked against; by default the well-known
        ones that come with gRPC.
    cert, key: the client's own, for a server that asks for them.
    """

    ca: Path | str | None = None
    cert: Path | str | None = None
    key: Path | str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Raises CredentialsError."""
        if (self.cert is None) != (self.key is None):
            raise CredentialsError("a client's certificate and its key: set both or none")
        try:
            authorities = None if self.ca is None else check_authorities(self.ca)
            if self.cert is None or self.key is None:
                return grpc.ssl_channel_credentials(authorities)
            chain, key = check_pair(self.cert, self.key)
        except CertificateError as error:
            raise CredentialsError(str(error)) from error
        return grpc.ssl_channel_credentials(authorities, key, chain)


@dataclass(frozen=True, slots=True)
class Credentials:
    """tls: None for plain text.
    token: sent with every call.
    insecure: send the token in plain text, to another machine too.
    """

    tls: Tls | None = None
    token: str | None = field(default=None, repr=False)
    insecure: bool = False

    def __post_init__(self) -> None:
        if self.token is not None and not TOKEN.fullmatch(self.token):
            raise CredentialsError("the token is empty, or has characters that no token has")

    @property
    def metadata(self) -> Metadata | None:
        """What goes with every call."""
        return None if self.token is None else (("authorization", f"Bearer {self.token}"),)

    def open_channel(self, address: str, options: Options) -> grpc.Channel:
        """Raises CredentialsError."""
        options = self._checked(address, options)
        if self.tls is None:
            return grpc.insecure_channel(address, options)
        return grpc.secure_channel(address, self.tls.credentials(), options)

    def open_async_channel(self, address: str, options: Options) -> grpc.aio.Channel:
        """Raises CredentialsError."""
        options = self._checked(address, options)
        if self.tls is None:
            return grpc.aio.insecure_channel(address, options)
        return grpc.aio.secure_channel(address, self.tls.credentials(), options)

    def _checked(self, address: str, options: Options) -> Options:
        if is_local(address):
            # Or a proxy that the environment names would get it, on another machine.
            return [*options, ("grpc.enable_http_proxy", 0)]
        if self.token is not None and self.tls is None and not self.insecure:
            raise CredentialsError(
                f"the token would go to {address} in plain text: use TLS, or set insecure"
            )
        return options


def read_token(path: Path | str) -> str:
    """The token in a file, which holds nothing else. Raises CredentialsError."""
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError as error:
        raise CredentialsError(f"{path} can't be read: {error.strerror}") from error
    except UnicodeDecodeError:
        # Without its cause, which would show the file.
        raise CredentialsError(f"{path} holds no token") from None
