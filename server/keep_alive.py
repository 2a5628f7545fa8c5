"""How a connection on which nothing happens is kept, and one whose other end is gone is noticed."""

from __future__ import annotations

from .settings import ServerSettings


def keep_alive_options(settings: ServerSettings) -> list[tuple[str, int]]:
    """gRPC's options for a server, see https://github.com/grpc/grpc/blob/master/doc/keepalive.md."""
    return [
        ("grpc.keepalive_time_ms", _milliseconds(settings.keepalive_time_s)),
        ("grpc.keepalive_timeout_ms", _milliseconds(settings.keepalive_timeout_s)),
        # Without this a client may ping an idle connection once in two hours, and is cut off with
        # too_many_pings if it does so more often.
        ("grpc.keepalive_permit_without_calls", 1),
        (
            "grpc.http2.min_ping_interval_without_data_ms",
            _milliseconds(settings.min_ping_interval_s),
        ),
    ]


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1e3)
