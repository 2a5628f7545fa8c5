"""What is stored in int8, as numbers: made by `quantization.py`, written down by `writer.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

INT8_MAX = 127
SMALLEST = 1e-5  # in place of 0, where a range or a scale divides


@dataclass(frozen=True, slots=True)
class QuantizedInput:
    """How the input of a linear layer is rounded: round(x × factor / scale).

    factor: float32 [in].
    """

    factor: Floats
    scale: float


@dataclass(frozen=True, slots=True)
class QuantizedLinear:
    """A linear layer in int8: input · (weight × weight_scale) + bias.

    weight: int8 [in, out]. weight_scale, bias: float32 [out].
    """

    input: QuantizedInput
    weight: npt.NDArray[np.int8]
    weight_scale: Floats
    bias: Floats


def in_float16(values: Any) -> Any:
    """Numbers that exist in float16, as float32."""
    return np.asarray(values).astype(np.float16).astype(np.float32)


def quantize_table(table: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int8], Floats]:
    """An embedding table [rows, columns] as int8, with a scale for each row, float32 [rows]."""
    values = table.astype(np.float32)
    scale: Floats = in_float16(np.maximum(np.abs(values).max(axis=1) / INT8_MAX, SMALLEST))
    return np.clip(np.rint(values / scale[:, None]), -INT8_MAX, INT8_MAX).astype(np.int8), scale
