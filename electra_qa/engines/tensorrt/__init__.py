"""The GPU engine: TensorRT 11, pycuda, and CUDA graphs by cuda-python.

profiles.py  which shapes the GPU runs
build.py     from the bundle's graph to a plan
cache.py     where plans are kept
cuda.py      the threads that work on the GPU
runtime.py   a batch on the GPU
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import weakref
from dataclasses import dataclass

import tensorrt as trt

from ...bundle import Bundle
from ...spans import DecodedWindows
from ...windows import WindowBatch
from .. import EngineError, EngineSettings
from ..checked_graph import CheckedGraph, checked_graph
from .build import TensorRTOptions, build_plan
from .cache import PlanCache, plan_key
from .cuda import GpuFaultError, GpuThread, describe_gpu
from .profiles import Profiles
from .runtime import Slot, load_plan

__all__ = ["TensorRTEngine", "TensorRTOptions"]

log = logging.getLogger(__name__)

DEFAULTS = TensorRTOptions()

# So many batches at a time: while one computes, the next one's inputs are copied.
SLOTS = 2
BATCH_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class _Worker:
    thread: GpuThread
    slot: Slot


# None stands for a worker that is closed.
_Workers = queue.SimpleQueue[_Worker | None]


class TensorRTEngine:
    """One compiled graph on the first GPU that CUDA shows (CUDA_VISIBLE_DEVICES).

    The first start on a machine builds the engine, which takes minutes; later ones load it.
    """

    slots = SLOTS

    def __init__(
        self, bundle: Bundle, settings: EngineSettings, *, options: TensorRTOptions = DEFAULTS
    ) -> None:
        """Raises EngineError where there is no GPU, or TensorRT does not take the graph."""
        graph = checked_graph(bundle)
        limit = bundle.manifest.max_seq_length_limit
        self.batch_tokens = settings.max_batch_tokens or BATCH_TOKENS
        profiles = Profiles.up_to(limit, self.batch_tokens)
        self.buckets = profiles.lengths
        self._fault: str | None = None
        self._workers: _Workers = queue.SimpleQueue()
        threads: list[GpuThread] = []
        # Also at the interpreter's exit, while threads still run.
        self._closing = weakref.finalize(self, _close, self._workers, threads)
        no_graphs = threading.Event()
        try:
            for index in range(SLOTS):
                # One by one: those before one that fails are closed.
                threads.append(GpuThread(f"gpu-{index}"))  # noqa: PERF401
            gpu = threads[0].call(describe_gpu)
            plan = threads[0].call(_plan, bundle, graph, profiles, options)
            n_best_size = bundle.manifest.n_best_size
            for thread in threads:
                # Each loads the plan: weights twice, but nothing of CUDA is shared by threads.
                slot = thread.call(Slot, plan, profiles, n_best_size, options, no_graphs)
                self._workers.put(_Worker(thread, slot))
        except BaseException:
            for _ in range(SLOTS - self._workers.qsize()):
                self._workers.put(None)
            self.close()
            raise
        self.device = (
            f"GPU ({gpu.name}, compute capability {gpu.compute_capability}, "
            f"{gpu.memory / 2**30:.0f} GiB), TensorRT {trt.__version__}"
        )

    def run(self, batch: WindowBatch) -> DecodedWindows:
        worker = self._workers.get()
        try:
            if worker is None:
                raise EngineError("the engine is closed")
            if self._fault is not None:
                raise EngineError(f"the GPU failed before, restart the process: {self._fault}")
            return worker.thread.call(worker.slot.run, batch)
        except GpuFaultError as error:
            self._fault = str(error)
            raise EngineError(f"restart the process: {error}") from error
        finally:
            self._workers.put(worker)

    def close(self) -> None:
        """Wait for the batches that run, and free what the GPU holds. Later runs fail."""
        self._closing()


def _plan(
    bundle: Bundle, graph: CheckedGraph, profiles: Profiles, options: TensorRTOptions
) -> bytes:
    """The plan that is kept, where TensorRT takes it; else a new one, which is kept."""
    gpu = describe_gpu()
    cache = PlanCache(bundle, gpu, trt.__version__)
    key = plan_key(bundle, profiles, options, gpu, trt.__version__)
    plan = cache.load_plan(key)
    if plan is not None:
        try:
            load_plan(plan, options)
        except EngineError as error:
            log.warning("the engine is built anew: %s", str(error))
        else:
            return plan
    log.info("building the engine for %s: this takes minutes, once", gpu.name)
    started = time.monotonic()
    plan, timing = build_plan(bundle, graph, profiles, options, cache.load_timing())
    log.info("built the engine in %.0f s", time.monotonic() - started)
    cache.save_timing(timing)
    cache.save_plan(key, plan)
    return plan


def _close(workers: _Workers, threads: list[GpuThread]) -> None:
    for _ in threads:
        worker = workers.get()
        if worker is not None:
            worker.thread.call(worker.slot.close)
    for thread in threads:
        thread.close()
    workers.put(None)
