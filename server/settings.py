"""What an operator may set."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from electra_qa.settings import setting

from .errors import StartError

# gRPC ends the process at one more.
LARGEST = 2**31 - 2


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Limits and sizes of a server. Every field is an option of `electra-qa serve`."""

    address: str = setting("127.0.0.1:50051", "HOST:PORT (port 0 takes a free one) or unix:/PATH.")
    front_ends: int = setting(
        0,
        "Processes that speak gRPC, tokenize and merge, on one port, with the engine in a process "
        "of its own. 0: all is in one process.",
        minimum=0,
    )
    insecure: bool = setting(
        False, "Serve on an address that other machines can reach, without TLS."
    )
    tls_cert: str | None = setting(
        None, "The server's certificate and those it hangs on, PEM. Read again when it changes."
    )
    tls_key: str | None = setting(None, "The private key of the certificate, PEM.")
    tls_client_ca: str | None = setting(
        None, "Ask clients for a certificate that one of these has issued (mutual TLS), PEM."
    )
    auth_tokens: str | None = setting(
        None,
        "A file of bearer tokens: every call but those of health needs one. Read again when it "
        "changes.",
    )
    max_connections: int = setting(
        1_000, "Open at a time; more are closed as they come.", minimum=1
    )
    max_concurrent_streams: int = setting(
        10_000,
        "Calls under way on one connection; the rest waits with the client.",
        minimum=1,
    )
    max_context_length: int = setting(200_000, "The longest context, in code points.", minimum=1)
    max_question_length: int = setting(4_000, "The longest question, in code points.", minimum=1)
    max_top_k: int = setting(256, "The most answers to one question.", minimum=1)
    max_batch_questions: int = setting(1_024, "Questions in one AnswerBatch.", minimum=1)
    max_stream_questions: int = setting(
        256,
        "Questions of one AnswerStream that are worked on at a time; the rest waits with the "
        "caller, by gRPC's flow control.",
        minimum=1,
    )
    max_windows: int = setting(
        4_096, "Windows that one call is cut into, over all its questions.", minimum=1
    )
    max_message_bytes: int = setting(
        8 * 1024 * 1024,
        "Of one message of a caller. A larger one is refused before it is read, with "
        "RESOURCE_EXHAUSTED.",
        minimum=1024,
    )
    max_response_bytes: int = setting(
        8 * 1024 * 1024,
        "Of the answers to one call. A question whose answers don't fit fails by itself.",
        minimum=1024,
    )
    max_inflight_bytes: int = setting(
        128 * 1024 * 1024,
        "Of all requests under way together, as they came. A call over it is refused with "
        "RESOURCE_EXHAUSTED. At least max_message_bytes.",
        minimum=1024,
    )
    max_batch_tokens: int | None = setting(
        None,
        "The token budget of one run of the engine, padding included.  [default: what suits the "
        "machine]",
        minimum=1,
    )
    max_queue_tokens: int = setting(
        262_144,
        "Tokens that may wait for the engine. A call that comes when more wait is refused with "
        "RESOURCE_EXHAUSTED.",
        minimum=1,
    )
    context_cache_bytes: int = setting(
        64 * 1024 * 1024, "Memory for tokenized contexts; those that repeat are kept.", minimum=0
    )
    answer_cache_bytes: int = setting(
        0,
        "Memory for answers: the same question about the same text with the same options is not "
        "computed again until the bundle is reloaded. 0: no answer is kept.",
        minimum=0,
    )
    warm_up_lengths: str = setting(
        "all",
        "Lengths of windows, in tokens, to prepare the engine for before the server is ready: all "
        "(up to the bundle's max_seq_length), none, or a list like 64-128,384.",
    )
    metrics_address: str | None = setting(
        None, "HOST:PORT that serves Prometheus metrics at /metrics.  [default: nowhere]"
    )
    keepalive_time_s: float = setting(
        60.0,
        "A connection on which nothing happens for so long is pinged, so that no firewall forgets "
        "it and a client that is gone is noticed.",
        minimum=1,
    )
    keepalive_timeout_s: float = setting(
        20.0,
        "How long the answer to such a ping may take before the connection is closed.",
        minimum=1,
    )
    min_ping_interval_s: float = setting(
        10.0,
        "How often a client may ping, with or without calls. One that does so more often is cut "
        "off with too_many_pings.",
        minimum=0,
    )
    compression: Literal["none", "gzip"] = setting(
        "none",
        "gzip: answers are compressed for clients that accept it. Compressed requests are always "
        "understood.",
    )
    admin_address: str | None = setting(
        None,
        "unix:/PATH, or HOST:PORT with a loopback host, where `electra-qa reload` is answered. "
        "[default: nowhere]",
    )
    reload_timeout_s: float = setting(
        900.0,
        "How long a reload may take until the new bundle is in force. Then it is given up, and the "
        "next one may begin.",
        minimum=1,
    )
    max_connection_age_s: float | None = setting(
        None,
        "How long a connection is kept, give or take a tenth. Its calls end well; then the client "
        "looks the name up again and finds servers that came since.  [default: for ever]",
        minimum=1,
    )
    drain_timeout_s: float = setting(
        30.0, "How long a server that is told to stop goes on with what it accepted.", minimum=0
    )

    def __post_init__(self) -> None:
        """Raises StartError where a number is over what gRPC and the messages can hold."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and not value <= LARGEST:
                raise StartError(f"{field.name} must be at most {LARGEST}, got {value}")
