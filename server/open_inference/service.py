"""The Open Inference Protocol (V2) of KServe and Triton: `inference.GRPCInferenceService`.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol, and Triton's
ModelStreamInfer. Texts come and answers go as tensors; docs/inference-protocol.md has the table.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from functools import partial

import grpc

from electra_qa import __version__
from electra_qa.rpc import open_inference_grpc_pb2 as pb
from electra_qa.spans import Prediction

from ..errors import DeadlineError, ModelNotFoundError, RequestError
from ..front.calls import Calls
from ..front.handlers import (
    INTERNAL_ERROR,
    Context,
    Stream,
    Unary,
    deadline,
    generic_handler,
    parse,
    parsed,
)
from ..front.health import Health
from ..front.model import Model
from ..front.models import Models
from ..front.slices import in_slices
from ..front.streams import responses
from ..front.waiting import Waiting
from ..settings import ServerSettings
from .request import INPUTS, InferRequest, parse_request
from .response import OUTPUTS, add_outputs, requested_outputs

log = logging.getLogger(__name__)

SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name

# The one model of a server, and the server itself.
NAME = "electra-qa"

# Names the response that is the last one of its request: every one is.
FINAL = "triton_final_response"


class InferenceProtocolService:
    """Asks the same answerer as `QuestionAnsweringService`: windows of both share batches, and
    limits, deadlines, draining and metrics are the same."""

    def __init__(
        self, models: Models, settings: ServerSettings, calls: Calls, health: Health
    ) -> None:
        self._models = models
        self._settings = settings
        self._calls = calls
        self._health = health

    def handler(self) -> grpc.GenericRpcHandler:
        unary: dict[str, Unary] = {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ModelReady": self.model_ready,
            "ServerMetadata": self.server_metadata,
            "ModelMetadata": self.model_metadata,
            "ModelInfer": self.model_infer,
        }
        streams: dict[str, Stream] = {"ModelStreamInfer": self.model_stream_infer}
        return generic_handler(SERVICE, self._calls, unary, streams)

    async def server_live(self, raw: bytes, _: Context) -> pb.ServerLiveResponse:
        parse(pb.ServerLiveRequest, raw)
        return pb.ServerLiveResponse(live=True)

    async def server_ready(self, raw: bytes, _: Context) -> pb.ServerReadyResponse:
        parse(pb.ServerReadyRequest, raw)
        return pb.ServerReadyResponse(ready=self._health.ready)

    async def model_ready(self, raw: bytes, _: Context) -> pb.ModelReadyResponse:
        request = parse(pb.ModelReadyRequest, raw)
        try:
            _check_model(self._models.current, request.name, request.version)
        except ModelNotFoundError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=self._health.ready)

    async def server_metadata(self, raw: bytes, _: Context) -> pb.ServerMetadataResponse:
        parse(pb.ServerMetadataRequest, raw)
        return pb.ServerMetadataResponse(name=NAME, version=__version__, extensions=["parameters"])

    async def model_metadata(self, raw: bytes, _: Context) -> pb.ModelMetadataResponse:
        request = parse(pb.ModelMetadataRequest, raw)
        model = self._models.current
        _check_model(model, request.name, request.version)
        return pb.ModelMetadataResponse(
            name=NAME,
            versions=[model.version],
            platform=f"{NAME}_onnx",
            inputs=[spec.metadata() for spec in INPUTS],
            outputs=[spec.metadata() for spec in OUTPUTS.values()],
        )

    async def model_infer(self, raw: bytes, context: Context) -> pb.ModelInferResponse:
        with self._calls.open():
            request = await parsed(partial(parse, pb.ModelInferRequest), raw)
            return await self._infer(request, deadline(context))

    def model_stream_infer(
        self, raws: AsyncIterator[bytes], context: Context
    ) -> AsyncGenerator[pb.ModelStreamInferResponse]:
        """Works on at most `max_stream_questions` requests at a time, and answers in their order
        as Triton does."""
        respond = partial(self._stream_response, deadline=deadline(context))
        limit = self._settings.max_stream_questions
        return responses(raws, respond, self._calls, limit=limit, in_order=True)

    async def _stream_response(
        self, raw: bytes, deadline: float | None
    ) -> pb.ModelStreamInferResponse:
        try:
            with self._calls.holding(raw):
                request = await parsed(partial(parse, pb.ModelInferRequest), raw)
                response = await self._infer(request, deadline)
        except RequestError as error:
            return pb.ModelStreamInferResponse(error_message=str(error))
        except Exception:
            log.exception("a request of a stream failed")
            return pb.ModelStreamInferResponse(error_message=INTERNAL_ERROR)
        response.parameters[FINAL].bool_param = True
        return pb.ModelStreamInferResponse(infer_response=response)

    async def _infer(
        self, request: pb.ModelInferRequest, deadline: float | None
    ) -> pb.ModelInferResponse:
        """Answers in the form of the question, raw or typed. Raises a RequestError: that of the
        first question that can't be answered."""
        with self._models.current as model:
            _check_model(model, request.model_name, request.model_version)
            outputs = requested_outputs(request)
            asked = parse_request(request, model.bundle.manifest, self._settings)
            predictions = await _predictions(model, asked, deadline)
        response = pb.ModelInferResponse(
            model_name=NAME, model_version=model.version, id=request.id
        )
        raw = bool(request.raw_input_contents)
        # In one piece: columns are of all questions.
        cost = len(predictions) * (asked.columns or 1) * len(outputs)
        await in_slices(
            lambda _: add_outputs(response, outputs, predictions, asked.columns, raw=raw),
            [None],
            lambda _: cost,
            Waiting(deadline),
        )
        return response


async def _predictions(
    model: Model, asked: InferRequest, deadline: float | None
) -> list[Prediction]:
    """One a question. Raises a RequestError."""
    its_own = None
    if asked.timeout_s is not None:
        its_own = asyncio.get_running_loop().time() + asked.timeout_s
        deadline = its_own if deadline is None else min(deadline, its_own)
    try:
        # What ends at its own deadline is not cancelled by gRPC.
        async with asyncio.timeout_at(its_own):
            answered = await model.answerer.answer_batch(
                asked.contexts, asked.questions, asked.options, deadline
            )
    except TimeoutError as error:
        raise DeadlineError("the request's timeout came before its answer") from error
    predictions = []
    for index, one in enumerate(answered):
        if isinstance(one, RequestError):
            raise _of(f"{asked.many}[{index}]", one) if len(answered) > 1 else one
        predictions.append(one.prediction)
    return predictions


def _check_model(model: Model, name: str, version: str) -> None:
    """Raises ModelNotFoundError."""
    if name != NAME:
        raise ModelNotFoundError(f"Request for unknown model: '{name}' is not found")
    if version not in ("", model.version):
        raise ModelNotFoundError(
            f"Request for unknown model: '{name}' version '{version}' is not found"
        )


def _of(element: str, error: RequestError) -> RequestError:
    return type(error)(f"{element}: {error}", retry_delay_s=error.retry_delay_s)
