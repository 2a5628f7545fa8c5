"""Engines run window batches through a bundle's graph. Each is a module with one class.

The libraries behind them come with an extra (`electra-qa[server]`, `electra-qa[gpu]`) and are
imported only when an engine is asked for.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from ..bundle import Bundle
from ..spans import DecodedWindows
from ..windows import WindowBatch
from .cgroup import cpu_quota


class EngineError(Exception):
    """The engine can't be made, or a run of it failed; the message says why."""


class Engine(Protocol):
    """What the server needs of an engine.

    device: what it runs on and with, for people.
    slots: how many calls of `run` keep it busy; more wait inside it.
    batch_tokens: the token budget of one run, padding included: what was asked for, or what suits
        the machine.
    buckets: the lengths that batches are padded to, rising; the last one is the bundle's
        `max_seq_length_limit`. Every shape costs an engine something: a kernel, or a profile.
    """

    device: str
    slots: int
    batch_tokens: int
    buckets: tuple[int, ...]

    def run(self, batch: WindowBatch) -> DecodedWindows:
        """Run one batch, blocking. Safe to call from `slots` threads at once.

        The length of the batch is one of `buckets`, and it holds at most `batch_tokens`, or a
        single window. Raises EngineError.
        """

    def close(self) -> None:
        """Free what the engine holds. Nothing may run any more."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How to make an engine.

    device: "cpu" (OpenVINO; for int8 on a CPU without VNNI ONNX Runtime), "gpu" (TensorRT), or
        "null" (nothing is computed).
    threads: CPU threads to use; None for as many as the process may run on at a time.
    streams: how many batches are computed side by side, on a CPU each on its share of the threads;
        None for what suits the machine, on a CPU also how many batches there are.
    max_batch_tokens: the token budget of one run, padding included; None for what suits the
        machine.
    hardware_compatible, version_compatible: of a TensorRT engine file: let it run on other GPUs
        (from Ampere on), or with other versions of TensorRT 11, at some cost in speed.
    """

    device: Literal["cpu", "gpu", "null"] = "cpu"
    threads: int | None = None
    streams: int | None = None
    max_batch_tokens: int | None = None
    hardware_compatible: bool = False
    version_compatible: bool = False


DEFAULTS = EngineSettings()


def load_engine(bundle: Bundle, settings: EngineSettings = DEFAULTS) -> Engine:
    """Compile a bundle for this machine. Raises EngineError where that can't be done."""
    if settings.device == "null":
        from .null import NullEngine

        return NullEngine(bundle, settings)
    extra = {"cpu": "server", "gpu": "gpu"}[settings.device]
    try:
        if settings.device == "cpu":
            return _load_cpu_engine(bundle, settings)
        from .tensorrt import TensorRTEngine, TensorRTOptions

        options = TensorRTOptions(settings.hardware_compatible, settings.version_compatible)
        return TensorRTEngine(bundle, settings, options=options)
    except ImportError as error:
        raise EngineError(
            f"no engine for {settings.device}: {error.name or error} is missing: "
            f"pip install 'electra-qa[{extra}]'"
        ) from error


def _load_cpu_engine(bundle: Bundle, settings: EngineSettings) -> Engine:
    from .int8 import int8_is_exact

    if bundle.manifest.precision == "int8" and not int8_is_exact():
        from .onnxruntime import OnnxRuntimeEngine

        return OnnxRuntimeEngine(bundle, settings)
    from .openvino import OpenVINOEngine

    return OpenVINOEngine(bundle, settings)


# Of the CPU engines. A new length costs a kernel (10 to 20 ms, once); buckets further apart cost
# more in padding in the long run.
CPU_LENGTH_STEP = 16


def cpu_threads(settings: EngineSettings) -> int:
    """What was asked for, or as many as the process has CPUs, or CPU time, to run on."""
    return settings.threads or usable_cpus()


def usable_cpus() -> int:
    """Those that this process may run on, or fewer where it has a share of their time only, such as
    a container's limit: rounded up, since the threads of a batch wait for each other in between."""
    quota = cpu_quota()
    cpus = allowed_cpus()
    return cpus if quota is None else min(cpus, max(1, math.ceil(quota)))


def allowed_cpus() -> int:
    """Those that this process may run on, however short."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_streams(threads: int) -> int:
    """Fewer threads a stream pass more when many wait, more answer a lone question sooner."""
    return max(1, threads // 4)


def cpu_batch_tokens(settings: EngineSettings, threads_per_stream: int) -> int:
    """512 tokens a thread, and no fewer than 1,024: each batch costs something by itself, most of
    it for a shape that is not that of the batch before. More keep the next batch waiting longer."""
    return settings.max_batch_tokens or max(1024, 512 * threads_per_stream)


def bucket(buckets: tuple[int, ...], length: int) -> int:
    """The shortest of an engine's buckets that a window of `length` tokens fits in."""
    return buckets[bisect_left(buckets, length)]


def batches_by_length(
    lengths: Sequence[int], buckets: tuple[int, ...], batch_tokens: int
) -> Iterator[tuple[int, list[int]]]:
    """(length to pad to, places of the windows) of batches within an engine's token budget.

    The longest windows come first, so that each batch is of like lengths.
    """
    waiting = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    while waiting:
        length = bucket(buckets, lengths[waiting[0]])
        count = max(1, batch_tokens // length)
        yield length, waiting[:count]
        waiting = waiting[count:]


def steps(step: int, last: int) -> tuple[int, ...]:
    """Buckets every `step` tokens, and `last`."""
    return (*range(step, last, step), last)
