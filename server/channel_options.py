"""What gRPC is told about the connections of a server."""

from __future__ import annotations

from .settings import ServerSettings

MAX_PENDING_REQUESTS = 100_000

FOR_EVER_MS = 2**31 - 1

# A connection that never says what it wants takes up the place of another. gRPC waits 2 minutes.
HANDSHAKE_TIMEOUT_MS = 20_000


def channel_options(settings: ServerSettings, *, shared: bool = False) -> list[tuple[str, int]]:
    """shared: several processes of one server listen on the port."""
    return [
        # Without this a second server on the port is no error, and half of the calls go there.
        ("grpc.so_reuseport", int(shared)),
        # Over its own limits (1,000 and 3,000) gRPC cancels calls before they are looked at. Here
        # the queue refuses them, with a status that says why and when to try again.
        ("grpc.server.max_pending_requests", MAX_PENDING_REQUESTS),
        ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING_REQUESTS),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        # Answers have a bound of their own, `max_response_bytes`, that is looked at before they are
        # built.
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", settings.max_concurrent_streams),
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_TIMEOUT_MS),
        ("grpc.max_connection_age_ms", _milliseconds(settings.max_connection_age_s)),
        *keep_alive(settings),
    ]


def keep_alive(settings: ServerSettings) -> list[tuple[str, int]]:
    """gRPC's options for a server, see https://github.com/grpc/grpc/blob/master/doc/keepalive.md."""
    return [
        ("grpc.keepalive_time_ms", _milliseconds(settings.keepalive_time_s)),
        ("grpc.keepalive_timeout_ms", _milliseconds(settings.keepalive_timeout_s)),
        # Of gRPC's own pings, which a ping of keepalive waits for: else a minute.
        ("grpc.http2.ping_timeout_ms", _milliseconds(settings.keepalive_timeout_s)),
        # Without this a client may ping an idle connection once in two hours, and is cut off with
        # too_many_pings if it does so more often.
        ("grpc.keepalive_permit_without_calls", 1),
        (
            "grpc.http2.min_ping_interval_without_data_ms",
            _milliseconds(settings.min_ping_interval_s),
        ),
    ]


def _milliseconds(seconds: float | None) -> int:
    return FOR_EVER_MS if seconds is None else min(round(seconds * 1e3), FOR_EVER_MS)
