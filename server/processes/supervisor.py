"""The process that was started: it starts the others, looks after them, and ends them in order."""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, ProcessCollector

from ..admin import administered
from ..errors import ReloadError, StartError
from ..lifecycle import reload_at
from ..observe.metrics_port import exposed
from .child import Child
from .children import engine_process, front_process
from .collected import Family, Page, merged, snapshot
from .plan import Plan
from .port import shared_port

log = logging.getLogger(__name__)

# How often their counters are looked at: what a process that is killed counted since is lost.
LOOK_S = 1.0
# How long one that is busy may take to tell them, in seconds.
LOOK_TIMEOUT_S = 2.0
# Beyond drain_timeout_s, until a process that does not end is killed.
END_TIMEOUT_S = 15.0


async def supervise_until(
    stop: asyncio.Event,
    hangup: asyncio.Event,
    plan: Plan,
    on_ready: Callable[[str, dict[str, str]], None],
) -> None:
    """As `lifecycle.serve_until`, in several processes. Raises StartError.

    on_ready: called with the address and what the engine says of itself.
    """
    async with _Supervisor(plan).running() as supervisor:
        ready = await supervisor.ready(stop)
        if ready is None:
            log.info("stopped before it was ready")
            return
        on_ready(*ready)
        reloading = asyncio.create_task(reload_at(hangup, supervisor.reload))
        await stop.wait()
        reloading.cancel()
        log.info("stopping: finishing what was accepted")


class _Supervisor:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._changed = asyncio.Event()
        self._engines: list[Child] = []
        self._fronts: list[Child] = []
        # What this process counts itself.
        self._own = CollectorRegistry()
        ProcessCollector(registry=self._own)
        self._running: dict[Child, asyncio.Task[None]] = {}

    @property
    def _children(self) -> Sequence[Child]:
        return (*self._engines, *self._fronts)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[_Supervisor]:
        """The processes start; when the block is left they end, front ends first, or at once where
        it is left with an error. Raises StartError."""
        settings = self._plan.settings
        async with AsyncExitStack() as stack:
            folder = stack.enter_context(_private_folder())
            address = await stack.enter_async_context(
                shared_port(settings.address, settings.front_ends)
            )
            registry = CollectorRegistry()
            loop = asyncio.get_running_loop()
            registry.register(Page(lambda: self._scraped(loop)))
            restarts = Counter(
                "electra_qa_restarts",
                "Processes that ended by themselves and were started again.",
                ("process",),
                registry=self._own,
            )
            stack.enter_context(exposed(registry, settings.metrics_address))
            await stack.enter_async_context(administered(self.reload, settings))
            plan = replace(self._plan, settings=replace(settings, address=address))
            self._make(plan, folder, restarts)
            for child in self._children:
                self._running[child] = asyncio.create_task(child.keep_running())
                self._running[child].add_done_callback(lambda _: self._changed.set())
            looking = asyncio.create_task(self._keep_looking())
            try:
                yield self
                await self._stop(self._fronts)
                await self._stop(self._engines)
            finally:
                looking.cancel()
                for child in self._children:
                    child.kill()
                await asyncio.gather(*self._running.values(), return_exceptions=True)

    def _make(self, plan: Plan, folder: Path, restarts: Counter) -> None:
        paths = [str(folder / f"engine-{n}") for n in range(len(plan.devices))]
        self._engines = [
            Child(
                f"engine-{n}",
                engine_process,
                (plan, path, device),
                self._changed.set,
                restarts.labels("engine").inc,
            )
            for n, (path, device) in enumerate(zip(paths, plan.devices, strict=True))
        ]
        self._fronts = [
            Child(
                f"front-{n}",
                front_process,
                (plan, paths),
                self._changed.set,
                restarts.labels("front").inc,
            )
            for n in range(plan.settings.front_ends)
        ]

    async def ready(self, stop: asyncio.Event) -> tuple[str, dict[str, str]] | None:
        """Once all processes are: the address, and what the first engine says of itself; None where
        `stop` is set before. Raises StartError."""
        stopping = asyncio.create_task(stop.wait())
        stopping.add_done_callback(lambda _: self._changed.set())
        try:
            while not self._are_ready():
                for running in self._running.values():
                    if running.done():
                        running.result()
                if stop.is_set():
                    return None
                self._changed.clear()
                await self._changed.wait()
        finally:
            stopping.cancel()
        return self._fronts[0].up.result(), self._engines[0].up.result()

    def _are_ready(self) -> bool:
        return all(child.up.done() for child in self._children) and all(
            front.ready for front in self._fronts
        )

    async def _stop(self, these: Sequence[Child]) -> None:
        for child in these:
            child.stop()
        limit = self._plan.settings.drain_timeout_s + END_TIMEOUT_S
        running = [self._running[child] for child in these]
        if (await asyncio.wait(running, timeout=limit))[1]:
            log.warning("not all processes ended within %g s: they are killed", limit)

    async def reload(self) -> str:
        """All engines load the bundle anew; gives its version once the one before is freed. Raises
        ReloadError."""
        ended = await asyncio.gather(
            *(engine.ask("reload") for engine in self._engines), return_exceptions=True
        )
        for engine, one in zip(self._engines, ended, strict=True):
            if isinstance(one, BaseException):
                log.error("the reload of %s failed: %s", engine.name, one)
        for one in ended:
            if isinstance(one, BaseException):
                raise one
        versions = {str(one) for one in ended}
        if len(versions) > 1:
            raise ReloadError("the bundle changed while the engines loaded it: reload again")
        return versions.pop()

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            with suppress(TimeoutError):
                await self._look()

    async def _look(self) -> None:
        async with asyncio.timeout(LOOK_TIMEOUT_S):
            await asyncio.gather(
                *(child.look() for child in self._children), return_exceptions=True
            )

    def _scraped(self, loop: asyncio.AbstractEventLoop) -> list[Family]:
        """On a thread of the page's."""
        looking = asyncio.run_coroutine_threadsafe(self._look(), loop)
        with suppress(Exception):
            looking.result(LOOK_TIMEOUT_S + 1)
        return merged([snapshot(self._own), *(child.metrics() for child in self._children)])


@contextmanager
def _private_folder() -> Iterator[Path]:
    """For the sockets between processes: nobody else may open it."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="electra-qa-"))
    except OSError as error:
        raise StartError(f"no folder for temporary files (TMPDIR): {error}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
