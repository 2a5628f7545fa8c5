"""The CPU engine: OpenVINO."""

from __future__ import annotations

from functools import cache

import openvino

from ..bundle import Bundle
from ..spans import OUTPUTS, DecodedWindows
from ..windows import WindowBatch
from . import (
    CPU_LENGTH_STEP,
    EngineError,
    EngineSettings,
    allowed_cpus,
    cpu_batch_tokens,
    cpu_threads,
    steps,
    usable_cpus,
)
from .checked_graph import checked_graph
from .forms import Forms
from .pool import Pool

# x86 has no float16 arithmetic to speak of. What these compute in float16 on a GPU is computed in
# bfloat16 here where the CPU has that, and in float32 elsewhere.
HALF_PRECISIONS = ("fp16", "int8")


@cache
def openvino_core() -> openvino.Core:
    """The one `Core` of this process, held until its end. Nothing else may make one.

    With the first, the CPU's plugin gives a signal stack (`sigaltstack`) to the thread that it is
    loaded on, and frees that stack with the last. The thread goes on with what it was given: the
    next signal that Python handles (it asks for that stack, by SA_ONSTACK) is a crash.
    """
    core = openvino.Core()
    # Weights in a file of their own are read, not mapped: what is written to it later must not
    # change a model that serves.
    core.set_property({"ENABLE_MMAP": "NO"})
    return core


def precision_config(core: openvino.Core, bundle: Bundle) -> dict[str, str]:
    """What is computed in, apart from int8 layers: an option of `compile_model`."""
    has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    half = has_bf16 and bundle.manifest.precision in HALF_PRECISIONS
    return {"INFERENCE_PRECISION_HINT": "bf16" if half else "f32"}


class OpenVINOEngine:
    """A graph on the CPU, compiled twice: for a batch that is alone, with all threads, and for
    several side by side, as OpenVINO's hints for latency and for throughput divide the threads.

    One request more than streams, so that the next batch is there when one ends. With `streams` in
    the settings, or a single thread, it is compiled once.
    """

    def __init__(self, bundle: Bundle, settings: EngineSettings) -> None:
        """Raises EngineError where OpenVINO does not take the graph."""
        self.buckets = steps(CPU_LENGTH_STEP, bundle.manifest.max_seq_length_limit)
        core = openvino_core()
        # Unpinned, an engine's thread moves on where the rest of the server needs its core.
        config = precision_config(core, bundle) | {"ENABLE_CPU_PINNING": "NO"}
        precision = config["INFERENCE_PRECISION_HINT"]
        # Which CPUs it may run on OpenVINO sees by itself, and which of them share a core.
        if settings.threads is not None or usable_cpus() < allowed_cpus():
            config["INFERENCE_NUM_THREADS"] = str(cpu_threads(settings))
        graph = checked_graph(bundle)
        try:
            model = core.read_model(graph.content if not graph.data else str(bundle.graph_path))
            *alone, divided = [
                core.compile_model(model, "CPU", config | form) for form in _forms(settings)
            ]
        except RuntimeError as error:
            raise EngineError(f"OpenVINO does not take the graph: {_reason(error)}") from error
        if graph.data:  # else no file was opened again
            bundle.check_unchanged([bundle.graph_path.name, *graph.data])
        threads = divided.get_property("INFERENCE_NUM_THREADS")
        streams = divided.get_property("NUM_STREAMS")  # at most one for each thread
        self.batch_tokens = cpu_batch_tokens(settings, threads // streams)
        self.slots = streams + 1
        side_by_side = [divided.create_infer_request() for _ in range(self.slots)]
        self._requests: Pool[openvino.InferRequest] | Forms[openvino.InferRequest] = (
            Forms(alone[0].create_infer_request(), side_by_side) if alone else Pool(side_by_side)
        )
        self.device = (
            f"CPU ({core.get_property('CPU', 'FULL_DEVICE_NAME')}), "
            f"{streams} × {threads // streams} threads, "
            f"OpenVINO {openvino.__version__.partition('-')[0]}, "
            + ("int8 and " if bundle.manifest.precision == "int8" else "")
            + precision
        )

    def run(self, batch: WindowBatch) -> DecodedWindows:
        inputs = {"input_ids": batch.input_ids, "bounds": batch.bounds}
        with self._requests.one() as request:
            try:
                results = request.infer(inputs, share_inputs=True)
            except RuntimeError as error:
                raise EngineError(f"OpenVINO failed on a batch: {_reason(error)}") from error
            # Copies, since the request's own memory is the next batch's: a few numbers a window.
            return DecodedWindows(**{name: results[name] for name in OUTPUTS})

    def close(self) -> None:
        """OpenVINO frees a compiled graph with its last reference."""
        self._requests.close()


def _forms(settings: EngineSettings) -> list[dict[str, str]]:
    """Options of `compile_model`, the one that divides the threads last."""
    if settings.streams is not None:
        return [{"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": str(settings.streams)}]
    if cpu_threads(settings) == 1:
        return [{"PERFORMANCE_HINT": "LATENCY"}]
    return [{"PERFORMANCE_HINT": "LATENCY"}, {"PERFORMANCE_HINT": "THROUGHPUT"}]


def _reason(error: Exception) -> str:
    """OpenVINO's messages begin with the lines of its source that they passed through."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return said[0] if said else type(error).__name__
