"""What a ModelInfer asks for: checked, with texts and options as the answerer takes them."""

from __future__ import annotations

from dataclasses import dataclass

from electra_qa.bundle import Manifest
from electra_qa.rpc import electra_qa_pb2
from electra_qa.rpc import open_inference_grpc_pb2 as pb

from ..errors import InvalidRequestError
from ..front.options import QuestionOptions, parse_options
from ..settings import ServerSettings
from .tensors import TensorSpec, check_parameters, check_tensor, inputs_by_name, texts

QUESTION = TensorSpec("question", "BYTES", (-1,))
CONTEXT = TensorSpec("context", "BYTES", (-1,))
INPUTS = (QUESTION, CONTEXT)

# Parameters of a request that are options of ours, each with the kinds that it may have.
INTEGER = ("int64_param", "uint64_param")
OPTIONS = {
    "top_k": INTEGER,
    "max_answer_length": INTEGER,
    "null_score_diff_threshold": ("double_param", *INTEGER),
    "max_overlap": ("double_param", *INTEGER),
    "every_place": ("bool_param",),
}
# In microseconds; 0 for none.
TIMEOUT = "timeout"
# What Triton's and MLServer's clients send along, and what means nothing here.
IGNORED = (
    "priority",
    "sequence_id",
    "sequence_start",
    "sequence_end",
    "content_type",
    "triton_enable_empty_final_response",
)


@dataclass(frozen=True, slots=True)
class InferRequest:
    """questions: each a text and the index of its context.

    many: the name of the input that has an element for each of them.
    columns: how many answers each question has in the output; None for one, without a dimension
    of its own.
    timeout_s: of the request's own; None for none.
    """

    contexts: list[str]
    questions: list[tuple[str, int]]
    many: str
    options: QuestionOptions
    columns: int | None
    timeout_s: float | None


def parse_request(
    request: pb.ModelInferRequest, manifest: Manifest, settings: ServerSettings
) -> InferRequest:
    """Raises InvalidRequestError."""
    model = request.model_name
    options = _options(request)
    tensors = inputs_by_name(request, INPUTS)
    for spec in INPUTS:
        check_tensor(*tensors[spec.name], spec, model)
    for output in request.outputs:
        check_parameters("output", output)
    question, raw_question = tensors[QUESTION.name]
    context, raw_context = tensors[CONTEXT.name]
    shape, context_shape = list(question.shape), list(context.shape)
    if not _is_column(shape):
        raise _unexpected_shape("question", model, "[-1] or [-1,1]", shape)
    asked = shape[0]
    if not _is_column(context_shape) or (asked > 1 and context_shape[0] not in (1, asked)):
        expected = f"[{asked}] or [1]" if asked > 1 else "[-1] or [-1,1]"
        raise _unexpected_shape("context", model, expected, context_shape)
    given = context_shape[0]
    most = settings.max_batch_questions
    for name, count in (("questions", asked), ("contexts", given)):
        if not 1 <= count <= most:
            raise InvalidRequestError(
                f"{name} must be 1 to {most} (max_batch_questions), got {count}"
            )
    questions = texts(question, raw_question, asked)
    if asked == 1:
        questions *= given  # one for all contexts
    return InferRequest(
        contexts=texts(context, raw_context, given),
        questions=[(text, 0 if given == 1 else index) for index, text in enumerate(questions)],
        many="context" if asked == 1 else "question",
        options=parse_options(options, manifest, settings),
        columns=_columns(options, shape),
        timeout_s=_timeout(request),
    )


def _is_column(shape: list[int]) -> bool:
    return len(shape) in (1, 2) and shape[0] >= 0 and shape[1:] in ([], [1])


def _unexpected_shape(name: str, model: str, expected: str, shape: list[int]) -> Exception:
    got = ",".join(map(str, shape))
    return InvalidRequestError(
        f"unexpected shape for input '{name}' for model '{model}'. Expected {expected}, got [{got}]"
    )


def _columns(options: electra_qa_pb2.Options, shape: list[int]) -> int | None:
    if options.HasField("top_k"):
        return options.top_k
    return 1 if len(shape) == 2 else None


def _options(request: pb.ModelInferRequest) -> electra_qa_pb2.Options:
    options = electra_qa_pb2.Options()
    for name, parameter in request.parameters.items():
        if name in OPTIONS:
            value = _value(name, parameter, OPTIONS[name])
            try:
                setattr(options, name, value)
            except ValueError as error:
                raise InvalidRequestError(f"options.{name} is out of range: {value}") from error
        elif name != TIMEOUT and name not in IGNORED:
            raise InvalidRequestError(
                f"unexpected parameter '{name}' for model '{request.model_name}': it takes "
                f"{', '.join((*OPTIONS, TIMEOUT))}"
            )
    return options


def _timeout(request: pb.ModelInferRequest) -> float | None:
    if TIMEOUT not in request.parameters:
        return None
    microseconds = _value(TIMEOUT, request.parameters[TIMEOUT], INTEGER)
    if microseconds < 0:
        raise InvalidRequestError(f"parameter 'timeout' must be 0 or more, got {microseconds}")
    return microseconds / 1e6 or None


def _value(name: str, parameter: pb.InferParameter, kinds: tuple[str, ...]) -> int | float:
    kind = parameter.WhichOneof("parameter_choice")
    if kind not in kinds:
        raise InvalidRequestError(
            f"parameter '{name}' must be one of {', '.join(kinds)}, got {kind or 'nothing'}"
        )
    value: int | float = getattr(parameter, kind)
    return value
