"""A tokenizer.json that would end the process is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from electra_qa.bundle import Bundle, write_bundle
from electra_qa.server.errors import StartError
from electra_qa.server.front import tokenizer_trial
from electra_qa.server.front.tokenizer_trial import try_tokenizer
from electra_qa.server.lifecycle import running
from electra_qa.server.settings import ServerSettings

from ..conftest import GatedEngine


def replacing(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def with_normalizers(bundle: Bundle, *normalizers: dict[str, Any]) -> str:
    content = json.loads(bundle.read_tokenizer())
    parts = [*normalizers, content["normalizer"]]
    content["normalizer"] = {"type": "Sequence", "normalizers": parts}
    return json.dumps(content)


def test_what_tokenizers_have_passes(bundle: Bundle) -> None:
    quotes = [replacing({"String": "``"}, '"'), replacing({"Regex": " {2,}"}, " ")]
    for content in (
        bundle.read_tokenizer(),
        with_normalizers(bundle, *quotes, {"type": "NFKD"}, {"type": "StripAccents"}),
    ):
        try_tokenizer(content)


@pytest.mark.parametrize(
    "normalizers",
    [
        [replacing({"String": "a"}, "aa")] * 40,
        [replacing({"String": "zeal"}, "x" * 10**6)],
        [replacing({"Regex": ""}, "x")] * 12,
    ],
    ids=["doubled", "long", "in between"],
)
def test_what_grows_without_bound_is_refused(
    bundle: Bundle, normalizers: list[dict[str, Any]]
) -> None:
    with pytest.raises(ValueError, match="times longer"):
        try_tokenizer(with_normalizers(bundle, *normalizers))


def test_what_ends_its_process_is_refused(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    content = with_normalizers(bundle, {"type": "NFD"})
    with monkeypatch.context() as patch:
        # As where the memory that it may use does not do.
        patch.setattr(tokenizer_trial, "COMMAND", ["-c", "import os; os.abort()"])
        with pytest.raises(ValueError, match="ended the process that tried it"):
            try_tokenizer(content)
    try_tokenizer(content)


@pytest.mark.parametrize("content", ["", "{}", "[", "[" * 10**6])
def test_what_is_no_tokenizer_is_refused(content: str) -> None:
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        try_tokenizer(content)


async def test_a_server_does_not_start_with_one(
    bundle: Bundle, engine: GatedEngine, tmp_path: Path
) -> None:
    content = with_normalizers(bundle, *[replacing({"String": "zeal"}, "x" * 10**6)])
    files = {"tokenizer.json": content.encode(), bundle.graph_path.name: b""}
    grows = write_bundle(tmp_path / "bundle", bundle.manifest, files)
    with pytest.raises(StartError, match="1000000 times longer"):
        async with running(grows, engine, ServerSettings(address="127.0.0.1:0")):
            pass
    assert engine.closed
