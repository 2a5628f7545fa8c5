"""From a bundle's graph to a plan, which is what TensorRT calls a compiled engine on disk."""

from __future__ import annotations

import logging
import re
import threading
from collections import deque
from dataclasses import dataclass
from typing import Any

import tensorrt as trt

from ...bundle import Bundle
from .. import EngineError
from ..checked_graph import CheckedGraph
from ..packed import packed
from .profiles import INPUTS, Profile, Profiles, Tensor, graph_tensors

log = logging.getLogger(__name__)

OUT_OF_MEMORY = re.compile(r"out ?of ?memory|insufficient memory", re.IGNORECASE)
SHRINK = "lower max_batch_tokens, or build the bundle with a lower max_seq_length_limit"


@dataclass(frozen=True, slots=True)
class TensorRTOptions:
    """How a plan is built.

    hardware_compatible: to be moved to any GPU from Ampere on; it can be built on those only. Costs
        speed.
    version_compatible: to be moved to later TensorRT versions of the same major version. Costs
        speed.
    auxiliary_streams: how many more streams than one TensorRT may spread a batch over; None for as
        many as it likes. TensorRT for RTX takes none for our fp16 graphs.
    optimization_level: TensorRT's, 0 to 5: how long it looks for the best kernels.
    """

    hardware_compatible: bool = False
    version_compatible: bool = False
    auxiliary_streams: int | None = 0
    optimization_level: int = 3


class CollectingLogger(trt.ILogger):  # type: ignore[misc]
    """Hands TensorRT's messages to `logging` and keeps the errors: where a call of TensorRT
    returns None or False, they are the only place that says why.

    TensorRT has one logger in a process, and logs from threads of its own.
    """

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self._levels = {
            trt.ILogger.Severity.INTERNAL_ERROR: logging.ERROR,
            trt.ILogger.Severity.ERROR: logging.ERROR,
            trt.ILogger.Severity.WARNING: logging.WARNING,
            trt.ILogger.Severity.INFO: logging.DEBUG,
        }
        self._lock = threading.Lock()
        self._errors: deque[str] = deque(maxlen=8)

    def log(self, severity: Any, msg: str) -> None:
        level = self._levels.get(severity)
        if level is None:  # VERBOSE: every tactic that is tried
            return
        if level == logging.ERROR:
            with self._lock:
                self._errors.append(msg.strip())
            level = logging.DEBUG  # it comes again, in the EngineError
        log.log(level, "TensorRT: %s", msg)

    def reason(self) -> str:
        """The errors since it was last asked, as one line."""
        with self._lock:
            errors = list(dict.fromkeys(self._errors))
            self._errors.clear()
        return "; ".join(errors) or "it gives no reason"


logger = CollectingLogger()


def why() -> str:
    """What TensorRT says of the failure that just was, and what helps."""
    reason = logger.reason()
    hint = f". The GPU's memory is too small: {SHRINK}" if OUT_OF_MEMORY.search(reason) else ""
    return reason + hint


def build_plan(
    bundle: Bundle,
    graph: CheckedGraph,
    profiles: Profiles,
    options: TensorRTOptions,
    timing_cache: bytes,
) -> tuple[bytes, bytes]:
    """The plan of a bundle for this GPU, and the timing cache with what building it measured.

    timing_cache: an older one, b"" for none. Takes minutes. Raises EngineError.
    """
    logger.reason()  # drop what is old
    try:
        builder = trt.Builder(logger)
    except TypeError as error:  # pybind11's way to say that it returned null
        raise EngineError(f"TensorRT does not start: {why()}") from error
    # No flags: networks are strongly typed in TensorRT 11, precision is in the graph.
    network = builder.create_network()
    parser = _parse(bundle, graph, network)
    config = builder.create_builder_config()
    cache = _set_timing_cache(config, timing_cache)
    # TF32 is on by default: it rounds what a float32 MatMul multiplies to 10 bits of mantissa, as
    # float16 has. What a graph has in float32 is meant so: all of it, or in the lower precisions
    # the span head.
    config.clear_flag(trt.BuilderFlag.TF32)
    if options.auxiliary_streams is not None:
        config.max_aux_streams = options.auxiliary_streams
    config.builder_optimization_level = options.optimization_level
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    tensors = graph_tensors(bundle.manifest.n_best_size)
    for profile in profiles.all:
        _add_profile(builder, config, tensors, profile)
    plan = builder.build_serialized_network(network, config)
    bundle.check_unchanged(graph.data)
    if plan is None:
        raise EngineError(f"TensorRT can't build the engine: {why()}")
    del parser  # not before: weights of the network are the parser's memory
    return bytes(plan), b"" if cache is None else bytes(cache.serialize())


def _add_profile(builder: Any, config: Any, tensors: dict[str, Tensor], shapes: Profile) -> None:
    profile = builder.create_optimization_profile()
    try:
        for name in INPUTS:
            counts = (shapes.fewest, shapes.tuned, shapes.most)
            profile.set_shape(name, *(tensors[name].shape(n, shapes.length) for n in counts))
        # What set_shape lets pass, an order that is wrong, comes out here.
        index = config.add_optimization_profile(profile)
    except (RuntimeError, ValueError) as error:
        raise EngineError(f"TensorRT refuses {shapes}: {error}: {why()}") from error
    if index < 0:
        raise EngineError(f"TensorRT refuses {shapes}: {why()}")


def _parse(bundle: Bundle, graph: CheckedGraph, network: Any) -> Any:
    parser = trt.OnnxParser(network, logger)
    # The path says where the files beside it are.
    if parser.parse(packed(graph.content, bundle.path), str(bundle.graph_path)):
        return parser
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    reasons = [
        f"{error.desc()} (node {error.node_name()!r}, {error.node_operator()})" for error in errors
    ]
    raise EngineError(f"TensorRT does not take the graph: {'; '.join(reasons) or why()}")


def _set_timing_cache(config: Any, content: bytes) -> Any:
    """Start from an older cache where TensorRT takes it, else from an empty one.

    What this returns must live until the engine is built. None where TensorRT takes neither.
    """
    for start in (content, b""):
        cache = config.create_timing_cache(start)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
        logger.reason()
    return None
