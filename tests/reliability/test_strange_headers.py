"""What no gRPC client sends, before anybody is authenticated."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from electra_qa.bundle import Bundle
from electra_qa.client import Client

from .raw_http2 import call
from .serving import server

METHOD = b"/electra_qa.v1.QuestionAnswering/GetInfo"
TOKEN = "5nVhR0tq1lXwzJ8mO2cUe6YbTgKpA4sd"
# From here on gRPC's server ends at a path that is not UTF-8. pyproject.toml keeps clear of it.
ENDS_AT_A_PATH = (1, 84)


@pytest.fixture
def options(tiny_bundle: Bundle, tmp_path: Path) -> list[str]:
    (tmp_path / "tokens").write_text(f"search {TOKEN}\n")
    options = ["--bundle", str(tiny_bundle.path), "--address", f"unix:{tmp_path}/socket"]
    options += ["--auth-tokens", str(tmp_path / "tokens")]
    return [*options, "--engine", "null", "--warm-up-lengths", "none"]


@pytest.mark.parametrize("header", [b"authorization", b"x-other"])
def test_a_header_that_is_not_utf8_is_not_in_the_log(
    options: list[str], tmp_path: Path, header: bytes
) -> None:
    with server(tmp_path, *options) as serving:
        serving.logs("serving ")
        said = call(f"{tmp_path}/socket", METHOD, [(header, b"Bearer se\xffcret")])
        assert b"a valid bearer token is needed" in said
        with Client(f"unix:{tmp_path}/socket", token=TOKEN) as client:
            assert client.info()
        assert "cret" not in serving.log
        assert "Traceback" not in serving.log


def test_a_path_that_is_not_utf8_leaves_no_server_that_serves_nothing(
    options: list[str], tmp_path: Path
) -> None:
    with server(tmp_path, *options) as serving:
        serving.logs("serving ")
        call(f"{tmp_path}/socket", b"/electra_qa.v1.Quest\xff/GetInfo", [])
        if tuple(map(int, grpc.__version__.split(".")[:2])) >= ENDS_AT_A_PATH:
            assert serving.process.wait(60) == 1
            return
        with Client(f"unix:{tmp_path}/socket", token=TOKEN) as client:
            assert client.info()
