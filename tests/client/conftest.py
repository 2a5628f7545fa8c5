from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent import futures
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from electra_qa.bundle import Bundle
from electra_qa.client import AsyncClient, Client, PrivateServer
from electra_qa.rpc import electra_qa_pb2_grpc as pb_grpc

DATA = Path(__file__).parents[1] / "data"

Asked = Callable[..., Any]


class Blocking:
    """`Client` with the surface of `AsyncClient`; streams are read to their end."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def __getattr__(self, name: str) -> Asked:
        method = getattr(self.client, name)
        if name not in ("answer_many", "answer_stream"):
            return lambda *args, **options: asyncio.to_thread(method, *args, **options)

        async def read(*args: Any, **options: Any) -> AsyncIterator[Any]:
            for one in await asyncio.to_thread(lambda: list(method(*args, **options))):
                yield one

        return read


Make = Callable[..., Any]


@pytest.fixture(params=["blocking", "asyncio"])
def make(request: pytest.FixtureRequest) -> Make:
    """Makes one of the clients, as a context manager."""

    @asynccontextmanager
    async def client(*args: Any, **options: Any) -> AsyncIterator[Any]:
        if request.param == "asyncio":
            async with AsyncClient(*args, **options) as asked:
                yield asked
        else:
            with Client(*args, **options) as blocking:
                yield Blocking(blocking)

    return client


@contextmanager
def served(servicer: pb_grpc.QuestionAnsweringServicer) -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(32))
    pb_grpc.add_QuestionAnsweringServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


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
