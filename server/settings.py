"""What an operator may set."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Limits and sizes of a server; every one of them has an option of `electra-qa serve`.

    address: host:port, or unix:/path. Port 0 takes a free one.
    max_context_length, max_question_length: of a text, in code points.
    max_batch_questions: questions in one AnswerBatch.
    max_stream_questions: questions of one AnswerStream that are worked on at a time; the rest waits
        with the caller, by gRPC's flow control.
    max_message_bytes: of one message, either way.
    max_batch_tokens: the token budget of one run of the engine, padding included.
    max_queue_tokens: tokens that may wait for the engine; a call that comes when there are more is
        refused with RESOURCE_EXHAUSTED.
    drain_timeout_s: how long a server that is told to stop goes on with what it accepted.
    """

    address: str = "127.0.0.1:50051"
    max_context_length: int = 200_000
    max_question_length: int = 4_000
    max_batch_questions: int = 1_024
    max_stream_questions: int = 256
    max_message_bytes: int = 32 * 1024 * 1024
    max_batch_tokens: int = 4_096
    max_queue_tokens: int = 262_144
    drain_timeout_s: float = 30.0
