"""What an operator may set."""

from __future__ import annotations

from dataclasses import dataclass

from electra_qa.settings import setting


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Limits and sizes of a server. Every field is an option of `electra-qa serve`."""

    address: str = setting("127.0.0.1:50051", "HOST:PORT (port 0 takes a free one) or unix:/PATH.")
    max_context_length: int = setting(200_000, "The longest context, in code points.", minimum=1)
    max_question_length: int = setting(4_000, "The longest question, in code points.", minimum=1)
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
    max_message_bytes: int = setting(32 * 1024 * 1024, "Of one message, either way.", minimum=1024)
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
    warm_up_lengths: str = setting(
        "all",
        "Lengths of windows, in tokens, to prepare the engine for before the server is ready: all "
        "(up to the bundle's max_seq_length), none, or a list like 64-128,384.",
    )
    metrics_address: str | None = setting(
        None, "HOST:PORT that serves Prometheus metrics at /metrics.  [default: nowhere]"
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
