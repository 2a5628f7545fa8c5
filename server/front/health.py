"""gRPC's health service, which load balancers ask, and whether the server is ready."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio


class Health:
    """Ready while it is warm and its model works, and never again once it drains; the same for
    every service.

    services: their full names. "", the server as a whole, is always among them.
    """

    def __init__(self, services: Sequence[str]) -> None:
        self._services = ("", *services)
        self._servicer = aio.HealthServicer()
        self.ready = False
        self._draining = False

    async def add_to(self, server: grpc.aio.Server) -> None:
        await self._set(health_pb2.HealthCheckResponse.NOT_SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def set_ready(self, ready: bool) -> None:
        self.ready = ready and not self._draining
        status = health_pb2.HealthCheckResponse
        # Once it drains, the servicer keeps NOT_SERVING whatever it is told.
        await self._set(status.SERVING if ready else status.NOT_SERVING)

    async def drain(self) -> None:
        """Not ready, for good."""
        self._draining = True
        self.ready = False
        await self._servicer.enter_graceful_shutdown()

    async def _set(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for service in self._services:
            await self._servicer.set(service, status)
