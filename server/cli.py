"""`electra-qa serve`."""

from __future__ import annotations

import asyncio
import functools
import logging
import multiprocessing
import os
import select
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import click

from electra_qa.bundle import Bundle, BundleError
from electra_qa.configuration import effective
from electra_qa.devices import parse_devices
from electra_qa.engines import Engine, EngineError, EngineSettings
from electra_qa.model_options import ModelChoice, model_options
from electra_qa.settings import settings_options

from .collector import keep_what_is_there
from .errors import StartError
from .front.models import Load
from .lifecycle import serve_until
from .loading import find_and_load
from .observe.logs import configure
from .processes.plan import Device, LogSettings, Plan
from .processes.supervisor import supervise_until
from .settings import ServerSettings
from .threads import SWITCH_INTERVAL_S, work_is_left

log = logging.getLogger(__name__)

SERVING = "serving %s (%s, %s) on %s, %s"
# The first asks the server to finish, the second ends it.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def _devices(text: str) -> str:
    """Checked, and still a text: as `info` shows it."""
    try:
        parse_devices(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return text


@click.command()
@model_options("The bundle to serve.")
@click.option(
    "--device",
    metavar="cpu|gpu|gpu:N,…",
    type=_devices,
    default="cpu",
    show_default=True,
    help="OpenVINO on a CPU, or TensorRT on an NVIDIA GPU; gpu:0,gpu:1 for several of them, with "
    "--front-ends.",
)
@click.option(
    "--engine",
    "engine_name",
    type=click.Choice(["null"]),
    help="null: instead of the device's an engine that answers at once, to measure all the rest.",
)
@click.option(
    "--hardware-compatible", is_flag=True, help="GPU: an engine for every GPU from Ampere on."
)
@click.option(
    "--version-compatible", is_flag=True, help="GPU: an engine for every version of TensorRT 11."
)
@click.option(
    "--threads", type=click.IntRange(min=1), help="CPU threads of the engine.  [default: all]"
)
@click.option(
    "--streams",
    type=click.IntRange(min=1),
    help="Batches that are computed side by side, on a CPU on a share of the threads each.  "
    "[default: on a CPU 1 while one is there, more while several are; on a GPU 2]",
)
@settings_options(ServerSettings)
@click.option("--until-stdin-closes", is_flag=True, hidden=True)
@click.option("--then-remove", type=click.Path(path_type=Path), hidden=True)
@click.option(
    "--log-level",
    default="info",
    show_default=True,
    type=click.Choice(["debug", "info", "warning"]),
    help="debug has a line for every request.",
)
@click.option(
    "--log-format",
    default="text",
    show_default=True,
    type=click.Choice(["text", "json"]),
    help="json: an object a line.",
)
@click.option("--log-text", is_flag=True, help="Write callers' texts into the lines of requests.")
def serve(
    choice: ModelChoice,
    device: str,
    engine_name: Literal["null"] | None,
    hardware_compatible: bool,
    version_compatible: bool,
    threads: int | None,
    streams: int | None,
    until_stdin_closes: bool,
    then_remove: Path | None,
    log_level: str,
    log_format: Literal["text", "json"],
    log_text: bool,
    **settings: Any,
) -> None:
    """Serve a bundle over gRPC until SIGTERM or Ctrl-C (twice: at once); SIGHUP loads it anew."""
    if settings["front_ends"]:
        multiprocessing.current_process().name = "supervisor"
    configure(log_level, log_format, log_text, with_process=bool(settings["front_ends"]))
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    for one in effective(click.get_current_context()):
        if one.source != "default":
            log.info("%s is %s (%s)", one.name, one.value, one.source)
    devices = parse_devices(device)
    try:
        chosen = ServerSettings(**settings)
        engine_settings = EngineSettings(
            engine_name or devices.kind,
            threads,
            streams,
            chosen.max_batch_tokens,
            hardware_compatible,
            version_compatible,
        )
        loading = functools.partial(find_and_load, choice, engine_settings)
        if chosen.front_ends:
            plan = Plan(
                choice,
                tuple(Device(engine_settings, number) for number in devices.numbers),
                chosen,
                LogSettings(log_level, log_format, log_text),
            )
            asyncio.run(_serve(functools.partial(_supervise, plan), until_stdin_closes))
        elif devices.numbers != (None,):
            raise click.UsageError("--device with a number, or several: of --front-ends")
        else:
            serving = functools.partial(_serve_alone, loading, chosen)
            asyncio.run(_serve(serving, until_stdin_closes))
    except (BundleError, EngineError, StartError) as error:
        raise click.ClickException(str(error)) from error
    finally:
        if then_remove is not None and _stdin_is_closed():
            # Whoever made it for this server may have been killed.
            shutil.rmtree(then_remove, ignore_errors=True)
    if work_is_left():
        # It may never end, and the interpreter's end is not safe beside it.
        logging.shutdown()
        os._exit(0)


async def _serve(
    serve: Callable[[asyncio.Event, asyncio.Event], Awaitable[None]], until_stdin_closes: bool
) -> None:
    """serve: called with what is set when it is to stop, and when it is to reload."""
    loop = asyncio.get_running_loop()
    stop, hangup = asyncio.Event(), asyncio.Event()

    def stop_once() -> None:
        stop.set()
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)
            # Not SIG_DFL, which the first process of a container is not ended by.
            signal.signal(number, _end_at_once)

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop_once)
    loop.add_signal_handler(signal.SIGHUP, hangup.set)
    if until_stdin_closes:
        # The private server of a client: its end of the pipe closes even if it is killed.
        loop.add_reader(sys.stdin.fileno(), _stop_at_end_of_stdin, stop)
    await serve(stop, hangup)


async def _serve_alone(
    load: Load, settings: ServerSettings, stop: asyncio.Event, hangup: asyncio.Event
) -> None:
    def ready(bundle: Bundle, engine: Engine, address: str) -> None:
        keep_what_is_there()
        manifest = bundle.manifest
        log.info(
            SERVING, manifest.source, manifest.precision, bundle.version, address, engine.device
        )

    await serve_until(stop, hangup, settings, load, ready)


async def _supervise(plan: Plan, stop: asyncio.Event, hangup: asyncio.Event) -> None:
    def ready(address: str, told: Mapping[str, str]) -> None:
        log.info(
            SERVING, told["source"], told["precision"], told["version"], address, told["device"]
        )

    await supervise_until(stop, hangup, plan, ready)


def _end_at_once(number: int, _: FrameType | None) -> None:
    os._exit(128 + number)


def _stdin_is_closed() -> bool:
    readable, _, _ = select.select([sys.stdin], [], [], 0)
    return bool(readable) and not os.read(sys.stdin.fileno(), 1024)


def _stop_at_end_of_stdin(stop: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 1024):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        stop.set()
