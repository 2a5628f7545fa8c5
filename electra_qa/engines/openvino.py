"""The CPU engine: OpenVINO."""

from __future__ import annotations

import dataclasses
import os
import queue
from dataclasses import dataclass

import openvino

from ..bundle import Bundle
from ..spans import DecodedWindows
from ..windows import WindowBatch
from . import EngineError, EngineSettings, steps
from .int8 import int8_is_exact, without_int8

# A new shape costs a kernel (10 to 20 ms, once); 16 tokens more padding cost more in the long run.
LENGTH_STEP = 16
OUTPUTS = tuple(field.name for field in dataclasses.fields(DecodedWindows))

# x86 has no float16 arithmetic to speak of. What these compute in float16 on a GPU is computed in
# bfloat16 here where the CPU has that, and in float32 elsewhere.
HALF_PRECISIONS = ("fp16", "int8")


# A batch of this many tokens for each thread of a stream is as fast as a larger one, and does not
# keep the next one waiting for longer.
TOKENS_PER_THREAD = 512
# Fewer threads a stream pass more when many wait, more answer a lone question sooner.
THREADS_PER_STREAM = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """How a bundle is computed on this CPU.

    config: for `compile_model`.
    linear: what the linear layers are computed in: int8, bf16 or f32; the rest is never int8.
    """

    model: openvino.Model
    config: dict[str, str]
    linear: str

    @property
    def arithmetic(self) -> str:
        rest = self.config["INFERENCE_PRECISION_HINT"]
        return rest if self.linear == rest else f"{self.linear} and {rest}"


def make_plan(core: openvino.Core, bundle: Bundle) -> Plan:
    """Raises RuntimeError where OpenVINO can't read the graph."""
    precision = bundle.manifest.precision
    has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    rest = "bf16" if precision in HALF_PRECISIONS and has_bf16 else "f32"
    model = core.read_model(str(bundle.graph_path))
    linear = rest
    if precision == "int8":
        if int8_is_exact(core):
            linear = "int8"
        else:
            model = without_int8(model)
    return Plan(model, {"INFERENCE_PRECISION_HINT": rest}, linear)


class OpenVINOEngine:
    """One compiled graph on the CPU; each stream computes one batch at a time on its threads.

    One request more than streams, so that the next batch is there when one ends.
    """

    def __init__(self, bundle: Bundle, settings: EngineSettings) -> None:
        """Raises EngineError where OpenVINO does not take the graph."""
        self.buckets = steps(LENGTH_STEP, bundle.manifest.max_seq_length_limit)
        core = openvino.Core()
        cores = settings.threads or os.cpu_count() or 1
        streams = settings.streams or max(1, cores // THREADS_PER_STREAM)
        config = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": str(streams)}
        if settings.threads is not None:
            config["INFERENCE_NUM_THREADS"] = str(settings.threads)
        try:
            plan = make_plan(core, bundle)
            compiled = core.compile_model(plan.model, "CPU", plan.config | config)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO does not take the graph: {_reason(error)}") from error
        threads = compiled.get_property("INFERENCE_NUM_THREADS")
        streams = compiled.get_property("NUM_STREAMS")  # at most one for each thread
        self.batch_tokens = settings.max_batch_tokens or TOKENS_PER_THREAD * (threads // streams)
        self.slots = streams + 1
        self._requests: queue.SimpleQueue[openvino.InferRequest] = queue.SimpleQueue()
        for _ in range(self.slots):
            self._requests.put(compiled.create_infer_request())
        self.device = (
            f"CPU ({core.get_property('CPU', 'FULL_DEVICE_NAME')}), "
            f"{streams} × {threads // streams} threads, "
            f"OpenVINO {openvino.__version__.partition('-')[0]}, {plan.arithmetic}"
        )

    def run(self, batch: WindowBatch) -> DecodedWindows:
        request = self._requests.get()
        try:
            results = request.infer(
                {"input_ids": batch.input_ids, "bounds": batch.bounds}, share_inputs=True
            )
            # Copies, since the request's own memory is the next batch's: a few numbers a window.
            return DecodedWindows(**{name: results[name] for name in OUTPUTS})
        except RuntimeError as error:
            raise EngineError(f"OpenVINO failed on a batch: {_reason(error)}") from error
        finally:
            self._requests.put(request)

    def close(self) -> None:
        """Nothing: OpenVINO frees a compiled graph with its last reference."""


def _reason(error: Exception) -> str:
    """OpenVINO's messages begin with the lines of its source that they passed through."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return said[0] if said else type(error).__name__
