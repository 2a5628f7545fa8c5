"""The server's log on standard error: lines for people, or JSON for machines.

Nothing here or anywhere writes a caller's text, unless `--log-text` asks for it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
TEXT_OF_MANY = "%(asctime)s %(levelname)s %(processName)s %(name)s: %(message)s"
# What `extra=` adds to a record, under one name, so that it can't collide with a record's own.
FIELDS = "fields"

log = logging.getLogger(__name__)


# gRPC logs a header that is not UTF-8, a token maybe, with a traceback, for whoever can connect.
GRPC_LOGGER = "grpc._cython.cygrpc"
INVALID_HEADER = "Invalid encoding on %s"


def _says_no_header(record: logging.LogRecord) -> bool:
    return record.msg != INVALID_HEADER


class TextFormatter(logging.Formatter):
    """`time level logger: message name=value …`."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = getattr(record, FIELDS, {})
        return " ".join([super().format(record), *(f"{k}={v}" for k, v in fields.items())])


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, what the record adds, exception.

    with_process: with the name of the process, too.
    """

    def __init__(self, *, with_process: bool = False) -> None:
        super().__init__()
        self._with_process = with_process

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **({"process": record.processName} if self._with_process else {}),
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class _Settings:
    """with_text: `--log-text`."""

    with_text = False


# What is known of the request that this task serves; only while the level is debug.
_request: ContextVar[dict[str, Any] | None] = ContextVar("request", default=None)


def configure(
    level: str, form: Literal["text", "json"], with_text: bool, *, with_process: bool = False
) -> None:
    """Log to standard error. with_text: with the texts of callers in the line of a request.
    with_process: with the name of the process in each line."""
    handler = logging.StreamHandler()
    text = TEXT_OF_MANY if with_process else TEXT
    handler.setFormatter(
        JsonFormatter(with_process=with_process) if form == "json" else TextFormatter(text)
    )
    logging.getLogger(GRPC_LOGGER).addFilter(_says_no_header)
    logging.basicConfig(level=level.upper(), handlers=[handler])
    _Settings.with_text = with_text


def request_began() -> None:
    if log.isEnabledFor(logging.DEBUG):
        _request.set({"questions": 0, "windows": 0, "queue_ms": 0.0, "engine_ms": 0.0})


def questions_answered(
    questions: Sequence[tuple[str, int]],
    contexts: Sequence[str],
    spent: Iterable[tuple[int, float, float]],
) -> None:
    """Adds to what is known of the request: windows add up, of durations the longest counts.

    spent: of each question that was answered its windows, and its seconds in the queue and in the
        engine. Read only where a line will be written.
    """
    known = _request.get()
    if known is None:
        return
    known["questions"] += len(questions)
    for windows, queue_s, engine_s in spent:
        known["windows"] += windows
        known["queue_ms"] = max(known["queue_ms"], round(queue_s * 1e3, 3))
        known["engine_ms"] = max(known["engine_ms"], round(engine_s * 1e3, 3))
    if _Settings.with_text:
        known.setdefault("contexts", []).extend(contexts)
        known.setdefault("texts", []).extend(question for question, _ in questions)


def request_ended(method: str, code: str, seconds: float) -> None:
    """The one line of a request, at debug."""
    known = _request.get()
    if known is not None:
        fields = {"method": method, "code": code, "ms": round(seconds * 1e3, 3), **known}
        log.debug("request", extra={FIELDS: fields})
