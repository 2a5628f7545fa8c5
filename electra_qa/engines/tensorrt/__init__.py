"""The GPU engine: TensorRT 11, and CUDA by pycuda or cuda-python.

profiles.py        which shapes the GPU runs
build.py           from the bundle's graph to a plan
cache.py           where plans are kept
cuda.py            what is asked of CUDA, and the thread that it is set up on
by_pycuda.py       the one library for it
by_cuda_python.py  the other
launcher.py        CUDA graphs, and the calls of a batch
runtime.py         a batch on the GPU
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import weakref

import tensorrt as trt

from ...bundle import Bundle
from ...spans import DecodedWindows
from ...windows import WindowBatch
from .. import EngineError, EngineSettings
from ..checked_graph import CheckedGraph, checked_graph
from .build import TensorRTOptions, build_plan
from .cache import PlanCache, plan_key
from .cuda import Cuda, Gpu, GpuFaultError, GpuThread, process_cuda
from .profiles import Profiles
from .runtime import Slot, load_plan

__all__ = ["TensorRTEngine", "TensorRTOptions"]

log = logging.getLogger(__name__)

DEFAULTS = TensorRTOptions()

# So many batches at a time, unless it is set: while one computes, the next one's inputs are copied.
SLOTS = 2
BATCH_TOKENS = 4096

# None stands for an engine that is closed.
_Slots = queue.SimpleQueue[Slot | None]


class TensorRTEngine:
    """One compiled graph on the first GPU that CUDA shows (CUDA_VISIBLE_DEVICES).

    The first start on a machine builds the engine, which takes minutes; later ones load it. Each
    start runs every shape once in every slot, so that none is slower under traffic.
    """

    def __init__(
        self,
        bundle: Bundle,
        settings: EngineSettings,
        *,
        options: TensorRTOptions = DEFAULTS,
        cuda: Cuda | None = None,
    ) -> None:
        """cuda: the library to use; None for pycuda where it is installed, else cuda-python.

        Raises EngineError where there is no GPU, or TensorRT does not take the graph.
        """
        graph = checked_graph(bundle)
        limit = bundle.manifest.max_seq_length_limit
        self.batch_tokens = settings.max_batch_tokens or BATCH_TOKENS
        self.slots = settings.streams or SLOTS
        profiles = Profiles.up_to(limit, self.batch_tokens)
        self.buckets = profiles.lengths
        self._fault: str | None = None
        self._free: _Slots = queue.SimpleQueue()
        cuda = cuda or process_cuda()
        thread = GpuThread("gpu", cuda)
        slots: list[Slot] = []
        # Also at the interpreter's exit, while threads still run.
        self._closing = weakref.finalize(self, _close, self._free, slots, thread)
        no_graphs = threading.Event()
        try:
            gpu = thread.call(cuda.gpu)
            plan = thread.call(_plan, bundle, graph, profiles, options, gpu)
            started = time.monotonic()
            for _ in range(self.slots):
                # Each loads the plan: weights twice, but nothing of TensorRT is shared by threads.
                slot = thread.call(
                    Slot,
                    plan,
                    profiles,
                    bundle.manifest.n_best_size,
                    options,
                    cuda,
                    thread.launcher,
                    no_graphs,
                )
                slots.append(slot)
                self._free.put(slot)
            shapes = len(profiles.shapes())
            log.info("ran %d shapes to warm up in %.1f s", shapes, time.monotonic() - started)
        except BaseException:
            self.close()
            raise
        self.device = (
            f"GPU ({gpu.name}, compute capability {gpu.compute_capability}, "
            f"{gpu.memory / 2**30:.0f} GiB), TensorRT {trt.__version__}, {cuda.name}"
        )

    def run(self, batch: WindowBatch) -> DecodedWindows:
        slot = self._free.get()
        try:
            if slot is None:
                raise EngineError("the engine is closed")
            if self._fault is not None:
                raise EngineError(f"the GPU failed before, restart the process: {self._fault}")
            return slot.run(batch)
        except GpuFaultError as error:
            self._fault = str(error)
            raise EngineError(f"restart the process: {error}") from error
        finally:
            self._free.put(slot)

    def close(self) -> None:
        """Wait for the batches that run, and free what the GPU holds. Later runs fail."""
        self._closing()


def _plan(
    bundle: Bundle, graph: CheckedGraph, profiles: Profiles, options: TensorRTOptions, gpu: Gpu
) -> bytes:
    """The plan that is kept, where TensorRT takes it; else a new one, which is kept."""
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


def _close(free: _Slots, slots: list[Slot], thread: GpuThread) -> None:
    # All of them first: to free memory waits for whatever the GPU does.
    for slot in [free.get() for _ in slots]:
        if slot is not None:
            thread.call(slot.close)
    thread.close()
    free.put(None)
