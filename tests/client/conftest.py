from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from electra_qa.bundle import Bundle
from electra_qa.client import PrivateServer

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="session")
def server(bundle: Bundle) -> Iterator[PrivateServer]:
    """One real server on the default checkpoint, for all the tests of the client."""
    with PrivateServer(bundle.path) as server:
        yield server


@pytest.fixture(scope="session")
def small() -> Path:
    """A SQuAD 2.0 file of our own, with 12 questions about three texts."""
    return DATA / "small.json"


@pytest.fixture(scope="session")
def pairs(small: Path) -> list[tuple[str, str]]:
    articles = json.loads(small.read_text(encoding="utf-8"))["data"]
    return [
        (qa["question"], paragraph["context"])
        for article in articles
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    ]
