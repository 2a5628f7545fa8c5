"""What both clients set on their channel."""

from __future__ import annotations

import json
from typing import Any

from electra_qa.channels import RECONNECT, keepalive

from .errors import ElectraQAError, InvalidArgumentError, UnavailableError

# gRPC looks up a name that it has not found again after pauses of up to two minutes, which nothing
# sets; a new channel looks at once. How old one may get that finds nothing, in seconds.
LOOK_UP_AGAIN_S = 2.0
# After so long a wait for the server's health it is asked why it does not come, for so long.
LONGEST_WATCH_S = 5.0
CHECK_S = 1.0
_NAME_NOT_FOUND = ("errors resolving", "DNS resolution failed")

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


def check_channels(channels: int) -> None:
    """Raises InvalidArgumentError."""
    if channels < 1:
        raise InvalidArgumentError(f"channels must be at least 1, got {channels}")


def name_not_found(failure: ElectraQAError) -> bool:
    """Whether the channel of a call has no address to connect to."""
    return isinstance(failure, UnavailableError) and str(failure).startswith(_NAME_NOT_FOUND)


def channel_options() -> list[tuple[str, Any]]:
    """The server says how large a message may be; the client has no limit of its own."""
    return [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
        *RECONNECT,
        *keepalive(),
    ]
