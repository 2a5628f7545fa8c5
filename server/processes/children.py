"""What a process of a server does, from its start to its end. Its supervisor alone says when."""

from __future__ import annotations

import asyncio
import functools
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from socket import socket
from typing import Any

from electra_qa.bundle import BundleError
from electra_qa.engines import EngineError

from ..collector import keep_what_is_there
from ..errors import ReloadError, StartError
from ..front.models import Models
from ..loading import find_and_load
from ..observe import logs
from ..observe.metrics import Metrics
from ..threads import SWITCH_INTERVAL_S, on_own_thread, work_is_left
from .collected import snapshot
from .control import Control
from .engine_process import engine_at
from .front_process import front_end
from .plan import Device, Plan

log = logging.getLogger(__name__)


def engine_process(end: socket, plan: Plan, path: str, device: Device) -> None:
    """Where a process begins."""
    if device.number is not None:
        _see_only(device.number)
    _run(end, plan, Path(path).parent, functools.partial(_serve_engine, plan, path, device))


def _see_only(number: int) -> None:
    """Of the GPUs that this process may see, as CUDA counts them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    name = visible[number] if number < len(visible) and visible[number] else str(number)
    os.environ["CUDA_VISIBLE_DEVICES"] = name


def front_process(end: socket, plan: Plan, engines: Sequence[str]) -> None:
    """Where a process begins."""
    folder = Path(engines[0]).parent
    _run(end, plan, folder, functools.partial(_serve_front, plan, engines))


def _run(end: socket, plan: Plan, folder: Path, work: Callable[[_Child], Awaitable[None]]) -> None:
    # Ctrl-C and a service manager's SIGTERM come to all processes: the supervisor says what is to
    # happen, in which order.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    logs.configure(plan.log.level, plan.log.form, plan.log.with_text, with_process=True)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    code = asyncio.run(_child(end, work))
    if code or work_is_left():
        logging.shutdown()
        os._exit(code)


def _end_with_parent(folder: Path) -> None:
    """folder: the sockets', which a parent that was killed leaves behind."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)


class _Child:
    def __init__(self) -> None:
        self.metrics = Metrics()
        self.stop = asyncio.Event()
        self.models: Models | None = None
        self.is_up = False
        self.control = Control(
            {
                "stop": lambda _: self.stop.set(),
                "metrics": lambda _: snapshot(self.metrics.registry),
                "reload": self._reload,
            }
        )

    async def _reload(self, _: Any) -> str:
        if self.models is None:
            raise ReloadError("it still starts")
        return await self.models.reload()

    def up(self, told: Any) -> None:
        keep_what_is_there()
        self.is_up = True
        self.control.tell("up", told)


async def _child(end: socket, work: Callable[[_Child], Awaitable[None]]) -> int:
    child = _Child()
    await child.control.open(end)
    working = asyncio.ensure_future(work(child))
    stopping = asyncio.create_task(child.stop.wait())
    try:
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not child.is_up:
            working.cancel()
        await working
    except asyncio.CancelledError:
        log.info("stopped before it was up")
    except (BundleError, EngineError, StartError) as error:
        child.control.tell("failed", str(error))
        return 1
    finally:
        child.control.close()
        await asyncio.sleep(0)
    return 0


async def _serve_engine(plan: Plan, path: str, device: Device, child: _Child) -> None:
    load = functools.partial(find_and_load, plan.choice, device.engine)
    bundle, engine = await on_own_thread(load)
    async with engine_at(path, bundle, engine, child.metrics, plan.settings, load) as models:
        child.models = models
        child.up(
            {
                "source": bundle.manifest.source,
                "precision": bundle.manifest.precision,
                "version": bundle.version,
                "device": engine.device,
            }
        )
        await child.stop.wait()


async def _serve_front(plan: Plan, engines: Sequence[str], child: _Child) -> None:
    ended = asyncio.Event()

    def at_end() -> None:
        ended.set()
        child.stop.set()

    def tell_ready(_: Models, ready: bool) -> None:
        child.control.tell("ready", ready)

    # SIGTERM ends it in order, and another one takes its place.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, child.stop.set)
    async with front_end(engines, child.metrics, plan.settings, at_end, tell_ready) as address:
        child.up(address)
        await child.stop.wait()
        if ended.is_set():
            raise StartError("gRPC's server ended by itself, after an error of its own")
