"""A bundle's graph, looked at before an engine gets it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx
from google.protobuf.message import DecodeError, Message
from onnx.external_data_helper import uses_external_data

from ..bundle import Bundle, BundleError

# By the name that a build gives it, whatever family the checkpoint is of. Families that know no
# absolute positions have none.
POSITIONS = "embeddings.position_embeddings.weight"


@dataclass(frozen=True, slots=True)
class CheckedGraph:
    """content: the graph's file. Its sum was right, so that nothing is read twice.

    data: the names of the files beside it that its weights lie in, all of them in the manifest;
        empty where everything is in `content`. A library opens these by itself, by their paths:
        ask `bundle.check_unchanged(data)` after it has.
    """

    content: bytes
    data: tuple[str, ...]


def checked_graph(bundle: Bundle) -> CheckedGraph:
    """Raises BundleError where the graph names files that the manifest doesn't, or contradicts it.

    What is no graph at all is left to the engine, which says so better.
    """
    content = bundle.read(bundle.graph_path.name)
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError:
        return CheckedGraph(content, ())
    data = {_location(tensor) for tensor in _tensors(model) if uses_external_data(tensor)}
    for name in data:
        if name not in bundle.manifest.files:
            raise _error(bundle, f"has weights in {name!r}, which the manifest does not name")
    _check_values(bundle, model)
    return CheckedGraph(content, tuple(sorted(data)))


def _tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """All of them, wherever they are: in subgraphs, attributes, functions."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for one in [value] if isinstance(value, Message) else value:
            if isinstance(one, onnx.TensorProto):
                yield one
            else:
                yield from _tensors(one)


def _location(tensor: onnx.TensorProto) -> str:
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def _check_values(bundle: Bundle, model: onnx.ModelProto) -> None:
    manifest = bundle.manifest
    for output in model.graph.output:
        dims = output.type.tensor_type.shape.dim
        if output.name == "spans" and len(dims) == 3 and dims[1].HasField("dim_value"):
            spans = dims[1].dim_value
            if spans != manifest.n_best_size:
                raise _error(
                    bundle,
                    f"decodes {spans} spans of a window, n_best_size is {manifest.n_best_size}",
                )
    for tensor in model.graph.initializer:
        if tensor.name == POSITIONS and tensor.dims[0] < manifest.max_seq_length_limit:
            raise _error(
                bundle,
                f"has {tensor.dims[0]} positions, max_seq_length_limit is "
                f"{manifest.max_seq_length_limit}",
            )


def _error(bundle: Bundle, message: str) -> BundleError:
    return BundleError(f"bundle {bundle.path}: {bundle.graph_path.name} {message}")
