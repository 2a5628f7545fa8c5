"""Ray's proxies, which take a ping of a client every five minutes, take ours.

Our clients ping every 11 seconds, to notice a server that is gone. gRPC cuts off those who ping
more often than its server allows: a stream on which nothing is said for half a minute, a call that
takes as long. Ray has no setting for it. What it has is a function that it calls in every proxy
before the gRPC server is made: the environment of its nodes names this one,

    RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=electra_qa.server.ray.pings.allow
"""

from __future__ import annotations

from ray.serve._private.constants import DEFAULT_GRPC_SERVER_OPTIONS

from ..channel_options import keep_alive
from ..settings import ServerSettings


def allow() -> list[object]:
    """Gives the middlewares for HTTP that Ray asks for: none."""
    DEFAULT_GRPC_SERVER_OPTIONS.extend(keep_alive(ServerSettings()))
    return []
