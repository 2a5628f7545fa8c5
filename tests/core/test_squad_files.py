"""Fetching is real; without a network it is tested as far as files go."""

from __future__ import annotations

import hashlib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from electra_qa.squad_files import (
    OFFICIAL,
    DownloadError,
    OfficialFile,
    SquadFile,
    cached,
    fetch,
)


def official(file: Path) -> OfficialFile:
    return OfficialFile(file.as_uri(), hashlib.sha256(file.read_bytes()).hexdigest())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "source.json"
    file.write_bytes(b"some data")
    return file


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "electra-qa"


def test_what_is_fetched_is_checked(source: Path) -> None:
    assert fetch(official(source)) == b"some data"
    with pytest.raises(DownloadError, match="expected 000000000000"):
        fetch(OfficialFile(source.as_uri(), "0" * 64))


def test_what_can_not_be_fetched_is_said(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="can't be fetched"):
        fetch(OfficialFile((tmp_path / "nothing").as_uri(), "0" * 64))


def test_a_file_is_fetched_once(source: Path, cache: Path) -> None:
    file = official(source)
    path = cached(file)
    assert path == cache / "source.json"
    source.unlink()
    assert cached(file) == path
    path.write_bytes(b"damaged")
    with pytest.raises(DownloadError):
        cached(file)


def test_a_command_takes_a_path_or_a_name(
    source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OFFICIAL, "squad-v2-dev", official(source))
    monkeypatch.setitem(OFFICIAL, "squad-v2-train", OfficialFile("file:///no/such", "0" * 64))

    @click.command()
    @click.option("--data", type=SquadFile())
    def command(data: Path) -> None:
        click.echo(data)

    def run(value: str) -> tuple[int, str]:
        result = CliRunner().invoke(command, ["--data", value])
        return result.exit_code, result.output

    assert run("squad-v2-dev") == (0, f"{cache / 'source.json'}\n")
    assert run(str(source)) == (0, f"{source}\n")
    for value, exit_code, message in (
        ("squad-v2-train", 1, "file:///no/such can't be fetched"),
        ("squad-v2-test", 2, "File 'squad-v2-test' does not exist"),
    ):
        code, output = run(value)
        assert code == exit_code
        assert message in output
    assert "--data FILE" in CliRunner().invoke(command, ["--help"]).output


def test_completing_an_option_fetches_nothing(cache: Path) -> None:
    command = click.Command("eval", params=[click.Option(["--data"], type=SquadFile())])
    context = command.make_context("eval", ["--data", "squad-v2-dev"], resilient_parsing=True)
    assert context.params["data"] == Path("squad-v2-dev")
    assert not cache.exists()
