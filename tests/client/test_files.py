"""Files and terminals as they are out there."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from electra_qa.cli import main
from electra_qa.client import PrivateServer, PrivateServerError

from .conftest import DATA

CRLF = b"One.\r\nTwo.\r\nThree.\r\nRome was founded by Romulus.\r\n"
LATIN_1 = "Die Gr\u00fcnder Roms.".encode("latin-1")


@pytest.mark.parametrize("stdin", [False, True])
def test_a_context_keeps_the_ends_of_its_lines(
    server: PrivateServer, tmp_path: Path, stdin: bool
) -> None:
    file = tmp_path / "context.txt"
    file.write_bytes(CRLF)
    arguments = ["ask", "Who founded Rome?", "--address", server.address, "--json"]
    arguments += ["--context-file", "-" if stdin else str(file)]
    result = CliRunner().invoke(main, arguments, input=CRLF if stdin else None)
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)["answers"][0]
    assert (answer["start"], answer["end"]) == (40, 47)


@pytest.mark.parametrize(
    "arguments",
    [
        ["ask", "who?", "--context-file", "{}"],
        ["eval", "--data", "{}"],
        ["score", "--data", "{}", "--predictions", "{}"],
        ["score", "--data", "small", "--predictions", "{}"],
        ["ask", "who?", "--context", "Rome", "--config", "{}"],
    ],
)
def test_a_file_that_is_not_utf_8_is_named(
    tmp_path: Path, small: Path, arguments: list[str]
) -> None:
    file = tmp_path / "latin-1.json"
    file.write_bytes(LATIN_1)
    places = {"{}": str(file), "small": str(small)}
    result = CliRunner().invoke(main, [places.get(one, one) for one in arguments])
    assert result.exit_code in (1, 2)
    assert isinstance(result.exception, SystemExit)
    assert "latin-1.json is not UTF-8" in result.stderr


def test_json_nested_without_end_is_no_traceback(tmp_path: Path) -> None:
    file = tmp_path / "deep.json"
    file.write_text("[" * 100_000, encoding="utf-8")
    result = CliRunner().invoke(main, ["score", "--data", str(file), "--predictions", str(file)])
    assert result.exit_code == 1
    assert "deep.json is not JSON" in result.stderr


@pytest.mark.parametrize("as_json", [False, True])
def test_a_terminal_without_the_letters_has_escapes(server: PrivateServer, as_json: bool) -> None:
    command = [sys.executable, "-m", "electra_qa", "ask", "Who founded Rome?"]
    command += [
        "--context",
        "Rome was founded by R\u00f6mulus \u4e2d.",
        "--address",
        server.address,
    ]
    command += ["--json"] if as_json else []
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    ended = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stderr.decode()
    output = ended.stdout.decode("ascii")
    if as_json:
        assert "R\u00f6mulus" in json.loads(output)["text"]
    else:
        assert "R\\xf6mulus" in output


@pytest.mark.parametrize("name", ["x" * 100, "50%", "a#b", "a?b", "a,b"])
def test_a_tmpdir_that_no_socket_can_be_in_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    with pytest.raises(PrivateServerError, match=r"^TMPDIR "):
        PrivateServer()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("command", ["health", "reload"])
def test_a_timeout_that_is_no_number_is_said(command: str) -> None:
    arguments = [command, "--address", "127.0.0.1:1", "--timeout", "nan"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "must be a number of seconds" in result.stderr


def into(output: int | Path, *arguments: str, unbuffered: str = "") -> tuple[int, str]:
    """How a command ends whose standard output is this, and what it says on the other one."""
    with contextlib.ExitStack() as stack:
        stdout = output if isinstance(output, int) else stack.enter_context(output.open("wb"))
        ended = subprocess.run(
            [sys.executable, "-m", "electra_qa", *arguments],
            stdout=stdout,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            check=False,
            text=True,
            timeout=300,
        )
    said = [line for line in ended.stderr.splitlines() if "━" not in line]  # no progress
    return ended.returncode, "\n".join(said)


COMMANDS = {
    "help": ["--help"],
    "help of a command": ["ask", "--help"],
    "ask": ["ask", "Who founded Rome?", "--context", "Rome was founded by Romulus."],
    "ask in JSON": ["ask", "Who?", "--context", "Rome was founded by Romulus.", "--json"],
    "info": ["info"],
    "info in JSON": ["info", "--json"],
    "health": ["health"],
    "eval": ["eval", "--data", str(DATA / "small.json")],
    "cache": ["cache", "list"],
}


@pytest.fixture(params=COMMANDS)
def printing(request: pytest.FixtureRequest, server: PrivateServer) -> list[str]:
    arguments = COMMANDS[request.param]
    if arguments[0] in ("--help", "cache") or "--help" in arguments:
        return arguments
    return [*arguments, "--address", server.address]


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line(printing: list[str], unbuffered: str) -> None:
    code, said = into(Path("/dev/full"), *printing, unbuffered=unbuffered)
    assert code == 1
    assert said.splitlines()[0] == "Error: standard output: No space left on device"
    assert "Traceback" not in said
    assert "ignored" not in said


def test_who_reads_may_have_enough(printing: list[str]) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    try:
        code, said = into(writes, *printing)
    finally:
        os.close(writes)
    assert code == 1
    assert said == ""


def test_a_file_that_can_not_be_written_is_one_line(server: PrivateServer, tmp_path: Path) -> None:
    arguments = ["eval", "--data", str(DATA / "small.json"), "--address", server.address]
    result = CliRunner().invoke(main, [*arguments, "--predictions", str(tmp_path / "no" / "file")])
    assert result.exit_code == 1
    assert result.stderr.endswith(f"Error: {tmp_path}/no/file: No such file or directory\n")
