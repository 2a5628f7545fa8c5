"""Which ONNX operators TensorRT imports, and for which types of their data.

Source: github.com/onnx/onnx-tensorrt, docs/operators.md, of TensorRT 10.15, the newest table that
we have seen; TensorRT 11 uses the same importer.
"""

from __future__ import annotations

from onnx import TensorProto

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})
INTEGERS = frozenset({TensorProto.INT32, TensorProto.INT64})
BOOL = frozenset({TensorProto.BOOL})

_FLOATS = (
    "Acos Acosh Asin Asinh Atan Atanh AveragePool BatchNormalization Ceil Celu Clip Conv "
    "ConvTranspose Cos Cosh CumSum Dropout Einsum Elu Erf Exp Floor Gemm GlobalAveragePool "
    "GlobalLpPool GlobalMaxPool GroupNormalization GRU HardSigmoid HardSwish Hardmax "
    "InstanceNormalization IsInf LayerNormalization LeakyRelu Log LogSoftmax LRN LSTM "
    "LpNormalization LpPool MatMul MaxPool MeanVarianceNormalization PRelu Reciprocal Resize "
    "RMSNormalization RNN Round Selu Sigmoid Sin Sinh Softmax Softplus Softsign Sqrt Tan Tanh "
    "ThresholdedRelu"
)
_NUMBERS = (
    "Abs Add ArgMax ArgMin DepthToSpace Div Equal Gelu Greater GreaterOrEqual IsNaN Less "
    "LessOrEqual Max Mean Min Mod Mul Neg Pad Pow Range ReduceL1 ReduceL2 ReduceLogSum "
    "ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu "
    "ScatterElements ScatterND Shrink Sign SpaceToDepth Sub Sum TopK"
)
_ALL = (
    "Cast Concat Constant ConstantOfShape Expand Flatten Gather GatherElements GatherND Identity "
    "OneHot Reshape ReverseSequence Shape Size Slice Split Squeeze Tile Transpose Trilu "
    "Unsqueeze Where"
)

SUPPORTED: dict[str, frozenset[int]] = {
    **dict.fromkeys(_FLOATS.split(), FLOATS),
    **dict.fromkeys(_NUMBERS.split(), FLOATS | INTEGERS),
    **dict.fromkeys(_ALL.split(), FLOATS | INTEGERS | BOOL),
    **dict.fromkeys(("And", "Not", "Or", "Xor"), BOOL),
    "QuantizeLinear": FLOATS,
    "DequantizeLinear": frozenset({TensorProto.INT8}),
}

# Imported in part, but with a shape that depends on the data or with a body of its own: such an
# operator has no place in a network of optimization profiles and CUDA graphs.
DATA_DEPENDENT = frozenset(
    {"Compress", "If", "Loop", "NonMaxSuppression", "NonZero", "Scan", "Unique"}
)

# Their axes come as a second input.
_REDUCTIONS = {name: (1,) for name in SUPPORTED if name.startswith("Reduce")}

# Inputs that are not data: indices, shapes, axes and the like, with types of their own.
SIDE_INPUTS: dict[str, tuple[int, ...]] = {
    **_REDUCTIONS,
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "Gather": (1,),
    "GatherElements": (1,),
    "GatherND": (1,),
    "Pad": (1, 3),
    "QuantizeLinear": (1, 2),
    "DequantizeLinear": (1, 2),
    "Reshape": (1,),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Unsqueeze": (1,),
    "Where": (0,),
}

# Side inputs that the importer wants as constants.
CONSTANT_INPUTS: dict[str, tuple[int, ...]] = {
    **_REDUCTIONS,
    "Squeeze": (1,),
    "TopK": (1,),
    "Unsqueeze": (1,),
}

MAX_TOP_K = 3840
OPSETS = range(9, 25)
