"""PEM files for TLS, checked before gRPC gets them: what it says about bad ones helps nobody."""

from __future__ import annotations

import ssl
from pathlib import Path

from .files import MAX_TEXT_BYTES, read_regular

_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
_PRIVATE_KEY = b"PRIVATE KEY-----"
# The algorithm of such a key, in base64 (RFC 8410, section 10.3). gRPC takes it, and no handshake
# succeeds.
_EDWARDS = b"wBQYDK2V"


class CertificateError(ValueError):
    """A PEM file can't be used; the message names it and says why."""


def read_file(path: Path | str) -> bytes:
    """Raises CertificateError."""
    try:
        return read_regular(Path(path), MAX_TEXT_BYTES)
    except OSError as error:
        raise CertificateError(f"{path} can't be read: {error.strerror}") from error


def check_pair(cert: Path | str, key: Path | str) -> tuple[bytes, bytes]:
    """The certificate chain and its private key, as they are in the files.

    Raises CertificateError where one can't be read, is none, or they don't belong together.
    """
    before = read_file(cert), read_file(key)
    if _CERTIFICATE not in before[0]:
        raise CertificateError(f"{cert} holds no PEM certificate")
    if _PRIVATE_KEY not in before[1]:
        raise CertificateError(f"{key} holds no PEM private key")
    if b"ENCRYPTED" in before[1]:
        raise CertificateError(f"{key} is encrypted, which gRPC can't read: store it decrypted")
    if _EDWARDS in before[1]:
        raise CertificateError(f"{key} is an Ed25519 or Ed448 key, which gRPC can't use")
    try:
        # Without a password OpenSSL would ask for one at the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise CertificateError(f"{key} is not the private key of {cert}") from error
        raise CertificateError(f"{cert} and {key} can't be used: {error.reason}") from error
    except OSError as error:
        raise CertificateError(f"{cert} or {key} can't be read: {error.strerror}") from error
    if (read_file(cert), read_file(key)) != before:
        raise CertificateError(f"{cert} or {key} changed while they were read")
    return before


def check_authorities(ca: Path | str) -> bytes:
    """The certificates that others' are checked against. Raises CertificateError."""
    content = read_file(ca)
    if _CERTIFICATE not in content:
        raise CertificateError(f"{ca} holds no PEM certificate")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(
            cadata=content.decode("ascii", errors="ignore")
        )
    except ssl.SSLError as error:
        raise CertificateError(f"{ca} can't be used: {error.reason}") from error
    return content
