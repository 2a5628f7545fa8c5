"""What a server's settings say about who may reach it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import grpc

from electra_qa.addresses import is_local

from ..errors import StartError
from ..observe.metrics import Metrics
from ..settings import ServerSettings
from .authentication import Authentication
from .tls import TlsFiles
from .watched import WatchedFiles

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Security:
    """credentials: of the port, None for plain text. files: to be watched."""

    credentials: grpc.ServerCredentials | None
    interceptors: Sequence[grpc.aio.ServerInterceptor]
    files: Sequence[WatchedFiles]

    def add_port(self, server: grpc.aio.Server, address: str) -> int:
        """Raises RuntimeError, as gRPC does."""
        if self.credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, self.credentials)


def make_security(settings: ServerSettings, metrics: Metrics) -> Security:
    """Raises StartError."""
    tls = _tls(settings)
    if tls is None and not is_local(settings.address):
        if not settings.insecure:
            raise StartError(
                f"{settings.address} can be reached from other machines: set tls_cert and tls_key, "
                "or insecure where something else encrypts what comes here"
            )
        log.warning("texts and tokens come to %s in plain text (insecure)", settings.address)
    files = []
    if tls is not None:
        files.append(WatchedFiles("the certificate", tls.paths, tls.load))
    interceptors = []
    if settings.auth_tokens is not None:
        authentication = Authentication(settings.auth_tokens, metrics)
        files.append(WatchedFiles("the token file", [settings.auth_tokens], authentication.load))
        interceptors.append(authentication)
    for watched in files:
        try:
            watched.load_first()
        except ValueError as error:
            raise StartError(str(error)) from error
    return Security(tls.credentials() if tls is not None else None, interceptors, files)


def _tls(settings: ServerSettings) -> TlsFiles | None:
    if settings.tls_cert is None or settings.tls_key is None:
        if (settings.tls_cert, settings.tls_key, settings.tls_client_ca) != (None, None, None):
            raise StartError("TLS needs both tls_cert and tls_key")
        return None
    return TlsFiles(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
