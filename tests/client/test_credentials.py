"""TLS and tokens as the clients and the commands take them, against one real server."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from electra_qa.bundle import Bundle
from electra_qa.cli import main
from electra_qa.client import (
    AsyncClient,
    Client,
    CredentialsError,
    Tls,
    UnauthenticatedError,
    pipeline,
)
from electra_qa.credentials import Credentials

from ..conftest import Authority

TOKEN = "the-token-of-the-tests"
CONTEXT = "Rome was founded by Romulus."
QUESTION = ("Who founded Rome?", CONTEXT)


@dataclass(frozen=True)
class Secured:
    address: str
    tls: Tls
    token_file: Path

    @property
    def options(self) -> list[str]:
        """Of a command, without the token."""
        return [
            *("--address", self.address, "--wait", "60", "--tls-ca", str(self.tls.ca)),
            *("--tls-cert", str(self.tls.cert), "--tls-key", str(self.tls.key)),
        ]


@pytest.fixture(scope="module")
def secured(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """`electra-qa serve` with mutual TLS and a token."""
    folder = tmp_path_factory.mktemp("secured")
    authority = Authority(folder / "authority")
    cert, key = authority.issue("server")
    tls = Tls(authority.ca, *authority.issue("client"))
    tokens, token_file = folder / "tokens", folder / "token"
    tokens.write_text(f"tests {TOKEN}\n")
    token_file.write_text(f"{TOKEN}\n")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
    command = [sys.executable, "-m", "electra_qa", "serve", "--bundle", str(bundle.path)]
    command += ["--address", address, "--warm-up-lengths", "none", "--auth-tokens", str(tokens)]
    command += ["--tls-cert", str(cert), "--tls-key", str(key), "--tls-client-ca", str(tls.ca)]
    process = subprocess.Popen(command)
    try:
        with Client(address, tls=tls) as client:
            client.wait_until_ready(60)
        yield Secured(address, tls, token_file)
    finally:
        process.kill()
        process.wait()


def run(*arguments: str, exit_code: int = 0) -> Any:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == exit_code, result.output + repr(result.exception)
    assert TOKEN not in result.output
    return result


async def test_every_way_of_asking_shows_the_token(secured: Secured) -> None:
    async def questions():  # type: ignore[no-untyped-def]
        yield "a", QUESTION

    with Client(secured.address, tls=secured.tls, token=TOKEN) as client:
        assert client.info().version
        assert client.answer(*QUESTION).text == "Romulus"
        assert len(client.answer_batch([QUESTION])) == 1
        assert len(list(client.answer_many([QUESTION] * 3, batch_size=1))) == 3
        assert len(list(client.answer_stream([("a", QUESTION)]))) == 1
    async with AsyncClient(secured.address, tls=secured.tls, token=TOKEN) as aclient:
        assert (await aclient.info()).version
        assert (await aclient.answer(*QUESTION)).text == "Romulus"
        assert len(await aclient.answer_batch([QUESTION])) == 1
        assert len([o async for o in aclient.answer_many([QUESTION] * 3, batch_size=1)]) == 3
        assert len([o async for o in aclient.answer_stream(questions())]) == 1
    with pipeline(address=secured.address, tls=secured.tls, token=TOKEN) as answer:
        assert answer(question=QUESTION[0], context=CONTEXT)["answer"] == "Romulus"


def test_without_it_the_server_says_no(secured: Secured) -> None:
    with Client(secured.address, tls=secured.tls) as client, pytest.raises(UnauthenticatedError):
        client.answer(*QUESTION)


def test_the_commands_take_files(secured: Secured, small: Path) -> None:
    token = ["--token-file", str(secured.token_file)]
    ask = ["ask", QUESTION[0], "--context", CONTEXT, "--json"]
    assert json.loads(run(*ask, *secured.options, *token).stdout)["text"] == "Romulus"
    assert "bundle:" in run("info", *secured.options, *token).stdout
    evaluate = ["eval", "--data", str(small), "--limit", "2", "--json"]
    assert json.loads(run(*evaluate, *secured.options, *token).stdout)["questions"] == 2
    refused = run(*ask, *secured.options, exit_code=1)
    assert "Error: a valid bearer token is needed" in refused.stderr


@pytest.mark.parametrize("mode", ["unary", "batch", "stream"])
def test_the_load_generator_takes_them_too(secured: Secured, mode: str) -> None:
    pytest.importorskip("hdrh")
    bench = ["bench", "--concurrency", "1", "--duration", "0.2", "--warm-up", "0", "--json", "-"]
    bench += ["--mode", mode, "--lengths", "50", "--questions", "4"]
    token = ["--token-file", str(secured.token_file)]
    output = run(*bench, *secured.options, *token).stdout
    report = json.loads(output)
    assert set(report["measurements"][0]["statuses"]) == {"OK"}
    assert str(secured.token_file.parent) not in report["command"]
    refused = run(*bench, *secured.options, exit_code=1)
    assert "UNAUTHENTICATED: a valid bearer token is needed" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["--tls"], 2, "TLS and tokens are for the server at --address"),
        (["--address", "x:1", "--token-file", "/no/such"], 1, "/no/such can't be read"),
        (["--address", "x:1", "--tls-ca", "/no/such"], 1, "/no/such can't be read"),
        (["--address", "x:1", "--tls-cert", "a.pem"], 1, "set both or none"),
        (["--address", "x:1", "--token-file", "{token}"], 1, "would go to x:1 in plain text"),
        (["--address", "x:1", "--token-file", "{empty}"], 1, "the token is empty, or has"),
    ],
)
def test_options_that_do_not_fit_are_one_line(
    tmp_path: Path, arguments: list[str], exit_code: int, message: str
) -> None:
    files = {"{token}": tmp_path / "token", "{empty}": tmp_path / "empty"}
    files["{token}"].write_text(TOKEN)
    files["{empty}"].write_text("\n")
    given = [str(files.get(argument, argument)) for argument in arguments]
    for command in (
        ["ask", "who?", "--context", CONTEXT],
        ["bench", "--qps", "1", "--lengths", "50", "--questions", "4"],
    ):
        result = run(*command, *given, exit_code=exit_code)
        assert message in result.stderr
        assert "Traceback" not in result.stderr


@pytest.mark.parametrize("kind", [Client, AsyncClient])
async def test_a_token_goes_to_another_machine_in_plain_text_only_if_told(kind: Any) -> None:
    with pytest.raises(CredentialsError, match=r"qa\.example\.com:1 in plain text") as caught:
        kind("qa.example.com:1", token=TOKEN)
    assert TOKEN not in str(caught.value)
    for address, more in (
        ("qa.example.com:1", {"insecure": True}),
        ("qa.example.com:1", {"tls": Tls()}),
        ("127.0.0.1:1", {}),
        ("unix:/no/such", {}),
    ):
        client = kind(address, token=TOKEN, **more)
        closing = client.close()
        if closing is not None:
            await closing


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", f"{TOKEN}é", "Bearer x"])
def test_a_token_that_is_none_is_refused_without_showing_it(token: str) -> None:
    with pytest.raises(CredentialsError) as caught:
        Credentials(token=token)
    assert not token or token not in str(caught.value)


def test_a_token_is_not_in_what_is_printed() -> None:
    assert TOKEN not in repr(Credentials(Tls(), TOKEN))


def test_what_goes_to_this_machine_takes_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a token for a server here would go to a machine that the environment names."""
    from concurrent.futures import ThreadPoolExecutor

    with (
        socket.create_server(("127.0.0.1", 0)) as proxy,
        socket.create_server(("127.0.0.1", 0)) as server,
    ):
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.setenv("no_proxy", "")
        monkeypatch.setenv("no_grpc_proxy", "")
        server.settimeout(30)
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with Client(address, token=TOKEN, timeout=1) as client, ThreadPoolExecutor(1) as threads:
            call = threads.submit(client.info)
            connection, _ = server.accept()
            connection.close()
            assert call.exception() is not None
