"""The commands, as a user types them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from electra_qa import __version__
from electra_qa.bundle import Bundle
from electra_qa.cli import COMMANDS, main
from electra_qa.client import PrivateServer

CARD = [
    "ask",
    "What has been discovered by scientists from China?",
    "--context",
    "A new strain of flu that has the potential to become a pandemic has been identified in China "
    "by scientists.",
]
KEYS = [
    *("exact", "f1", "total"),
    *("HasAns_exact", "HasAns_f1", "HasAns_total"),
    *("NoAns_exact", "NoAns_f1", "NoAns_total"),
    *("best_exact", "best_exact_thresh", "best_f1", "best_f1_thresh"),
]


def run(*arguments: str, exit_code: int = 0, **options: Any) -> Any:
    result = CliRunner().invoke(main, list(arguments), **options)
    assert result.exit_code == exit_code, result.output + repr(result.exception)
    return result


def test_ask_shows_the_answer_in_its_place(server: PrivateServer) -> None:
    output = run(*CARD, "--address", server.address).stdout
    assert output.startswith("A new strain of flu\n")
    assert "null_score_diff" in output


def test_ask_on_a_bundle_starts_a_server_of_its_own(bundle: Bundle) -> None:
    answer = json.loads(run(*CARD, "--bundle", str(bundle.path), "--json").stdout)
    assert answer["text"] == "A new strain of flu"
    assert answer["windows"] == 1


def test_ask_reads_a_context_from_standard_input(server: PrivateServer) -> None:
    arguments = ["ask", "Who founded Rome?", "--context-file", "-", "--address", server.address]
    assert run(*arguments, input="Rome was founded by Romulus.").stdout.startswith("Romulus\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    texts = {
        "france.txt": "Paris is the capital of France.",
        "italy/rome.txt": "Rome was founded\nby Romulus, says the legend.",
        "italy/.hidden": "Rome was founded by Remus.",
        "weather.txt": "It rained all week.",
        "empty.txt": "",
    }
    for name, text in texts.items():
        file = tmp_path / "texts" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    (tmp_path / "texts" / "latin-1.txt").write_bytes("Gr\u00fcnder".encode("latin-1"))
    return tmp_path / "texts"


def test_ask_takes_a_folder(server: PrivateServer, folder: Path) -> None:
    arguments = ["ask", "Who founded Rome?", "--context-file", str(folder), "--top-k", "3"]
    arguments += ["--address", server.address]
    shown = CliRunner().invoke(main, arguments)
    assert shown.exit_code == 0, shown.output
    lines = shown.stdout.splitlines()
    assert lines[0] == "Romulus"
    assert "Rome was founded by Romulus" in lines[1]
    assert "latin-1.txt is not UTF-8" in shown.stderr
    assert "3 of 4 texts read, 1 could not be" in shown.stdout
    for_machines = CliRunner().invoke(main, [*arguments, "--json", "--read-top", "1"])
    found = json.loads(for_machines.stdout)
    assert found["text"] == "Romulus"
    assert (found["documents"], found["documents_read"]) == (4, 1)
    assert [one["id"] for one in found["answers"]] == [str(folder / "italy" / "rome.txt")]


def test_ask_takes_several_files_and_standard_input(server: PrivateServer, folder: Path) -> None:
    arguments = ["ask", "Who founded Rome?", "--address", server.address, "--json"]
    arguments += ["--context-file", str(folder / "france.txt"), "--context-file", "-"]
    result = CliRunner().invoke(main, arguments, input="Rome was founded by Romulus.")
    found = json.loads(result.stdout)
    assert (found["text"], found["answers"][0]["id"]) == ("Romulus", "-")
    # One that was named and can't be read is an error.
    wrong = CliRunner().invoke(
        main, [*arguments, "--context-file", str(folder / "latin-1.txt")], input="Rome"
    )
    assert (wrong.exit_code, wrong.stdout) == (1, "")
    assert "latin-1.txt is not UTF-8 (byte 2)" in wrong.stderr


def test_ask_says_that_there_is_no_answer(server: PrivateServer) -> None:
    arguments = ["ask", "Who founded Rome?", "--context", "It rained all day."]
    output = run(*arguments, "--address", server.address).stdout
    assert output.startswith("The text does not answer the question.\n")


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["ask", "who?", "--context", "", "--address", "{}"], 1, "context is empty"),
        (["ask", "who?"], 2, "set one of --context and --context-file"),
        ([*CARD, "--top-k", "0", "--address", "{}"], 1, "options.top_k must be 1 to 256, got 0"),
        ([*CARD, "--address", "{}", "--bundle", "x"], 2, "set one, not both"),
        ([*CARD, "--bundle", "/no/such"], 1, "no bundle at /no/such"),
        (["info", "--bundle", "/no/such"], 1, "no bundle at /no/such"),
        (["eval", "--data", "/no/such"], 2, "File '/no/such' does not exist"),
    ],
)
def test_errors_are_one_line(
    server: PrivateServer, arguments: list[str], exit_code: int, message: str
) -> None:
    arguments = [server.address if argument == "{}" else argument for argument in arguments]
    result = run(*arguments, exit_code=exit_code)
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_eval_prints_the_card_and_writes_what_score_reads(
    server: PrivateServer, small: Path, tmp_path: Path
) -> None:
    predictions, null_odds = tmp_path / "predictions.json", tmp_path / "null_odds.json"
    arguments = ["eval", "--data", str(small), "--address", server.address]
    files = ["--predictions", str(predictions), "--null-odds", str(null_odds)]
    result = run(*arguments, *files)
    card = json.loads(result.stdout)
    assert list(card) == KEYS
    assert card["total"] == 12
    assert "questions a second" in result.stderr
    arguments = ["score", "--data", str(small), "--predictions", str(predictions)]
    again = ["--na-prob-file", str(null_odds), "--na-prob-thresh", "inf", "--json"]
    assert json.loads(run(*arguments, *again).stdout) == card
    assert list(json.loads(run(*arguments).stdout)) == KEYS[:9]


def test_eval_for_machines_says_what_it_measured(
    server: PrivateServer, small: Path, bundle: Bundle
) -> None:
    arguments = ["eval", "--data", str(small), "--limit", "3", "--json"]
    summary = json.loads(run(*arguments, "--address", server.address).stdout)
    assert summary["questions"] == summary["metrics"]["total"] == 3
    assert summary["bundle"]["sha256"] == bundle.sha256
    assert summary["questions_per_second"] == pytest.approx(3 / summary["seconds"])


def squad_file(path: Path, contexts: list[str], bom: str = "") -> Path:
    paragraphs = [
        {"context": text, "qas": [{"id": str(n), "question": "Who founded Rome?", "answers": []}]}
        for n, text in enumerate(contexts)
    ]
    content = json.dumps({"data": [{"title": "Rome", "paragraphs": paragraphs}]})
    path.write_text(bom + content, encoding="utf-8")
    return path


def test_eval_goes_on_past_what_can_not_be_asked(server: PrivateServer, tmp_path: Path) -> None:
    data = squad_file(tmp_path / "data.json", ["It rained.", " ", "It rains.", "x" * 200_001])
    null_odds = tmp_path / "null_odds.json"
    arguments = ["eval", "--data", str(data), "--address", server.address, "--json"]
    result = run(*arguments, "--null-odds", str(null_odds))
    summary = json.loads(result.stdout)
    assert summary["metrics"]["total"] == 4
    assert summary["metrics"]["NoAns_exact"] == 100
    assert set(summary["refused"]) == {"1", "3"}
    assert "2 of 4 questions can't be asked and count as no answer; the first is 1" in result.stderr
    odds = json.loads(null_odds.read_text(encoding="utf-8"))
    assert odds["1"] == odds["3"] > max(odds["0"], odds["2"])
    nothing = squad_file(tmp_path / "nothing.json", ["", "\t"])
    arguments = ["eval", "--data", str(nothing), "--address", server.address]
    assert json.loads(run(*arguments).stdout)["exact"] == 100


def test_a_byte_order_mark_is_no_part_of_a_file(server: PrivateServer, tmp_path: Path) -> None:
    data = squad_file(tmp_path / "data.json", ["It rained."], bom="\ufeff")
    predictions = tmp_path / "predictions.json"
    predictions.write_text('\ufeff{"0": ""}', encoding="utf-8")
    score = ["score", "--data", str(data), "--predictions", str(predictions)]
    assert json.loads(run(*score).stdout)["exact"] == 100
    assert json.loads(run("eval", "--data", str(data), "--address", server.address).stdout)


@pytest.mark.parametrize(
    ("predicted", "said"),
    [
        ({"0": ""}, ["1 questions have no prediction"]),
        ({"0": "", "1": "", "7": "", "8": ""}, ["2 predictions are of no question"]),
        (
            {"0": "", "7": ""},
            ["1 questions have no prediction", "1 predictions are of no question"],
        ),
        ({"0": "", "1": "x"}, []),
    ],
)
def test_score_says_what_it_left_out(
    tmp_path: Path, predicted: dict[str, str], said: list[str]
) -> None:
    data = squad_file(tmp_path / "data.json", ["It rained.", "It rains."])
    predictions = tmp_path / "predictions.json"
    predictions.write_text(json.dumps(predicted), encoding="utf-8")
    result = run("score", "--data", str(data), "--predictions", str(predictions))
    lines = result.stderr.splitlines()
    assert len(lines) == len(said)
    assert all(line.startswith(start) for line, start in zip(lines, said, strict=True))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_scores_that_no_number_is_are_named(tmp_path: Path, number: str) -> None:
    data = squad_file(tmp_path / "data.json", ["It rained."])
    predictions, scores = tmp_path / "predictions.json", tmp_path / "scores.json"
    predictions.write_text('{"0": ""}', encoding="utf-8")
    scores.write_text(f'{{"0": {number}}}', encoding="utf-8")
    arguments = ["score", "--data", str(data), "--predictions", str(predictions)]
    result = run(*arguments, "--na-prob-file", str(scores), exit_code=1)
    assert "scores.json: the value of '0' is" in result.stderr
    assert result.stdout == ""


def test_info_shows_the_bundle_in_force(bundle: Bundle, server: PrivateServer) -> None:
    local = json.loads(run("info", "--json", "--bundle", str(bundle.path)).stdout)
    assert set(local["bundle"]) == {"path", "precision", "source", "sha256", "metrics"}
    assert local["bundle"]["sha256"] == bundle.sha256
    assert "OpenVINO" in local["device"]
    assert local["versions"]["electra-qa"] == __version__
    remote = json.loads(run("info", "--json", "--address", server.address).stdout)
    assert remote["bundle"]["sha256"] == bundle.sha256
    assert remote["limits"]["max_context_length"] == 200_000


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help(command: str) -> None:
    assert "Usage:" in run(command, "--help").stdout
    assert command in run("--help").stdout


def test_asking_imports_neither_torch_nor_the_build() -> None:
    program = (
        "import sys; from electra_qa.cli import main; import electra_qa.client.cli;"
        "heavy = {'torch', 'transformers', 'onnx', 'openvino'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
