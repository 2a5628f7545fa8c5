"""Messages that servers have been asked with: the seeds of the fuzzer, one a file.

corpus/METHOD/NAME.txtpb is the method's request as text, NAME.bin its bytes. What a server once
failed on has a file here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from google.protobuf.message import Message

from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.rpc import open_inference_grpc_pb2 as oip

FOLDER = Path(__file__).with_name("corpus")


@dataclass(frozen=True, slots=True)
class Method:
    """path: of gRPC. streams: requests and responses. collects: requests alone."""

    path: str
    request: type[Message]
    response: type[Message]
    streams: bool = False
    collects: bool = False

    @property
    def many_requests(self) -> bool:
        return self.streams or self.collects


_OURS, _THEIRS = "/electra_qa.v1.QuestionAnswering/", "/inference.GRPCInferenceService/"
METHODS = {
    method.path.rpartition("/")[2]: method
    for method in (
        Method(_OURS + "Answer", pb.AnswerRequest, pb.AnswerResponse),
        Method(_OURS + "AnswerBatch", pb.AnswerBatchRequest, pb.AnswerBatchResponse),
        Method(
            _OURS + "AnswerDocuments",
            pb.AnswerDocumentsRequest,
            pb.AnswerDocumentsResponse,
            collects=True,
        ),
        Method(_OURS + "AnswerStream", pb.AnswerStreamRequest, pb.AnswerStreamResponse, True),
        Method(_OURS + "GetInfo", pb.GetInfoRequest, pb.GetInfoResponse),
        Method(_THEIRS + "ModelInfer", oip.ModelInferRequest, oip.ModelInferResponse),
        Method(
            _THEIRS + "ModelStreamInfer", oip.ModelInferRequest, oip.ModelStreamInferResponse, True
        ),
        Method(_THEIRS + "ModelReady", oip.ModelReadyRequest, oip.ModelReadyResponse),
        Method(_THEIRS + "ModelMetadata", oip.ModelMetadataRequest, oip.ModelMetadataResponse),
        Method(_THEIRS + "ServerReady", oip.ServerReadyRequest, oip.ServerReadyResponse),
    )
}


def seeds() -> list[tuple[str, bytes]]:
    """The name of a method, and a request of it."""
    found = []
    for path in sorted(FOLDER.glob("*/*")):
        name = path.parent.name
        if path.suffix == ".txtpb":
            message = METHODS[name].request()
            text_format.Parse(path.read_text(encoding="utf-8"), message)
            found.append((name, message.SerializeToString()))
        else:
            found.append((name, path.read_bytes()))
    return found
