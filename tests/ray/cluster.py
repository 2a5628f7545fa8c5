"""A Ray cluster on this machine: a head, and three nodes with room for a replica each, of which two
have one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil
import pytest
import ray
from ray import serve
from ray._private.ray_constants import PROCESS_TYPE_RAYLET
from ray.cluster_utils import Cluster
from ray.serve.config import gRPCOptions

from electra_qa.server.ray import build

from ..addresses import free_port

SERVICERS = [
    f"electra_qa.server.ray.proxy.add_{name}"
    for name in ("question_answering", "inference_protocol", "health")
]
ARGUMENTS = {"warm_up_lengths": "none", "max_message_bytes": 100_000, "max_queue_tokens": 20_000}


@dataclass(slots=True)
class RayCluster:
    """address: of the gRPC proxy, which is on the head: one machine has one such port.

    nodes: those with room for a replica.
    """

    cluster: Any
    address: str
    nodes: list[Any] = field(default_factory=list)

    def add_node(self) -> None:
        self.nodes.append(self.cluster.add_node(num_cpus=1))

    def kill_a_replicas_node(self) -> None:
        """All of its processes, at once, as where a machine loses its power."""
        for node in self.nodes:
            raylet = node.all_processes[PROCESS_TYPE_RAYLET][0].process
            children = psutil.Process(raylet.pid).children(recursive=True)
            if any("ServeReplica" in child.name() for child in children):
                # Left to themselves they go on for a while.
                for child in children:
                    child.kill()
                self.cluster.remove_node(node, allow_graceful=False)
                return
        raise AssertionError("no node has a replica")

    def running_replicas(self) -> int:
        deployed = serve.status().applications["electra-qa"].deployments["electra-qa"]
        return deployed.replica_states.get("RUNNING", 0)

    def deploy(self, arguments: Mapping[str, Any], replicas: int = 2) -> None:
        deployment = {"num_replicas": replicas, "health_check_period_s": 1.0}
        application = build(ARGUMENTS | arguments)
        changed = application._bound_deployment.options(**deployment)
        serve.run(changed.bind(*application._bound_deployment.init_args), name="electra-qa")


@contextmanager
def running_cluster() -> Iterator[RayCluster]:
    with pytest.MonkeyPatch.context() as patch:
        # Of the processes that are started here.
        patch.setenv(
            "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", "electra_qa.server.ray.pings.allow"
        )
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        yield from _cluster(free_port())


def _cluster(port: int) -> Iterator[RayCluster]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        made = RayCluster(cluster, f"127.0.0.1:{port}")
        for _ in range(3):
            made.add_node()
        ray.init(address=cluster.address, log_to_driver=False)
        options = gRPCOptions(port=port, grpc_servicer_functions=SERVICERS)
        serve.start(grpc_options=options, proxy_location="HeadOnly")
        made.deploy({})
        yield made
        serve.shutdown()
    finally:
        ray.shutdown()
        cluster.shutdown()
