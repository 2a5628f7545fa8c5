"""What the playground's page says, without a browser."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from click.testing import CliRunner

from electra_qa.cli import main
from electra_qa.client import (
    Answer,
    DeadlineExceededError,
    ElectraQAError,
    InternalError,
    InvalidArgumentError,
    ResourceExhaustedError,
    Result,
    UnauthenticatedError,
    UnavailableError,
)
from electra_qa.client.playground import view

PASSAGE = "It was Anna & <b>Bo</b>."


def asked(null_score_diff: float = -2.0, answers: int = 1) -> view.Asked:
    span = Answer("Anna & <b>Bo</b>", 7, 23, 0.75, 3.0, 4.0)
    result = Result((span,) * answers, False, 5.0, null_score_diff, 0.1, 2, 1.5, 10.0, "v1")
    return view.Asked(PASSAGE, result, 14.0)


def test_the_verdict_is_the_threshold_s() -> None:
    assert "Anna" in view.verdict(asked(), 0.0)
    assert "Anna" in view.verdict(asked(), -2.0), "no answer only over the threshold, not at it"
    assert "No answer" in view.verdict(asked(), -2.1)
    assert "not over</b> the threshold of 0.00" in view.scale(asked(), 0.0)
    assert "<b>over</b> the threshold of −3.00" in view.scale(asked(), -3.0)


def test_the_best_span_is_named_by_the_verdict() -> None:
    before, after = ("It was ", None), (".", None)
    text = "Anna & <b>Bo</b>"
    assert view.segments(asked(), 0.0) == [before, (text, view.ANSWER), after]
    assert view.segments(asked(), -3.0) == [before, (text, view.REFUSED), after]


def test_a_passage_without_any_span_has_no_answer() -> None:
    none = asked(math.inf, answers=0)
    assert "No answer" in view.verdict(none, 15.0)
    assert view.segments(none, 15.0) == [(PASSAGE, None)]
    assert "no span" in view.scale(none, 15.0)
    assert "<td>" not in view.table(none)


def test_texts_are_escaped() -> None:
    error = InvalidArgumentError("<b>Bo</b>")
    for html in (view.verdict(asked(), 0.0), view.table(asked()), view.failure(error)):
        assert "&lt;b&gt;Bo" in html
        assert "<b>Bo" not in html


def test_times_add_up() -> None:
    html = view.times(asked())
    for value in ("14.0 ms", "10.0 ms", "1.5 ms", "2.5 ms", "<b>2</b><span>windows, by model v1<"):
        assert value in html


def test_the_scale_stays_within_its_ends() -> None:
    assert "left:100.00%" in view.scale(asked(1e6), 0.0)
    assert "left:0.00%" in view.scale(asked(-1e6), 0.0)
    assert "width:75.00%" in view.scale(None, 7.5)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (InvalidArgumentError("question is empty"), "This can&#x27;t be asked"),
        (DeadlineExceededError("question is empty"), "in time"),
        (ResourceExhaustedError("question is empty"), "too much for the server"),
        (UnavailableError("question is empty"), "can&#x27;t be reached"),
        (UnauthenticatedError("question is empty"), "another token"),
        (InternalError("question is empty"), "The server failed"),
        (ElectraQAError("question is empty"), "The server failed"),
    ],
)
def test_errors_say_what_failed(error: ElectraQAError, words: str) -> None:
    assert words in view.failure(error)
    assert "question is empty" in view.failure(error)


def test_a_full_queue_says_when_to_try_again() -> None:
    error = ResourceExhaustedError("the queue is full")
    error.retry_after_s = 2.0
    assert "try again in 2.0 s" in view.failure(error)


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["--server", "unix:/no/such"], 1, "Error: "),
        (["--server", "x:1", "--bundle", "x"], 2, "set one, not both"),
        (["--tls"], 2, "TLS and tokens are for the server at --server"),
        (["--bundle", "/no/such"], 1, "no bundle at /no/such"),
        (["--address", "7860"], 2, "must be HOST:PORT"),
        (["--address", "localhost:0"], 2, "port of 1 to 65535"),
    ],
)
def test_errors_are_one_line(arguments: list[str], exit_code: int, message: str) -> None:
    pytest.importorskip("gradio")
    result = CliRunner().invoke(main, ["playground", *arguments])
    assert result.exit_code == exit_code, result.output + repr(result.exception)
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_without_gradio_the_error_names_the_extra() -> None:
    program = (
        "import sys; sys.modules['gradio'] = None; sys.argv = ['electra-qa', 'playground'];"
        "from electra_qa.cli import main; main()"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "playground needs gradio: pip install 'electra-qa[playground]'" in done.stderr
