"""One stream of work on the GPU: a plan loaded, buffers on both sides, a context for each shape."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pycuda.driver as cuda
import tensorrt as trt
from cuda.bindings import runtime as cudart

from ...spans import DecodedWindows
from ...windows import WindowBatch
from .. import EngineError
from .build import TensorRTOptions, logger, why
from .cuda import CudaRuntimeError, GpuFaultError, check
from .profiles import INPUTS, OUTPUTS, Profiles, Shape, Tensor, graph_tensors

log = logging.getLogger(__name__)

# The default stream would wait for the other slot's work, and makes TensorRT synchronize.
NON_BLOCKING = 1


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
    """An input or output for the largest shape: pinned memory here, and memory on the GPU.

    host: [values], an array over `pinned`.
    """

    tensor: Tensor
    host: npt.NDArray[Any]
    pinned: Any
    device: Any

    def view(self, shape: Shape) -> npt.NDArray[Any]:
        """The host's side of a shape, without a copy."""
        full = self.tensor.shape(shape.windows, shape.length)
        return self.host[: math.prod(full)].reshape(full)


@dataclass(eq=False, slots=True)
class _Ready:
    """What runs a shape. graph: None until it is captured, or where capture doesn't work."""

    context: Any
    views: dict[str, npt.NDArray[Any]]
    graph: Any = None


class Slot:
    """Make, use and close it in one `GpuThread`. One batch at a time.

    Each shape that comes gets an execution context of its own, set up once and never changed: a
    CUDA graph has the shapes, the addresses and the state of its context baked in. The contexts of
    a slot share one block of scratch memory; they run one after another, on one stream.

    no_graphs: set, here or in another slot, where CUDA graphs don't work for this engine.
    """

    def __init__(
        self,
        plan: bytes,
        profiles: Profiles,
        n_best_size: int,
        options: TensorRTOptions,
        no_graphs: threading.Event,
    ) -> None:
        """Raises EngineError."""
        self._profiles = profiles
        self._no_graphs = no_graphs
        self._ready: dict[Shape, _Ready] = {}
        self._buffers: dict[str, _Buffer] = {}
        self._scratch: Any = None
        self._stream: Any = None
        self._engine: Any = load_plan(plan, options)
        try:
            tensors = graph_tensors(n_best_size)
            self._check_tensors(tensors)
            self._stream = cuda.Stream(NON_BLOCKING)
            # The size for the largest profile.
            self._scratch = cuda.mem_alloc(max(1, self._engine.device_memory_size_v2))
            for name, tensor in tensors.items():
                self._buffers[name] = self._allocate(tensor)
        except cuda.Error as error:
            self.close()
            raise EngineError(f"the GPU has no room for the engine's buffers: {error}") from error
        except BaseException:
            self.close()
            raise

    def _check_tensors(self, tensors: dict[str, Tensor]) -> None:
        engine = self._engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        found = {name: np.dtype(trt.nptype(engine.get_tensor_dtype(name))) for name in names}
        expected = {tensor.name: np.dtype(tensor.dtype) for tensor in tensors.values()}
        if found != expected:
            raise EngineError(f"the engine has other inputs and outputs than the graph: {found}")

    def _allocate(self, tensor: Tensor) -> _Buffer:
        values = max(
            math.prod(tensor.shape(self._profiles.max_windows(length), length))
            for length in self._profiles.lengths
        )
        host = cuda.pagelocked_empty((values,), tensor.dtype)
        return _Buffer(tensor, host, host.base, cuda.mem_alloc(host.nbytes))

    def run(self, batch: WindowBatch) -> DecodedWindows:
        """Raises EngineError, and GpuFaultError where nothing works any more after it."""
        shape = self._profiles.fit(*batch.input_ids.shape)
        try:
            ready = self._ready.get(shape)
            if ready is not None:
                return self._run(ready, batch)
            ready = self._prepare(shape)
            decoded = self._run(ready, batch)
            self._capture(ready)
            self._ready[shape] = ready
            return decoded
        except cuda.Error as error:
            raise GpuFaultError(f"CUDA failed: {error}") from error

    def _run(self, ready: _Ready, batch: WindowBatch) -> DecodedWindows:
        views = ready.views
        _fill(views, batch)
        with self._synchronized():
            for name in INPUTS:
                cuda.memcpy_htod_async(self._address(name), views[name], self._stream)
            self._start(ready)
            for name in OUTPUTS:
                cuda.memcpy_dtoh_async(views[name], self._address(name), self._stream)
        # Copies: the pinned memory is the next batch's. What was padded is cut off.
        return DecodedWindows(**{name: self._cut(views, name, batch).copy() for name in OUTPUTS})

    def _cut(
        self, views: dict[str, npt.NDArray[Any]], name: str, batch: WindowBatch
    ) -> npt.NDArray[Any]:
        sizes = self._buffers[name].tensor.shape(*batch.input_ids.shape)
        cut: npt.NDArray[Any] = views[name][tuple(slice(size) for size in sizes)]
        return cut

    @contextlib.contextmanager
    def _synchronized(self) -> Iterator[None]:
        """Leaves nothing on the stream, also where the block fails: buffers are in use till then.
        Errors of asynchronous work come up here."""
        try:
            yield
        finally:
            self._stream.synchronize()

    def _start(self, ready: _Ready) -> None:
        if ready.graph is None:
            if not ready.context.execute_async_v3(self._stream.handle):
                raise EngineError(f"TensorRT failed on a batch: {why()}")
            return
        try:
            check(cudart.cudaGraphLaunch(ready.graph, self._stream.handle))
        except CudaRuntimeError as error:
            raise GpuFaultError(f"CUDA failed: {error}") from error

    def _address(self, name: str) -> int:
        return int(self._buffers[name].device)

    def _prepare(self, shape: Shape) -> _Ready:
        logger.reason()
        context = self._engine.create_execution_context(
            trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        if context is None:
            raise EngineError(f"TensorRT can't make an execution context: {why()}")
        views = {name: buffer.view(shape) for name, buffer in self._buffers.items()}
        with self._synchronized():
            try:
                # On the stream that it runs on, so that what this copies is there in time.
                context.set_optimization_profile_async(shape.profile, self._stream.handle)
                taken = [context.set_input_shape(name, views[name].shape) for name in INPUTS]
                taken += [context.set_tensor_address(name, self._address(name)) for name in views]
                missing = context.infer_shapes()
            except RuntimeError as error:
                raise EngineError(f"TensorRT refuses {shape}: {error}: {why()}") from error
            context.set_device_memory(int(self._scratch), self._engine.device_memory_size_v2)
        if missing or not all(taken):
            raise EngineError(f"TensorRT refuses {shape}: {why()}")
        for name in OUTPUTS:
            found = tuple(context.get_tensor_shape(name))
            if found != views[name].shape:
                raise EngineError(f"TensorRT gives {name} {found}, not {views[name].shape}")
        return _Ready(context, views)

    def _capture(self, ready: _Ready) -> None:
        """Make a CUDA graph of a shape that has run: one launch in place of one for each kernel.

        Where that fails, batches are enqueued as the first one was.
        """
        if self._no_graphs.is_set():
            return
        try:
            ready.graph = self._captured(ready.context)
        except CudaRuntimeError as error:
            if not self._no_graphs.is_set():
                # As text: the error itself would keep its frames, and so the context, alive.
                reason = f"{error}; {logger.reason()}"
                log.warning("no CUDA graphs, which costs some speed: %s", reason)
            self._no_graphs.set()
            cudart.cudaGetLastError()  # take the error away
            self._stream.synchronize()  # raises where it was more than a failed capture

    def _captured(self, context: Any) -> Any:
        stream = self._stream.handle
        # Only this thread is kept from calls that don't go with capture: the other slot works on.
        mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        check(cudart.cudaStreamBeginCapture(stream, mode))
        try:
            enqueued = context.execute_async_v3(stream)
        finally:
            # Always: a stream that is left capturing runs nothing.
            ended = cudart.cudaStreamEndCapture(stream)
        graph = check(ended)
        try:
            if not enqueued:
                raise CudaRuntimeError("TensorRT can't enqueue")
            return check(cudart.cudaGraphInstantiate(graph, 0))
        finally:
            cudart.cudaGraphDestroy(graph)

    def close(self) -> None:
        """Free everything, users before what they use.

        After a fault CUDA refuses: what is left then goes with the process.
        """
        if self._stream is not None:
            with contextlib.suppress(cuda.Error):
                self._stream.synchronize()
        for ready in self._ready.values():
            if ready.graph is not None:
                cudart.cudaGraphExecDestroy(ready.graph)
        self._ready.clear()
        self._engine = None
        for buffer in self._buffers.values():
            with contextlib.suppress(cuda.Error):
                buffer.device.free()
            with contextlib.suppress(cuda.Error):
                buffer.pinned.free()
        self._buffers.clear()
        if self._scratch is not None:
            with contextlib.suppress(cuda.Error):
                self._scratch.free()
        self._scratch = self._stream = None


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
