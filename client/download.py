"""The official SQuAD 2.0 dev set, fetched once and checked."""

from __future__ import annotations

import hashlib
import urllib.request
from pathlib import Path

from electra_qa.bundle import sha256_of
from electra_qa.cache import user_cache

from .errors import ElectraQAError

DEV_SET = "squad-v2-dev"
URL = "https://rajpurkar.github.io/SQuAD-explorer/dataset/dev-v2.0.json"
SHA256 = "80a5225e94905956a6446d296ca1093975c4d3b3260f1d6c8f68bc2ab77182d8"
TIMEOUT_S = 20.0


class DownloadError(ElectraQAError):
    """The file could not be fetched, or is not the one that it should be."""


def dev_set() -> Path:
    """The dev set's file in the user's cache; fetched where it is not there yet.

    Raises DownloadError.
    """
    try:
        cache = user_cache()
        path = cache / "dev-v2.0.json"
        if path.is_file() and sha256_of(path) == SHA256:
            return path
        cache.mkdir(parents=True, exist_ok=True)
        content = fetch(URL, SHA256)
        path.write_bytes(content)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        raise DownloadError(f"the dev set can't be kept in the cache: {error}") from error
    return path


def fetch(url: str, sha256: str) -> bytes:
    """Raises DownloadError where `url` can't be fetched or its sum is not `sha256`."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            content: bytes = response.read()
    except OSError as error:
        raise DownloadError(f"{url} can't be fetched: {error}") from error
    actual = hashlib.sha256(content).hexdigest()
    if actual != sha256:
        raise DownloadError(f"{url} has the sha256 {actual[:12]}…, expected {sha256[:12]}…")
    return content
