"""The methods that go through Ray's proxy, by the names under which it calls a replica."""

from __future__ import annotations

from dataclasses import dataclass

from grpc_health.v1 import health_pb2

from electra_qa.rpc import electra_qa_pb2, open_inference_grpc_pb2


@dataclass(frozen=True, slots=True)
class Method:
    """reads, writes: many messages instead of one."""

    service: str
    name: str
    reads: bool
    writes: bool

    @property
    def path(self) -> str:
        return f"/{self.service}/{self.name}"


def methods_of(*services: str) -> list[Method]:
    """Of these services, by their full names."""
    return [method for method in METHODS if method.service in services]


_DESCRIPTORS = (
    electra_qa_pb2.DESCRIPTOR.services_by_name["QuestionAnswering"],
    open_inference_grpc_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"],
    health_pb2.DESCRIPTOR.services_by_name["Health"],
)

METHODS = tuple(
    Method(service.full_name, method.name, method.client_streaming, method.server_streaming)
    for service in _DESCRIPTORS
    for method in service.methods
)
