"""What both clients set on their channel."""

from __future__ import annotations

import json
from typing import Any

from electra_qa.channels import RECONNECT, keepalive

# What no server has begun to answer is tried again by gRPC itself, for a second or so: enough for a
# load balancer to turn to another server, not for one that starts anew. Not AnswerStream: gRPC
# keeps the messages of a stream that it may try again, and now and then never ends such a one where
# the server dies.
# Behind a name with several addresses (a headless Kubernetes service) every server has its share.
_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [
                {"service": "electra_qa.v1.QuestionAnswering", "method": method}
                for method in ("Answer", "AnswerBatch", "GetInfo")
            ],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 3,
                # The latter is what gRPC's server says of its own to calls that come while it
                # stops, and to those that it stops.
                "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
            },
        }
    ],
}


def channel_options() -> list[tuple[str, Any]]:
    """The server says how large a message may be; the client has no limit of its own."""
    return [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
        *RECONNECT,
        *keepalive(),
    ]
