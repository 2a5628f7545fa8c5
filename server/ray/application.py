"""The application: one deployment, whose replicas are servers without a port."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.serve import Application, deployment

from .arguments import parse_arguments
from .replica import Replica

# Calls that a replica may have at a time. Its own queue, in tokens, refuses what is too much.
MAX_ONGOING_REQUESTS = 1_000

DEPLOYMENT = "electra-qa"

_deployment = deployment(
    name=DEPLOYMENT,
    max_ongoing_requests=MAX_ONGOING_REQUESTS,
    graceful_shutdown_timeout_s=30.0,
)(Replica)


def build(arguments: Mapping[str, Any]) -> Application:
    """For `serve run electra_qa.server.ray:build bundle=…`, and `args` in a configuration file.

    arguments: see `parse_arguments`. How many replicas, on how many CPUs or GPUs each, is Ray's:
    `deployments` in its configuration file. Raises StartError.
    """
    return _deployment.bind(parse_arguments(arguments))


app = build({})
