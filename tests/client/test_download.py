"""Fetching is real; without a network it is tested as far as files go."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from electra_qa.client import download
from electra_qa.client.download import DownloadError, dev_set, fetch


def test_what_is_fetched_is_checked(tmp_path: Path) -> None:
    content = b"some data"
    file = tmp_path / "data"
    file.write_bytes(content)
    assert fetch(file.as_uri(), hashlib.sha256(content).hexdigest()) == content
    with pytest.raises(DownloadError, match="expected 000000000000"):
        fetch(file.as_uri(), "0" * 64)


def test_what_can_not_be_fetched_is_said(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="can't be fetched"):
        fetch((tmp_path / "nothing").as_uri(), "0" * 64)


def test_the_dev_set_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source.json"
    source.write_bytes(b"{}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "URL", source.as_uri())
    monkeypatch.setattr(download, "SHA256", hashlib.sha256(b"{}").hexdigest())
    path = dev_set()
    source.unlink()
    assert dev_set() == path
    path.write_bytes(b"damaged")
    with pytest.raises(DownloadError):
        dev_set()
