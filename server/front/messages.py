"""What became of a question, as it goes over the wire."""

from __future__ import annotations

from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.spans import Answer

from ..errors import RequestError
from .handlers import duration
from .merging import Answered


def result(answered: Answered | RequestError, version: str) -> pb.Result:
    if isinstance(answered, RequestError):
        return pb.Result(failure=failure(answered))
    return pb.Result(response=response(answered, version))


def failure(error: RequestError) -> pb.Failure:
    delay = error.retry_delay_s
    return pb.Failure(
        code=error.code.value[0],
        message=str(error),
        retry_delay=None if delay is None else duration(delay),
        in_a_smaller_call=error.in_a_smaller_call,
    )


def response(answered: Answered, version: str) -> pb.AnswerResponse:
    prediction = answered.prediction
    return pb.AnswerResponse(
        answers=map(answer_message, prediction.answers),
        is_impossible=prediction.is_impossible,
        null_score=prediction.null_score,
        null_score_diff=prediction.null_score_diff,
        null_probability=prediction.null_probability,
        windows=answered.windows,
        timing=pb.Timing(queue_ms=answered.queue_s * 1e3, engine_ms=answered.engine_s * 1e3),
        model_version=version,
    )


def answer_message(answer: Answer) -> pb.Answer:
    return pb.Answer(
        text=answer.text,
        start=answer.start,
        end=answer.end,
        score=answer.score,
        start_logit=answer.start_logit,
        end_logit=answer.end_logit,
    )
