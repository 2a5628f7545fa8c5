"""TLS and mutual TLS, with real certificates, on a real server."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from electra_qa.bundle import Bundle
from electra_qa.client import AsyncClient, CredentialsError, Tls, UnavailableError
from electra_qa.server.errors import StartError
from electra_qa.server.lifecycle import running
from electra_qa.server.security import watched
from electra_qa.server.settings import ServerSettings

from ...conftest import Authority
from ..conftest import GatedEngine

CONTEXT = "Rome was founded by Romulus in 753 BC, says the legend."


def tls_settings(pair: tuple[Path, Path], **settings: Any) -> ServerSettings:
    cert, key = pair
    given: dict[str, Any] = {"address": "127.0.0.1:0", "tls_cert": str(cert), "tls_key": str(key)}
    return ServerSettings(**given | settings)


async def ask(address: str, tls: Tls | None) -> None:
    """Over a connection of its own."""
    async with AsyncClient(address, tls=tls, timeout=30) as client:
        await client.answer("who?", CONTEXT)


def presented(address: str, ca: Path) -> bytes:
    """The certificate that a client gets to see now, DER."""
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        certificate = connection.getpeercert(binary_form=True)
    assert certificate is not None
    return certificate


def leaf(cert: Path) -> bytes:
    first, end, _ = cert.read_text().partition("-----END CERTIFICATE-----\n")
    return ssl.PEM_cert_to_DER_cert(first + end)


async def test_a_client_that_knows_the_authority_is_answered(
    bundle: Bundle, engine: GatedEngine, authority: Authority, other_authority: Authority
) -> None:
    async with running(bundle, engine, tls_settings(authority.issue("server"))) as address:
        await ask(address, Tls(authority.ca))
        await ask(address.replace("127.0.0.1", "localhost"), Tls(authority.ca))
        with pytest.raises(UnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
            await ask(address, Tls(other_authority.ca))
        with pytest.raises(UnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
            await ask(address, Tls())
        with pytest.raises(UnavailableError):
            await ask(address, None)


async def test_a_certificate_of_another_host_is_refused(
    bundle: Bundle, engine: GatedEngine, authority: Authority
) -> None:
    settings = tls_settings(authority.issue("server", "qa.example.com"))
    async with running(bundle, engine, settings) as address:
        with pytest.raises(UnavailableError, match="Hostname Verification Check failed"):
            await ask(address, Tls(authority.ca))


async def test_mutual_tls_asks_for_a_certificate_of_the_right_authority(
    bundle: Bundle, engine: GatedEngine, authority: Authority, other_authority: Authority
) -> None:
    settings = tls_settings(authority.issue("server"), tls_client_ca=str(other_authority.ca))
    async with running(bundle, engine, settings) as address:
        engine.batches.clear()
        with pytest.raises(UnavailableError):
            await ask(address, Tls(authority.ca))
        with pytest.raises(UnavailableError):
            await ask(address, Tls(authority.ca, *authority.issue("client")))
        assert not engine.batches
        await ask(address, Tls(authority.ca, *other_authority.issue("client")))
        assert engine.batches


async def test_a_token_goes_with_tls(
    bundle: Bundle, engine: GatedEngine, authority: Authority, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("search the-token-of-search\n")
    settings = tls_settings(authority.issue("server"), auth_tokens=str(tokens))
    async with (
        running(bundle, engine, settings) as address,
        AsyncClient(address, tls=Tls(authority.ca), token="the-token-of-search") as client,
    ):
        await client.answer("who?", CONTEXT)


async def test_certificates_change_under_load_and_no_call_fails(
    bundle: Bundle,
    engine: GatedEngine,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Three callers on connections that stay, three on a new one for each call."""
    monkeypatch.setattr(watched, "INTERVAL_S", 0.02)
    caplog.set_level(logging.INFO, "electra_qa.server")
    cert, _ = pair = authority.issue("server")
    stop = asyncio.Event()
    answered = {"old": 0, "new": 0}

    async def on_one_connection(address: str) -> None:
        async with AsyncClient(address, tls=Tls(authority.ca), timeout=60) as client:
            while not stop.is_set():
                await client.answer("who?", CONTEXT)
                answered["old"] += 1

    async def on_new_ones(address: str) -> None:
        while not stop.is_set():
            await ask(address, Tls(authority.ca))
            answered["new"] += 1

    async def more(than: dict[str, int]) -> None:
        async with asyncio.timeout(60):
            while answered["old"] < than["old"] + 10 or answered["new"] < than["new"] + 10:
                await asyncio.sleep(0.01)

    async def seen(certificate: bytes) -> None:
        async with asyncio.timeout(60):
            while await asyncio.to_thread(presented, address, authority.ca) != certificate:
                await asyncio.sleep(0.01)

    async with running(bundle, engine, tls_settings(pair)) as address, asyncio.TaskGroup() as tasks:
        try:
            for work in (on_one_connection, on_new_ones):
                for _ in range(3):
                    tasks.create_task(work(address))
            before = leaf(cert)
            await seen(before)
            for _ in range(3):
                authority.issue("server")
                assert leaf(cert) != before
                before = leaf(cert)
                await seen(before)
                await more(dict(answered))
            # Half of a pair: what was in force stays.
            cert.write_bytes(authority.issue("another")[0].read_bytes())
            async with asyncio.timeout(60):
                while "is not the private key of" not in caplog.text:
                    await asyncio.sleep(0.01)
            await more(dict(answered))
            assert await asyncio.to_thread(presented, address, authority.ca) == before
        finally:
            stop.set()
    assert "the certificate changed, and the new one is in force" in caplog.text


async def test_the_authority_of_clients_changes_too(
    bundle: Bundle,
    engine: GatedEngine,
    authority: Authority,
    other_authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(watched, "INTERVAL_S", 0.02)
    caplog.set_level(logging.INFO, "electra_qa.server")
    client_ca = tmp_path / "clients.pem"
    client_ca.write_bytes(authority.ca.read_bytes())
    settings = tls_settings(authority.issue("server"), tls_client_ca=str(client_ca))
    first = Tls(authority.ca, *authority.issue("client"))
    second = Tls(authority.ca, *other_authority.issue("client"))
    async with running(bundle, engine, settings) as address:
        await ask(address, first)
        client_ca.write_bytes(other_authority.ca.read_bytes())
        async with asyncio.timeout(30):
            while "the new one is in force" not in caplog.text:
                await asyncio.sleep(0.01)
        await ask(address, second)
        with pytest.raises(UnavailableError):
            await ask(address, first)


async def test_files_that_can_not_be_used_are_named_before_the_server_starts(
    bundle: Bundle,
    engine: GatedEngine,
    authority: Authority,
    other_authority: Authority,
    tmp_path: Path,
) -> None:
    cert, key = authority.issue("server")
    _, other_key = other_authority.issue("server")
    empty = tmp_path / "empty"
    empty.touch()
    broken = tmp_path / "broken"
    broken.write_text(cert.read_text()[:200] + "\n-----END CERTIFICATE-----\n")
    encrypted = tmp_path / "encrypted"
    encrypted.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    edwards = tmp_path / "edwards"
    edwards.write_text(
        "-----BEGIN PRIVATE KEY-----\n"
        "MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n"
        "-----END PRIVATE KEY-----\n"
    )
    missing, fifo = tmp_path / "missing", tmp_path / "fifo"
    os.mkfifo(fifo)
    for settings, message in (
        ({"tls_cert": fifo}, f"{fifo} can't be read: Not a regular file"),
        ({"auth_tokens": fifo}, f"{fifo} can't be read: Not a regular file"),
        ({"tls_cert": missing}, f"{missing} can't be read: No such file"),
        ({"tls_key": missing}, f"{missing} can't be read: No such file"),
        ({"tls_cert": tmp_path}, f"{tmp_path} can't be read: Is a directory"),
        ({"tls_cert": empty}, f"{empty} holds no PEM certificate"),
        ({"tls_cert": broken}, f"{broken} and {key} can't be used: "),
        ({"tls_key": cert}, f"{cert} holds no PEM private key"),
        ({"tls_key": other_key}, f"{other_key} is not the private key of {cert}"),
        ({"tls_key": encrypted}, f"{encrypted} is encrypted"),
        ({"tls_key": edwards}, f"{edwards} is an Ed25519 or Ed448 key"),
        ({"tls_client_ca": missing}, f"{missing} can't be read: No such file"),
        ({"tls_client_ca": key}, f"{key} holds no PEM certificate"),
        ({"tls_client_ca": broken}, f"{broken} can't be used: "),
        ({"auth_tokens": missing}, f"{missing} can't be read: No such file"),
        ({"auth_tokens": empty}, f"{empty}: it holds no token"),
    ):
        chosen = tls_settings((cert, key), **{k: str(v) for k, v in settings.items()})
        with pytest.raises(StartError) as caught:
            async with running(bundle, engine, chosen):
                pass
        assert message in str(caught.value)
    for incomplete in ({"tls_cert": str(cert)}, {"tls_key": "k"}, {"tls_client_ca": "c"}):
        with pytest.raises(StartError, match="TLS needs both tls_cert and tls_key"):
            async with running(bundle, engine, ServerSettings(**incomplete)):
                pass


def test_a_client_names_files_that_can_not_be_used(
    authority: Authority, other_authority: Authority
) -> None:
    cert, key = authority.issue("client")
    _, other_key = other_authority.issue("client")
    for tls, message in (
        (Tls("/no/such"), "/no/such can't be read: No such file"),
        (Tls(key), f"{key} holds no PEM certificate"),
        (Tls(None, cert, other_key), f"{other_key} is not the private key of {cert}"),
        (Tls(None, cert), "set both or none"),
        (Tls(None, None, key), "set both or none"),
    ):
        with pytest.raises(CredentialsError) as caught:
            tls.credentials()
        assert message in str(caught.value)


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", ":0"])
async def test_a_public_address_needs_tls_or_a_word(
    bundle: Bundle,
    engine: GatedEngine,
    authority: Authority,
    address: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(StartError, match="other machines: set tls_cert and tls_key, or insecure"):
        async with running(bundle, engine, ServerSettings(address=address)):
            pass
    if address == "0.0.0.0:0":
        engine.closed = False  # the server that did not start closed it
        settings = tls_settings(authority.issue("server"), address=address)
        async with running(bundle, engine, settings) as at:
            await ask(at.replace("0.0.0.0", "127.0.0.1"), Tls(authority.ca))
        assert "plain text" not in caplog.text
        engine.closed = False
        async with running(bundle, engine, ServerSettings(address=address, insecure=True)) as at:
            await ask(at.replace("0.0.0.0", "127.0.0.1"), None)
        assert "plain text (insecure)" in caplog.text
