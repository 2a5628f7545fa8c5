"""Tensors of the Open Inference Protocol: texts out of a request, columns into a response.

Both forms are understood: typed (`contents`) and raw (`raw_input_contents`). The errors say what
Triton says in the same place.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from electra_qa.rpc import open_inference_grpc_pb2 as pb

from ..errors import InvalidRequestError

InputTensor = pb.ModelInferRequest.InferInputTensor

# Each element of a raw BYTES tensor is this, the length, and then so many bytes.
LENGTH = struct.Struct("<I")

# Where the typed elements of a datatype are.
CONTENTS = {"BYTES": "bytes_contents", "FP32": "fp32_contents", "INT32": "int_contents"}

# Parameters of one tensor that change what it means, which nothing here understands.
UNSUPPORTED = (
    "shared_memory_region",
    "shared_memory_byte_size",
    "shared_memory_offset",
    "classification",
)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """shape: -1 for a dimension of any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def metadata(self) -> pb.ModelMetadataResponse.TensorMetadata:
        return pb.ModelMetadataResponse.TensorMetadata(
            name=self.name, datatype=self.datatype, shape=self.shape
        )


@dataclass(frozen=True, slots=True)
class Column:
    """One output: its elements in row-major order, numbers as little-endian arrays."""

    spec: TensorSpec
    shape: Sequence[int]
    values: list[bytes] | npt.NDArray[np.float32] | npt.NDArray[np.int32]


def inputs_by_name(
    request: pb.ModelInferRequest, specs: Sequence[TensorSpec]
) -> dict[str, tuple[InputTensor, bytes | None]]:
    """The inputs with their raw contents, None where they are typed; exactly those of `specs`.

    Raises InvalidRequestError.
    """
    model = request.model_name
    expected = [spec.name for spec in specs]
    names = [tensor.name for tensor in request.inputs]
    for name in names:
        if name not in expected:
            raise InvalidRequestError(f"unexpected inference input '{name}' for model '{model}'")
        if names.count(name) > 1:
            raise InvalidRequestError(f"input '{name}' already exists in request")
    if missing := [name for name in expected if name not in names]:
        raise InvalidRequestError(
            f"expected {len(expected)} inputs but got {len(names)} inputs for model '{model}'. "
            f"Got input(s) {names}, but missing required input(s) {missing}. "
            "Please provide all required input(s)."
        )
    raws: Sequence[bytes | None] = request.raw_input_contents
    if not raws:
        raws = [None] * len(names)
    elif len(raws) != len(names):
        raise InvalidRequestError(
            f"expected {len(names)} raw_input_contents, one for each input, got {len(raws)}, for "
            f"model '{model}'"
        )
    return {tensor.name: (tensor, raw) for tensor, raw in zip(request.inputs, raws, strict=True)}


def check_tensor(tensor: InputTensor, raw: bytes | None, spec: TensorSpec, model: str) -> None:
    """All but its shape and its elements. Raises InvalidRequestError."""
    check_parameters("input", tensor)
    if tensor.datatype != spec.datatype:
        raise InvalidRequestError(
            f"inference input '{spec.name}' data-type is '{tensor.datatype}', but model '{model}' "
            f"expects '{spec.datatype}'"
        )
    if raw is not None and tensor.HasField("contents"):
        raise InvalidRequestError(
            "contents field must not be specified when using raw_input_contents for "
            f"'{spec.name}' for model '{model}'"
        )
    for field, _ in tensor.contents.ListFields():
        if field.name != "bytes_contents":
            raise InvalidRequestError(
                f"unexpected explicit tensor data ({field.name}) for input tensor '{spec.name}' "
                f"for model '{model}' of type '{spec.datatype}'"
            )


def check_parameters(
    kind: str, tensor: InputTensor | pb.ModelInferRequest.InferRequestedOutputTensor
) -> None:
    """Raises InvalidRequestError where one asks for what is not supported."""
    for name in UNSUPPORTED:
        if name in tensor.parameters:
            raise InvalidRequestError(
                f"parameter '{name}' of {kind} '{tensor.name}' is not supported"
            )


def texts(tensor: InputTensor, raw: bytes | None, count: int) -> list[str]:
    """The elements of a BYTES tensor of `count`. Raises InvalidRequestError."""
    elements = (
        _raw_elements(tensor.name, raw, count)
        if raw is not None
        else list(tensor.contents.bytes_contents)
    )
    if len(elements) != count:
        raise InvalidRequestError(
            f"unexpected number of string elements for inference input '{tensor.name}', "
            f"expecting {count}"
        )
    return [_text(tensor.name, index, element) for index, element in enumerate(elements)]


def _raw_elements(name: str, raw: bytes, count: int) -> list[bytes]:
    """At most one more than `count`: enough to see that there are too many."""
    elements: list[bytes] = []
    at = 0
    while at < len(raw) and len(elements) <= count:
        left = len(raw) - at
        if left < LENGTH.size:
            raise InvalidRequestError(
                f"incomplete string length indicator for inference input '{name}', expecting "
                f"{LENGTH.size} bytes but only {left} bytes available"
            )
        (length,) = LENGTH.unpack_from(raw, at)
        at += LENGTH.size
        left -= LENGTH.size
        if length > left:
            raise InvalidRequestError(
                f"incomplete string data for inference input '{name}', expecting string of length "
                f"{length} but only {left} bytes available"
            )
        elements.append(raw[at : at + length])
        at += length
    return elements


def _text(name: str, index: int, element: bytes) -> str:
    try:
        return element.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"{name}[{index}] is not UTF-8") from error


def add_output(response: pb.ModelInferResponse, column: Column, *, raw: bool) -> None:
    spec, values = column.spec, column.values
    output = response.outputs.add(name=spec.name, datatype=spec.datatype, shape=column.shape)
    if not raw:
        elements = values if isinstance(values, list) else values.tolist()
        getattr(output.contents, CONTENTS[spec.datatype]).extend(elements)
    elif isinstance(values, list):
        parts = (part for element in values for part in (LENGTH.pack(len(element)), element))
        response.raw_output_contents.append(b"".join(parts))
    else:
        response.raw_output_contents.append(values.tobytes())
