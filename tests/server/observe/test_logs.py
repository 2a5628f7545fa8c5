"""One line a request at debug, and never the caller's text unless it is asked for."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import pytest

from electra_qa.client import InvalidArgumentError
from electra_qa.server.observe import logs

from ..conftest import Serving

CONTEXT = "Rollo came from Denmark. The Normans came from all over."


def requests(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [r.__dict__["fields"] for r in caplog.records if hasattr(r, "fields")]


async def ask(serving: Serving) -> None:
    async with serving() as client:
        await client.answer("Who came?", CONTEXT * 100)
        with pytest.raises(InvalidArgumentError):
            await client.answer("", CONTEXT)
        await client.answer_batch([("Who?", CONTEXT), ("", CONTEXT)])


async def test_a_request_is_one_line_at_debug(
    serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "electra_qa.server")
    await ask(serving)
    long, refused, batch = requests(caplog)
    assert (long["method"], long["code"], long["questions"]) == ("Answer", "OK", 1)
    assert long["windows"] > 1
    assert long["ms"] >= long["engine_ms"] > 0
    assert (refused["code"], refused["windows"]) == ("INVALID_ARGUMENT", 0)
    assert (batch["method"], batch["questions"], batch["windows"]) == ("AnswerBatch", 2, 1)
    assert "Rollo" not in str([record.__dict__ for record in caplog.records])


async def test_nothing_is_written_at_info(
    serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "electra_qa.server")
    await ask(serving)
    assert not requests(caplog)


async def test_texts_are_in_the_line_where_they_are_asked_for(
    serving: Serving, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs._Settings, "with_text", True)
    caplog.set_level(logging.DEBUG, "electra_qa.server")
    await ask(serving)
    assert requests(caplog)[2]["texts"] == ["Who?", ""]
    assert requests(caplog)[2]["contexts"] == [CONTEXT]


def test_json_is_an_object_a_line() -> None:
    try:
        raise ValueError("a\nb")
    except ValueError:
        trouble = sys.exc_info()
    record = logging.LogRecord("x", logging.ERROR, "", 0, "went %s", ("wrong",), trouble)
    record.fields = {"windows": 3}
    line = logs.JsonFormatter().format(record)
    assert "\n" not in line
    got = json.loads(line)
    assert (got["level"], got["message"], got["windows"]) == ("error", "went wrong", 3)
    assert "ValueError" in got["exception"]
    assert logs.TextFormatter("%(message)s").format(record).startswith("went wrong")
