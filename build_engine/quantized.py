"""What is stored in int8, as numbers: made by `quantization.py`, written down by `writer.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

INT8_MAX = 127
SMALLEST = 1e-5  # in place of 0, where a range or a scale divides
ROWS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class QuantizedInput:
    """How the input of a linear layer is rounded: round(x × factor / scale).

    factor: float32 [in].
    folded: x comes multiplied by the factor, which is in the layer before.
    """

    factor: Floats
    scale: float
    folded: bool = False


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


def table_scale(table: npt.NDArray[Any]) -> Floats:
    """A scale for each row of an embedding table [rows, columns], float32 [rows]."""
    highest, lowest = table.max(axis=1), table.min(axis=1)
    reach = np.maximum(highest, -lowest).astype(np.float32)
    scale: Floats = in_float16(np.maximum(reach / INT8_MAX, SMALLEST))
    return scale


def quantize_table(table: npt.NDArray[Any], scale: Floats) -> npt.NDArray[np.int8]:
    """The table as int8, to be multiplied by the scales of its rows."""
    rounded = np.empty(table.shape, np.int8)
    for begin in range(0, len(table), ROWS_AT_ONCE):  # the largest tensor: no copies of all of it
        rows = slice(begin, begin + ROWS_AT_ONCE)
        values = np.rint(table[rows].astype(np.float32) / scale[rows, None])
        rounded[rows] = np.clip(values, -INT8_MAX, INT8_MAX)
    return rounded
