"""Whether OpenVINO multiplies int8 matrices exactly on this CPU.

Where a CPU has no VNNI (nor AMX), the products are summed in pairs in 16 bits, which saturate:
two times 255 × 127 is more than 32,767. NNCF calls this the overflow issue and works around it by
weights of 7 bits (`overflow_fix`). A bundle's weights have 8, and its logits come out wrong by
several units there.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import openvino
from openvino import opset13 as op

from .openvino import openvino_core

LARGEST = 127
DEPTH = 64


@cache
def int8_is_exact() -> bool:
    """Multiply the largest int8 values the way a quantized layer does, and look at the sum."""
    x = op.parameter([-1, DEPTH], np.float32, name="x")
    limits = [np.float32(v) for v in (-128, LARGEST, -128, LARGEST)]
    weight = op.convert(op.constant(np.full((DEPTH, DEPTH), LARGEST, np.int8)), np.float32)
    weight = op.multiply(weight, op.constant(np.float32(1)))
    product = op.matmul(op.fake_quantize(x, *limits, 256), weight, False, False)
    compiled = openvino_core().compile_model(
        openvino.Model([product], [x]), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    values = np.full((DEPTH, DEPTH), LARGEST, np.float32)
    return bool(np.allclose(compiled({"x": values})[0], DEPTH * LARGEST**2, rtol=0.01))
