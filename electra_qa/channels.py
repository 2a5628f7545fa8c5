"""How a client's connections are made anew, and how one that is dead is noticed."""

from __future__ import annotations

from typing import Any

Options = list[tuple[str, Any]]

# gRPC waits up to two minutes between attempts where a server was away for long, and 20 seconds for
# one that takes the connection and then says nothing.
RECONNECT: Options = [
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.min_reconnect_backoff_ms", 5_000),
    # Otherwise all channels of a process to an address have one connection: a new one would wait
    # as long as the old ones do, and a forked child's would be its parent's.
    ("grpc.use_local_subchannel_pool", 1),
]

# A server that stands still, or a proxy that forgot the connection, sends nothing: not even that it
# is gone. A little over `min_ping_interval_s` of the server, which cuts off those who ping more
# often; and with no call under way too, so that the next call finds a connection that works.
KEEPALIVE_TIME_S = 11.0
KEEPALIVE_TIMEOUT_S = 5.0


def keepalive() -> Options:
    """See https://github.com/grpc/grpc/blob/master/doc/keepalive.md."""
    return [
        ("grpc.keepalive_time_ms", round(KEEPALIVE_TIME_S * 1e3)),
        ("grpc.keepalive_timeout_ms", round(KEEPALIVE_TIMEOUT_S * 1e3)),
        # gRPC pings on its own as well, to measure the line, and waits a minute for the answer: a
        # ping of keepalive that comes meanwhile is not sent, and waits with it.
        ("grpc.http2.ping_timeout_ms", round(KEEPALIVE_TIMEOUT_S * 1e3)),
        ("grpc.keepalive_permit_without_calls", 1),
        # gRPC stops after two pings with no message between them.
        ("grpc.http2.max_pings_without_data", 0),
    ]
