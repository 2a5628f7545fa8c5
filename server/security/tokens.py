"""The file of bearer tokens.

# name    token, or sha256: and the digest of one   questions a second (no limit without)
search    5nVhR0tq1lXwzJ8mO2cUe6YbTgKpA4sd          100
support   sha256:8d969eef6ecad3c29a3a629280e686cf0c3f5d5a86aff3ca12020c923adc6c92
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass, field

from electra_qa.credentials import TOKEN

# A digest in a file that got lost must not be found by trying.
SHORTEST_TOKEN = 16
_DIGEST = re.compile(r"sha256:([0-9a-fA-F]{64})")


class TokenFileError(ValueError):
    """The message names the line, never what is in it."""


@dataclass(frozen=True, slots=True)
class Token:
    """digest: SHA-256 of the token. rate: in questions a second, None for no limit."""

    name: str
    digest: bytes = field(repr=False)
    rate: float | None


def digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def parse_tokens(content: bytes) -> tuple[Token, ...]:
    """Raises TokenFileError."""
    try:
        lines = content.decode("ascii").splitlines()
    except UnicodeDecodeError:
        # Without its cause, which would show the file.
        raise TokenFileError("it holds something else than ASCII") from None
    tokens: list[Token] = []
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            token = _token(words)
            if any(token.name == other.name for other in tokens):
                raise TokenFileError("its name is there already")
            if any(token.digest == other.digest for other in tokens):
                raise TokenFileError("its token is there already")
        except TokenFileError as error:
            raise TokenFileError(f"line {number}: {error}") from None
        tokens.append(token)
    if not tokens:
        # Also what a file looks like that is about to be written.
        raise TokenFileError("it holds no token")
    return tuple(tokens)


def _token(words: list[str]) -> Token:
    if not 2 <= len(words) <= 3:
        raise TokenFileError("it must be a name, a token, and perhaps questions a second")
    name, secret = words[:2]
    rate = None if len(words) == 2 else _rate(words[2])
    if match := _DIGEST.fullmatch(secret):
        return Token(name, bytes.fromhex(match[1]), rate)
    if not TOKEN.fullmatch(secret):
        raise TokenFileError("a token is letters, digits and -._~+/, or sha256: and 64 hex digits")
    if len(secret) < SHORTEST_TOKEN:
        raise TokenFileError(f"a token has {SHORTEST_TOKEN} characters at least")
    return Token(name, digest(secret), rate)


def _rate(word: str) -> float:
    try:
        rate = float(word)
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise TokenFileError("questions a second must be a number over 0")
    return rate
