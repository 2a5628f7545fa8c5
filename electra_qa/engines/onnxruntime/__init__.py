"""The CPU engine for int8 where OpenVINO's is wrong: ONNX Runtime, on CPUs without VNNI.

OpenVINO saturates there too, and has no fast kernel for such CPUs: in float32 the same weights are
exact on it, and little more than half as fast.
"""

from __future__ import annotations

from importlib import metadata

import onnx
import onnxruntime

from ...bundle import Bundle, BundleError
from ...spans import OUTPUTS, DecodedWindows
from ...windows import WindowBatch
from .. import (
    CPU_LENGTH_STEP,
    EngineError,
    EngineSettings,
    cpu_batch_tokens,
    cpu_streams,
    cpu_threads,
    steps,
)
from ..checked_graph import checked_graph
from ..pool import Pool
from .graph import Rewritten, without_saturation


class OnnxRuntimeEngine:
    """A session for each stream, with its share of the threads."""

    def __init__(self, bundle: Bundle, settings: EngineSettings) -> None:
        """Raises EngineError where ONNX Runtime does not take the graph."""
        self.buckets = steps(CPU_LENGTH_STEP, bundle.manifest.max_seq_length_limit)
        threads = cpu_threads(settings)
        streams = min(threads, settings.streams or cpu_streams(threads))
        self.slots = streams
        self.batch_tokens = cpu_batch_tokens(settings, threads // streams)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads // streams
        # A thread that waits for the next batch must leave its core to the rest of the server.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            rewritten = _rewritten(bundle)
            graph = rewritten.graph.SerializeToString()
            self._weights = list(rewritten.weights.values())
            options.add_external_initializers(list(rewritten.weights), self._weights)
            self._sessions = Pool(
                onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
                for _ in range(streams)
            )
        except BundleError:
            raise
        except Exception as error:  # of many kinds, all of its own
            raise EngineError(f"ONNX Runtime does not take the graph: {error}") from error
        self.device = (
            f"CPU without VNNI, {streams} × {threads // streams} threads, "
            f"ONNX Runtime {metadata.version('onnxruntime')}, int8 and f32"
        )

    def run(self, batch: WindowBatch) -> DecodedWindows:
        feed = {"input_ids": batch.input_ids, "bounds": batch.bounds}
        with self._sessions.one() as session:
            try:
                return DecodedWindows(*session.run(list(OUTPUTS), feed))
            except Exception as error:
                raise EngineError(f"ONNX Runtime failed on a batch: {error}") from error

    def close(self) -> None:
        """ONNX Runtime frees a session with its last reference."""
        self._sessions.close()


def _rewritten(bundle: Bundle) -> Rewritten:
    graph = checked_graph(bundle)
    rewritten = without_saturation(onnx.load_model_from_string(graph.content), bundle.path)
    bundle.check_unchanged(graph.data)
    return rewritten
