"""CUDA: the threads that work on the GPU, and what the GPU is. By pycuda and cuda-python."""

from __future__ import annotations

import functools
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import pycuda.driver as cuda
from cuda.bindings import runtime as cudart

from .. import EngineError

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

# How long closing waits for a thread, in seconds. Longer only where the GPU hangs or is lost.
CLOSE_TIMEOUT_S = 5.0


class GpuFaultError(EngineError):
    """CUDA failed, maybe on work of a while ago: nothing that this process does on the GPU after
    it can be trusted, and CUDA refuses most of it."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """compute_capability: "8.9", say. memory: in bytes."""

    name: str
    compute_capability: str
    memory: int


def describe_gpu() -> Gpu:
    """The GPU that the calling `GpuThread` works on."""
    device = cuda.Device(0)
    major, minor = device.compute_capability()
    return Gpu(device.name(), f"{major}.{minor}", device.total_memory())


class GpuThread:
    """A thread with the GPU's context, that runs the calls it is handed, one after another.

    Contexts, streams and buffers belong to one such thread: made, used and freed in it. pycuda
    frees nothing from another thread.
    """

    def __init__(self, name: str) -> None:
        """Raises EngineError where there is no GPU that works."""
        self._tasks: _Tasks = queue.SimpleQueue()
        started: Future[None] = Future()
        # A daemon: the interpreter waits for other threads before it runs what closes this one.
        self._thread = threading.Thread(
            target=_work, args=(self._tasks, started), name=name, daemon=True
        )
        self._thread.start()
        started.result()

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run it in the thread and wait. Raises what it raises."""
        if threading.current_thread() is self._thread:  # an engine collected as garbage, here
            return function(*args, **kwargs)
        future: Future[T] = Future()
        self._tasks.put((future, functools.partial(function, *args, **kwargs)))
        return future.result()

    def close(self) -> None:
        """Nothing may be called any more."""
        self._tasks.put(None)
        if self._thread is not threading.current_thread():
            self._thread.join(CLOSE_TIMEOUT_S)


_Tasks = queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]


def _work(tasks: _Tasks, started: Future[None]) -> None:
    try:
        _primary_context().push()
    except cuda.Error as error:
        started.set_exception(EngineError(f"no GPU that works: CUDA says: {error}"))
        return
    except BaseException as error:
        started.set_exception(error)
        return
    try:
        started.set_result(None)
        while (task := tasks.get()) is not None:
            future, call = task
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(_without_frames(error))
    finally:
        _pop()


def _pop() -> None:
    """pycuda aborts the process when a thread ends whose stack of contexts isn't empty. Where CUDA
    refuses even to pop, after a fault, the thread stays, so that the process can end in order."""
    try:
        cuda.Context.pop()
    except cuda.Error:
        log.exception("CUDA does not let go of the GPU: restart the process")
        threading.Event().wait()


_primary_lock = threading.Lock()
_primary: list[Any] = []


def _primary_context() -> Any:
    """The context that CUDA's runtime, and so TensorRT, uses too. Another one would not know their
    streams and buffers.

    Retained once and never released: libraries that the process shares it with don't expect it
    to go, and it goes with the process.
    """
    with _primary_lock:
        if not _primary:
            cuda.init()
            if cuda.Device.count() == 0:
                raise EngineError("no GPU: CUDA sees none (is CUDA_VISIBLE_DEVICES set?)")
            _primary.append(cuda.Device(0).retain_primary_context())
        return _primary[0]


def _without_frames(error: BaseException) -> BaseException:
    """Frames of a traceback keep their variables alive: CUDA objects, beyond their thread."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error


class CudaRuntimeError(Exception):
    """A call of CUDA's runtime failed; the message is CUDA's name for it."""


def check(result: tuple[Any, ...]) -> Any:
    """What a call of cuda-python returned, without its status. Raises CudaRuntimeError."""
    status, *values = result
    if status != cudart.cudaError_t.cudaSuccess:
        raise CudaRuntimeError(getattr(status, "name", str(status)))
    return values[0] if values else None
