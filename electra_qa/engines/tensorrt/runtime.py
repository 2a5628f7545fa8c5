"""One stream of work on the GPU: a plan loaded, buffers on both sides, a context for each shape."""

from __future__ import annotations

import contextlib
import logging
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorrt as trt

from ...spans import DecodedWindows
from ...windows import WindowBatch
from .. import EngineError
from .build import TensorRTOptions, logger, why
from .cuda import Cuda, GpuFaultError, Memory, PinnedMemory, Stream
from .launcher import CudaError, Launcher
from .profiles import INPUTS, OUTPUTS, Profiles, Shape, Tensor, graph_tensors, places

log = logging.getLogger(__name__)


def load_plan(plan: bytes, options: TensorRTOptions) -> Any:
    """TensorRT's engine of a plan. Raises EngineError where it doesn't take the plan."""
    logger.reason()
    try:
        runtime = trt.Runtime(logger)
    except TypeError as error:
        raise EngineError(f"TensorRT does not start: {why()}") from error
    # Such a plan brings its own runtime, which is code for the CPU.
    runtime.engine_host_code_allowed = options.version_compatible
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise EngineError(f"TensorRT can't load the engine: {why()}")
    return engine


@dataclass(frozen=True, slots=True)
class _Buffer:
    """All inputs, or all outputs, of the largest shape: pinned memory here, and on the GPU."""

    host: PinnedMemory
    gpu: Memory


@dataclass(eq=False, slots=True)
class _Ready:
    """What runs a shape.

    views: its inputs and outputs in pinned memory. input_size, output_size: in bytes.
    graph: copies in, TensorRT's work, copies out; None until it is captured, or where capture
        doesn't work.
    """

    context: Any
    views: dict[str, npt.NDArray[Any]]
    input_size: int
    output_size: int
    graph: int | None = None


class Slot:
    """One batch at a time. Make and close it in the engine's `GpuThread`; it runs in any thread.

    Each shape has an execution context of its own, set up and run here before the first batch
    comes, and never changed: a CUDA graph has the shapes, the addresses and the state of its
    context baked in. The contexts of a slot share one block of scratch memory; they run one after
    another, on one stream.

    no_graphs: set, here or in another slot, where CUDA graphs don't work for this engine.
    """

    def __init__(
        self,
        plan: bytes,
        profiles: Profiles,
        n_best_size: int,
        options: TensorRTOptions,
        cuda: Cuda,
        launcher: Launcher,
        no_graphs: threading.Event,
    ) -> None:
        """Raises EngineError."""
        self._profiles = profiles
        self._cuda = cuda
        self._launcher = launcher
        self._no_graphs = no_graphs
        self._tensors = graph_tensors(n_best_size)
        self._ready: dict[Shape, _Ready] = {}
        self._buffers: list[_Buffer] = []
        self._memory: list[Memory | PinnedMemory] = []
        self._stream: Stream | None = None
        self._event: int | None = None
        self._engine: Any = load_plan(plan, options)
        try:
            self._check_tensors()
            self._allocate()
            for shape in profiles.shapes():
                self._warm_up(shape)
        except BaseException:
            self.close()
            raise

    def _check_tensors(self) -> None:
        engine = self._engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        found = {name: np.dtype(trt.nptype(engine.get_tensor_dtype(name))) for name in names}
        expected = {tensor.name: np.dtype(tensor.dtype) for tensor in self._tensors.values()}
        if found != expected:
            raise EngineError(f"the engine has other inputs and outputs than the graph: {found}")

    def _allocate(self) -> None:
        try:
            self._stream = self._cuda.stream()
            self._event = self._launcher.event()
            # The size for the largest profile.
            self._scratch = self._cuda.allocate(max(1, self._engine.device_memory_size_v2))
            self._memory.append(self._scratch)
            for names in (INPUTS, OUTPUTS):
                size = max(
                    places(self._named(names), shape)[1] for shape in self._profiles.shapes()
                )
                host = self._cuda.pinned(size)
                self._memory.append(host)
                memory = self._cuda.allocate(size)
                self._memory.append(memory)
                self._buffers.append(_Buffer(host, memory))
        except CudaError as error:
            raise EngineError(f"the GPU has no room for the engine's buffers: {error}") from error

    def _named(self, names: tuple[str, ...]) -> list[Tensor]:
        return [self._tensors[name] for name in names]

    def run(self, batch: WindowBatch) -> DecodedWindows:
        """Raises EngineError, and GpuFaultError where nothing works any more after it."""
        ready = self._ready[self._profiles.fit(*batch.input_ids.shape)]
        _fill(ready.views, batch)
        try:
            with self._launcher.current():
                self._run(ready)
        except CudaError as error:
            raise GpuFaultError(f"CUDA failed: {error}") from error
        # Copies: the pinned memory is the next batch's. What was padded is cut off.
        return DecodedWindows(**{name: self._cut(ready, name, batch).copy() for name in OUTPUTS})

    def _cut(self, ready: _Ready, name: str, batch: WindowBatch) -> npt.NDArray[Any]:
        sizes = self._tensors[name].shape(*batch.input_ids.shape)
        cut: npt.NDArray[Any] = ready.views[name][tuple(slice(size) for size in sizes)]
        return cut

    def _run(self, ready: _Ready) -> None:
        """Leaves nothing on the stream, also where it fails: buffers are in use till then. Errors
        of asynchronous work come up here."""
        stream, event = self._handles()
        try:
            if ready.graph is None:
                self._enqueue(ready)
            else:
                self._launcher.launch(ready.graph, stream)
        finally:
            self._launcher.wait(stream, event)

    def _handles(self) -> tuple[int, int]:
        assert self._stream is not None, "closed"
        assert self._event is not None, "closed"
        return self._stream.handle, self._event

    def _enqueue(self, ready: _Ready) -> None:
        assert self._stream is not None, "closed"
        inputs, outputs = self._buffers
        self._cuda.copy_to_gpu(inputs.gpu, inputs.host, ready.input_size, self._stream)
        if not ready.context.execute_async_v3(self._stream.handle):
            raise EngineError(f"TensorRT failed on a batch: {why()}")
        self._cuda.copy_to_host(outputs.host, outputs.gpu, ready.output_size, self._stream)

    def _warm_up(self, shape: Shape) -> None:
        """Set up a shape, run it as it is, capture it, and run the graph: a first run is slower
        than later ones, and no caller should wait for it."""
        try:
            ready = self._prepare(shape)
            _fill(ready.views, _any_batch(shape))
            self._run(ready)
            self._capture(ready)
            self._ready[shape] = ready
            if ready.graph is not None:
                self._run(ready)
        except CudaError as error:
            raise GpuFaultError(f"CUDA failed: {error}") from error

    def _prepare(self, shape: Shape) -> _Ready:
        logger.reason()
        context = self._engine.create_execution_context(
            trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        if context is None:
            raise EngineError(f"TensorRT can't make an execution context: {why()}")
        sizes = []
        views = {}
        addresses = {}
        for names, buffer in zip((INPUTS, OUTPUTS), self._buffers, strict=True):
            found, size = places(self._named(names), shape)
            sizes.append(size)
            for name, place in found.items():
                views[name] = place.view(buffer.host.content)
                addresses[name] = buffer.gpu.address + place.offset
        stream, event = self._handles()
        try:
            # On the stream that it runs on, so that what this copies is there in time.
            context.set_optimization_profile_async(shape.profile, stream)
            taken = [context.set_input_shape(name, views[name].shape) for name in INPUTS]
            taken += [context.set_tensor_address(name, at) for name, at in addresses.items()]
            missing = context.infer_shapes()
        except RuntimeError as error:
            raise EngineError(f"TensorRT refuses {shape}: {error}: {why()}") from error
        finally:
            self._launcher.wait(stream, event)
        context.set_device_memory(self._scratch.address, self._engine.device_memory_size_v2)
        if missing or not all(taken):
            raise EngineError(f"TensorRT refuses {shape}: {why()}")
        for name in OUTPUTS:
            found_shape = tuple(context.get_tensor_shape(name))
            if found_shape != views[name].shape:
                raise EngineError(f"TensorRT gives {name} {found_shape}, not {views[name].shape}")
        return _Ready(context, views, *sizes)

    def _capture(self, ready: _Ready) -> None:
        """Make a CUDA graph of a shape that has run: one launch in place of one for each kernel
        and copy. Where that fails, batches are enqueued as the first one was."""
        if self._no_graphs.is_set():
            return
        stream, event = self._handles()
        try:
            ready.graph = self._launcher.capture(stream, lambda: self._enqueue(ready))
        except (CudaError, EngineError) as error:
            self._no_graphs.set()
            # As text: the error itself would keep its frames, and so the context, alive.
            log.warning("no CUDA graphs, which costs some speed: %s; %s", str(error), why())
            self._launcher.wait(stream, event)  # raises where it was more than a failed capture

    def close(self) -> None:
        """Free everything, users before what they use.

        After a fault CUDA refuses: what is left then goes with the process.
        """
        if self._stream is not None and self._event is not None:
            with contextlib.suppress(CudaError):
                self._launcher.wait(*self._handles())
        for ready in self._ready.values():
            if ready.graph is not None:
                with contextlib.suppress(CudaError):
                    self._launcher.free_graph(ready.graph)
            # The frames of an error that somebody keeps may keep `ready`.
            ready.context, ready.views = None, {}
        self._ready.clear()
        self._engine = None
        self._buffers.clear()
        for memory in reversed(self._memory):
            with contextlib.suppress(CudaError):
                memory.free()
        self._memory.clear()
        if self._event is not None:
            with contextlib.suppress(CudaError):
                self._launcher.free_event(self._event)
        if self._stream is not None:
            with contextlib.suppress(CudaError):
                self._stream.free()
        self._stream = self._event = None


def _any_batch(shape: Shape) -> WindowBatch:
    """One window that fills the shape's length. See `windows.BOUNDS`."""
    last = shape.length - 1
    bounds = np.array([[1, last, 1, last, 1]], np.int32)
    return WindowBatch(np.zeros((1, shape.length), np.int32), bounds)


def _fill(views: dict[str, npt.NDArray[Any]], batch: WindowBatch) -> None:
    """Write a batch into the inputs of a shape that is at least as large.

    The windows that fill it up are copies of the first one, so that the GPU works on nothing but
    windows that are valid. What follows a window's last token is masked, whatever it is.
    """
    windows, length = batch.input_ids.shape
    input_ids, bounds = (views[name] for name in INPUTS)
    input_ids[:windows, :length] = batch.input_ids
    input_ids[:windows, length:] = 0
    bounds[:windows] = batch.bounds
    input_ids[windows:] = input_ids[0]
    bounds[windows:] = bounds[0]
