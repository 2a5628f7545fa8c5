"""A graph as a file, with its weights beside it where they are many."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
from onnx.external_data_helper import (
    ExternalDataInfo,
    load_external_data_for_tensor,
    uses_external_data,
)

from electra_qa.bundle import graph_data_name

# A graph with more bytes of weights has them in a file of their own, which engines map and read
# where they need it; one file has to be parsed whole and is in memory several times over. ONNX's
# own limit is 2 GB. Below it one file is easier to move, and a small model costs little anyway.
MOST_INSIDE = 256 * 2**20
# Tensors up to this size stay in the graph: what is checked of constants is there.
SMALL = 2**20
# Of the weights in their file, so that engines can compute on them as they are mapped.
ALIGNMENT = 4096


def write_graph(model: ir.Model, path: Path) -> list[Path]:
    """Write a graph in place of an older one; which files it is now.

    Weights are read, converted and written one after the other where they have a file of their
    own. Nothing is written into files that are there: who has them mapped keeps them.
    """
    data = path.with_name(graph_data_name(path.name))
    for file in (path, data):
        file.unlink(missing_ok=True)
    tensors = [value.const_value for value in model.graph.initializers.values()]
    if sum(tensor.nbytes for tensor in tensors if tensor is not None) > MOST_INSIDE:
        ir.save(
            model, path, external_data=data.name, size_threshold_bytes=SMALL, alignment=ALIGNMENT
        )
        files = [path, data]
    else:
        path.write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))
        files = [path]
    onnx.checker.check_model(path)
    return files


def read_without_weights(path: Path) -> onnx.ModelProto:
    """A graph from its file; of tensors that are in files of their own only the small are read.

    Raises DecodeError where it is no ONNX file.
    """
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        if uses_external_data(tensor) and (ExternalDataInfo(tensor).length or 0) <= SMALL:
            load_external_data_for_tensor(tensor, str(path.parent))
    return model
