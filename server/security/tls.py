"""TLS for the server's port, by files that may change while it runs."""

from __future__ import annotations

import grpc

from electra_qa.certificates import check_authorities, check_pair


class TlsFiles:
    """A certificate chain with its key, and with `client_ca` those who may certify clients.

    gRPC asks for the certificate before each handshake, on threads of its own. Connections that
    are open stay as they are.
    """

    def __init__(self, cert: str, key: str, client_ca: str | None) -> None:
        self._cert = cert
        self._key = key
        self._client_ca = client_ca
        self._current: grpc.ServerCertificateConfiguration | None = None
        self._given: grpc.ServerCertificateConfiguration | None = None

    @property
    def paths(self) -> list[str]:
        return [path for path in (self._cert, self._key, self._client_ca) if path is not None]

    def load(self) -> None:
        """Raises CertificateError, and leaves what was in force."""
        chain, key = check_pair(self._cert, self._key)
        authorities = None if self._client_ca is None else check_authorities(self._client_ca)
        self._current = grpc.ssl_server_certificate_configuration([(key, chain)], authorities)

    def credentials(self) -> grpc.ServerCredentials:
        """Load first."""
        assert self._current is not None
        self._given = self._current
        return grpc.dynamic_ssl_server_credentials(
            self._current,
            self._fetch,  # type: ignore[arg-type]  # None, for no change, is as good
            require_client_authentication=self._client_ca is not None,
        )

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """None for no change."""
        current = self._current
        if current is self._given:
            return None
        self._given = current
        return current
