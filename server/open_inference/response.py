"""Answers as the output tensors of the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from electra_qa.rpc import open_inference_grpc_pb2 as pb
from electra_qa.spans import Answer, Prediction

from ..errors import InvalidRequestError
from .tensors import Column, TensorSpec, add_output

ANSWER = TensorSpec("answer", "BYTES", (-1,))
SCORE = TensorSpec("score", "FP32", (-1,))
START = TensorSpec("start", "INT32", (-1,))
END = TensorSpec("end", "INT32", (-1,))
NULL_SCORE = TensorSpec("null_score", "FP32", (-1,))
OUTPUTS = {spec.name: spec for spec in (ANSWER, SCORE, START, END, NULL_SCORE)}


def requested_outputs(request: pb.ModelInferRequest) -> list[TensorSpec]:
    """All of them where none is named. Raises InvalidRequestError."""
    names = [output.name for output in request.outputs]
    for name in names:
        if name not in OUTPUTS:
            raise InvalidRequestError(
                f"unexpected inference output '{name}' for model '{request.model_name}'"
            )
        if names.count(name) > 1:
            raise InvalidRequestError(f"output '{name}' already exists in request")
    return [OUTPUTS[name] for name in names or OUTPUTS]


def add_outputs(
    response: pb.ModelInferResponse,
    specs: Sequence[TensorSpec],
    predictions: Sequence[Prediction],
    columns: int | None,
    *,
    raw: bool,
) -> None:
    """columns: answers for a question; None for one, without a dimension of its own."""
    rows = [_row(prediction, columns or 1) for prediction in predictions]
    answers = [answer for row in rows for answer in row]
    shape = [len(rows)] if columns is None else [len(rows), columns]
    null_scores = [prediction.null_score for prediction in predictions]
    for spec in specs:
        if spec is NULL_SCORE:
            column = Column(spec, [len(rows)], np.asarray(null_scores, "<f4"))
        elif spec is ANSWER:
            column = Column(spec, shape, [answer.text.encode() for answer in answers])
        else:
            dtype = "<f4" if spec is SCORE else "<i4"
            values = [getattr(answer, spec.name) for answer in answers]
            column = Column(spec, shape, np.asarray(values, dtype))
        add_output(response, column, raw=raw)


def _row(prediction: Prediction, columns: int) -> list[Answer]:
    """Exactly so many: the empty answer first where there is none in the context, then the best
    spans, and where there are too few of them, empty ones of score 0."""
    null = [_empty(prediction.null_probability)] if prediction.is_impossible else []
    row = [*null, *prediction.answers][:columns]
    return row + [_empty(0.0)] * (columns - len(row))


def _empty(score: float) -> Answer:
    return Answer(text="", start=0, end=0, score=score, start_logit=0.0, end_logit=0.0)
