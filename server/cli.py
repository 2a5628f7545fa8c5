"""`electra-qa serve`."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any, Literal

import click

from electra_qa.bundle import Bundle, BundleError, default_bundle_path, load_bundle
from electra_qa.configuration import effective
from electra_qa.engines import Engine, EngineError, EngineSettings, load_engine
from electra_qa.settings import settings_options

from .errors import StartError
from .lifecycle import serve_until
from .logs import configure
from .models import Load
from .settings import ServerSettings

log = logging.getLogger(__name__)

# How long a thread that computes in Python lets the event loop wait, which gets its turn several
# times in a call. Python's own is 5 ms.
SWITCH_INTERVAL_S = 0.001


@click.command()
@click.option(
    "--bundle",
    "bundle_path",
    type=click.Path(path_type=Path),
    help="The bundle to serve.  [default: the one in the package]",
)
@click.option(
    "--device",
    type=click.Choice(["cpu", "gpu"]),
    default="cpu",
    show_default=True,
    help="OpenVINO on a CPU, or TensorRT on an NVIDIA GPU.",
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
    help="Batches that a CPU computes side by side, on a share of the threads each.  "
    "[default: one for every four threads]",
)
@settings_options(ServerSettings)
@click.option("--until-stdin-closes", is_flag=True, hidden=True)
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
    bundle_path: Path | None,
    device: Literal["cpu", "gpu"],
    engine_name: Literal["null"] | None,
    hardware_compatible: bool,
    version_compatible: bool,
    threads: int | None,
    streams: int | None,
    until_stdin_closes: bool,
    log_level: str,
    log_format: Literal["text", "json"],
    log_text: bool,
    **settings: Any,
) -> None:
    """Serve a bundle over gRPC until SIGTERM or Ctrl-C; SIGHUP loads it anew."""
    configure(log_level, log_format, log_text)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    for one in effective(click.get_current_context()):
        if one.source != "default":
            log.info("%s is %s (%s)", one.name, one.value, one.source)
    try:
        chosen = ServerSettings(**settings)
        loading = functools.partial(
            load,
            bundle_path or default_bundle_path(),
            EngineSettings(
                engine_name or device,
                threads,
                streams,
                chosen.max_batch_tokens,
                hardware_compatible,
                version_compatible,
            ),
        )
        asyncio.run(_serve(*loading(), chosen, loading, until_stdin_closes))
    except (BundleError, EngineError, StartError) as error:
        raise click.ClickException(str(error)) from error


def load(path: Path, settings: EngineSettings) -> tuple[Bundle, Engine]:
    """Raises BundleError or EngineError."""
    # Where the path is a link, it may be changed at any time: one load, one folder.
    bundle = load_bundle(path.resolve())
    return bundle, load_engine(bundle, settings)


async def _serve(
    bundle: Bundle, engine: Engine, settings: ServerSettings, load: Load, until_stdin_closes: bool
) -> None:
    loop = asyncio.get_running_loop()
    stop, hangup = asyncio.Event(), asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, hangup.set)
    if until_stdin_closes:
        # The private server of a client: its end of the pipe closes even if it is killed.
        loop.add_reader(sys.stdin.fileno(), _stop_at_end_of_stdin, stop)

    def ready(address: str) -> None:
        # What is there now stays: a full collection, which holds up everybody, passes it over.
        gc.collect()
        gc.freeze()
        log.info(
            "serving %s (%s, %s) on %s, %s",
            bundle.manifest.source,
            bundle.manifest.precision,
            bundle.version,
            address,
            engine.device,
        )

    await serve_until(stop, hangup, bundle, engine, settings, load, ready)


def _stop_at_end_of_stdin(stop: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 1024):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        stop.set()
