"""What an application is built with."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import click

from electra_qa.model_options import ModelChoice
from electra_qa.models import Precision
from electra_qa.settings import converted, value_of

from ..errors import StartError
from ..settings import ServerSettings

# Ray's proxies and its configuration have a say in these, the settings of a replica none.
NOT_OF_A_REPLICA = {
    "address",
    "admin_address",
    "auth_tokens",
    "compression",
    "insecure",
    "keepalive_time_s",
    "keepalive_timeout_s",
    "max_concurrent_streams",
    "max_connection_age_s",
    "max_connections",
    "metrics_address",
    "min_ping_interval_s",
    "reload_timeout_s",
    "tls_cert",
    "tls_client_ca",
    "tls_key",
}


@dataclass(frozen=True, slots=True)
class Arguments:
    """choice: of the model; a folder has to be on every node, by the same path.

    threads, streams: of a CPU; by default as many threads as the replica has CPUs.
    version: only there to be changed: whatever is changed here makes Ray put new replicas in the
        old ones' place.
    """

    choice: ModelChoice = field(default_factory=ModelChoice)
    device: Literal["cpu", "gpu", "null"] = "cpu"
    threads: int | None = None
    streams: int | None = None
    version: str = ""
    settings: ServerSettings = field(default_factory=ServerSettings)


def parse_arguments(given: Mapping[str, Any]) -> Arguments:
    """`bundle`, or `model` with `revision` and `precision`; `device`, `threads`, `streams`,
    `version`, and the settings of the server by their names and by the rules of `electra-qa serve`.
    Raises StartError."""
    known = {f.name: f for f in dataclasses.fields(ServerSettings)}
    for name in NOT_OF_A_REPLICA:
        known.pop(name, None)
    ours = ("bundle", "model", "revision", "precision", "device", "threads", "streams", "version")
    for name in given:
        if name not in known and name not in ours:
            raise StartError(
                f"{name} is no argument; there are {', '.join((*ours, *sorted(known)))}"
            )
    bundle = given.get("bundle")
    if bundle is not None and given.get("model") is not None:
        raise StartError("bundle and model: set one, not both")
    device = given.get("device", "cpu")
    if device not in ("cpu", "gpu", "null"):
        raise StartError(f"device must be cpu, gpu or null, got {device}")
    choice = ModelChoice(
        None if bundle is None else Path(bundle),
        given.get("model"),
        given.get("revision"),
        cast(Precision | None, given.get("precision")),
    )
    settings = {}
    for name, value in given.items():
        if name in known:
            with _named(name):
                settings[name] = value_of(ServerSettings, name, value)
    return Arguments(
        choice,
        device,
        _count("threads", given.get("threads")),
        _count("streams", given.get("streams")),
        str(given.get("version", "")),
        ServerSettings(**settings),
    )


def _count(name: str, value: Any) -> int | None:
    if value is None:
        return None
    with _named(name):
        count: int = converted(click.IntRange(min=1), value)
    return count


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise StartError(f"{name}: {error}") from error
