"""Who is compared, each as its own documentation has it, and how it is asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

CONTESTANTS = Path(__file__).parent / "contestants"
OURS = "electra-qa"
REFERENCE = "transformers"  # whose answers the others' are compared with

# How questions go to it: as JSON lines to a library's process, or to a server over HTTP or gRPC.
Protocol = Literal["lines", "litserve", "bentoml", "v2", "grpc", "grpc-batch"]
Need = Literal["onnx", "openvino", "openvino-int8"]


@dataclass(frozen=True, slots=True)
class Peer:
    """Someone to ask.

    how: what makes it as good as its documentation knows, for the table.
    protocol: how questions go to it.
    command: what follows `python`; {checkpoint}, {bundle}, {onnx}, {openvino}, {port}, {folder} and
        {contestants} are filled in, in `variables` too.
    libraries: whose versions count.
    environment: the name of its requirements in environments/; None for the driver's own.
    needs: what has to be exported for it first.
    """

    name: str
    how: str
    protocol: Protocol
    command: tuple[str, ...]
    libraries: tuple[str, ...]
    environment: str | None
    needs: tuple[Need, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def is_server(self) -> bool:
        return self.protocol != "lines"


def _ours(name: str, how: str, protocol: Protocol) -> Peer:
    return Peer(
        name=name,
        how=how,
        protocol=protocol,
        command=(
            *("-P", "-m", "electra_qa", "serve", "--log-level", "warning"),
            *("--bundle", "{bundle}", "--address", "127.0.0.1:{port}"),
        ),
        libraries=("electra-qa", "openvino", "grpcio"),
        environment=None,
    )


def _torch(name: str, how: str, *options: str) -> Peer:
    return Peer(
        name=name,
        how=how,
        protocol="lines",
        command=("{contestants}/torch_eager.py", "--checkpoint", "{checkpoint}", *options),
        libraries=("torch", "transformers"),
        environment="torch",
    )


def _onnxruntime(name: str, how: str, graph: str, *options: str) -> Peer:
    return Peer(
        name=name,
        how=how,
        protocol="lines",
        command=(
            *("{contestants}/ort_library.py", "--checkpoint", "{checkpoint}"),
            *("--graph", f"{{onnx}}/{graph}.onnx", *options),
        ),
        libraries=("onnxruntime",),
        environment="onnxruntime",
        needs=("onnx",),
    )


def _openvino(name: str, how: str, need: Need, *options: str) -> Peer:
    model = "int8" if need == "openvino-int8" else "default"
    return Peer(
        name=name,
        how=how,
        protocol="lines",
        command=(
            *("{contestants}/openvino_library.py", "--checkpoint", "{checkpoint}"),
            *("--model", f"{{openvino}}/{model}", *options),
        ),
        libraries=("openvino", "optimum-intel", "transformers"),
        environment="openvino",
        needs=(need,),
    )


def _server(name: str, how: str, protocol: Protocol, library: str, *options: str) -> Peer:
    return Peer(
        name=name,
        how=how,
        protocol=protocol,
        command=(
            *(f"{{contestants}}/{name}_server.py", "--checkpoint", "{checkpoint}"),
            *("--graph", "{onnx}/int8.onnx", "--port", "{port}", *options),
        ),
        libraries=(library, "onnxruntime"),
        environment=name,
        needs=("onnx",),
    )


PEERS = (
    _ours(OURS, "`electra-qa serve`, a question a call", "grpc"),
    _ours("electra-qa-batch", "`electra-qa serve`, 64 questions a call", "grpc-batch"),
    _torch(REFERENCE, "PyTorch, eager, float32, one at a time"),
    _torch(
        "transformers-batched", "PyTorch, eager, float32, sorted batches of 8", "--batch-size", "8"
    ),
    _torch(
        "transformers-bf16-batched",
        "PyTorch, eager, bfloat16, sorted batches of 8",
        *("--batch-size", "8", "--dtype", "bfloat16"),
    ),
    Peer(
        name="transformers-pipeline",
        how='`pipeline("question-answering")`, float32',
        protocol="lines",
        command=("{contestants}/torch_pipeline.py", "--checkpoint", "{checkpoint}"),
        libraries=("torch", "transformers"),
        environment="pipeline",
    ),
    _onnxruntime(
        "onnxruntime-batched",
        "optimized graph, float32, sorted batches of 8",
        *("optimized", "--batch-size", "8"),
    ),
    _onnxruntime("onnxruntime-int8", "optimized graph, dynamic int8, one at a time", "int8"),
    _onnxruntime(
        "onnxruntime-int8-batched",
        "optimized graph, dynamic int8, sorted batches of 4",
        *("int8", "--batch-size", "4"),
    ),
    _openvino("openvino", "optimum-intel's defaults, one at a time", "openvino"),
    _openvino(
        "openvino-batched",
        "default precision, THROUGHPUT hint, asynchronous queue, sorted batches of 8",
        "openvino",
        *("--batch-size", "8"),
    ),
    _openvino(
        "openvino-int8-batched",
        "int8 by NNCF, THROUGHPUT hint, asynchronous queue, sorted batches of 8",
        "openvino-int8",
        *("--batch-size", "8"),
    ),
    _server(
        "litserve",
        "ONNX Runtime dynamic int8, batches of up to 16 within 10 ms",
        *("litserve", "litserve"),
    ),
    Peer(
        name="bentoml",
        how="ONNX Runtime dynamic int8, adaptive batches of up to 16",
        protocol="bentoml",
        command=(
            *("-m", "bentoml", "serve", "bentoml_service:QuestionAnswering"),
            *("--host", "127.0.0.1", "--port", "{port}", "--working-dir", "{contestants}"),
        ),
        libraries=("bentoml", "onnxruntime"),
        environment="bentoml",
        needs=("onnx",),
        variables={
            "BENTOML_DO_NOT_TRACK": "True",
            "PEER_CHECKPOINT": "{checkpoint}",
            "PEER_GRAPH": "{onnx}/int8.onnx",
        },
    ),
    _server(
        "mlserver",
        "ONNX Runtime dynamic int8, batches of up to 16 within 10 ms",
        *("v2", "mlserver", "--folder", "{folder}"),
    ),
    _server(
        "pytriton",
        "ONNX Runtime dynamic int8, Triton's dynamic batches of up to 16",
        *("v2", "nvidia-pytriton"),
    ),
)
