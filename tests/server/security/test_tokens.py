"""The file of tokens, and how many questions one may ask."""

from __future__ import annotations

import hashlib

import pytest

from electra_qa.server.errors import RateLimitError
from electra_qa.server.security.rate_limit import RateLimit
from electra_qa.server.security.tokens import TokenFileError, parse_tokens

SECRET = "a-secret-of-some-length"


def test_a_line_is_a_name_a_token_and_a_rate() -> None:
    digest = hashlib.sha256(SECRET.encode()).digest()
    tokens = parse_tokens(
        f"# who\nsearch {SECRET} 2.5 # a comment\r\n\n"
        f"support sha256:{hashlib.sha256(b'another').hexdigest().upper()}\n".encode()
    )
    assert [token.name for token in tokens] == ["search", "support"]
    assert [token.rate for token in tokens] == [2.5, None]
    assert [token.digest for token in tokens] == [digest, hashlib.sha256(b"another").digest()]
    assert SECRET not in repr(tokens)
    assert repr(digest) not in repr(tokens)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "it holds no token"),
        ("# nothing\n", "it holds no token"),
        (SECRET, "line 1: it must be a name, a token, and perhaps"),
        (f"\na {SECRET} 1 2", "line 2: it must be a name, a token, and perhaps"),
        ("a short-secret", "line 1: a token has 16 characters at least"),
        ("a secret:with,characters", "line 1: a token is letters, digits and"),
        ("a sha256:abcd", "line 1: a token is letters, digits and"),
        (f"a {SECRET}\na {SECRET}-too", "line 2: its name is there already"),
        (f"a {SECRET}\nb {SECRET}", "line 2: its token is there already"),
        (
            f"a {SECRET}\nb sha256:{hashlib.sha256(SECRET.encode()).hexdigest()}",
            "line 2: its token is there already",
        ),
        (f"a {SECRET} 0", "line 1: questions a second must be a number over 0"),
        (f"a {SECRET} inf", "line 1: questions a second must be a number over 0"),
        (f"a {SECRET} many", "line 1: questions a second must be a number over 0"),
        (f"a {SECRET}é", "it holds something else than ASCII"),
    ],
)
def test_a_bad_file_is_refused_by_line_without_its_secrets(content: str, message: str) -> None:
    with pytest.raises(TokenFileError, match=message) as caught:
        parse_tokens(content.encode())
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_limit_lets_in_what_a_second_brings_and_says_when_more_comes() -> None:
    clock = Clock()
    limit = RateLimit("search", 4, clock)
    for _ in range(4):
        limit.take(1)
    with pytest.raises(RateLimitError, match="search may ask 4 questions a second") as caught:
        limit.take(1)
    assert caught.value.retry_delay_s == 0.25
    clock.now = 0.25
    limit.take(1)
    clock.now = 100
    for _ in range(4):
        limit.take(1)
    with pytest.raises(RateLimitError):
        limit.take(1)


def test_a_batch_over_the_limit_passes_and_is_paid_for_after() -> None:
    clock = Clock()
    limit = RateLimit("search", 0.5, clock)
    limit.take(3)
    for clock.now in (3.0, 5.9):
        with pytest.raises(RateLimitError):
            limit.take(1)
    clock.now = 6.0
    limit.take(1)
