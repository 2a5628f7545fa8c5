"""`electra-qa answer`: every format, odd and bad rows, and runs that are cut off."""

from __future__ import annotations

import csv
import datetime
import io
import json
import math
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from electra_qa.cli import main
from electra_qa.client import Client, PrivateServer, Result, UnavailableError
from electra_qa.client.answer_files import asking, parquet_files
from electra_qa.client.answer_files.csv_files import Csv
from electra_qa.client.answer_files.json_lines import JsonLines
from electra_qa.client.answer_files.lines import LinesWriter
from electra_qa.client.answer_files.rows import ADDED, FileError, Names, bad_row, row_of
from electra_qa.client.answer_files.run import Job, run
from electra_qa.private import ServerProcess

from ..addresses import free_address

NULL = ["--engine", "null", "--warm-up-lengths", "none"]
ROME = {"question": "Who founded Rome?", "context": "Rome was founded by Romulus."}
COMMAND = [sys.executable, "-m", "electra_qa", "answer"]

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def null_server() -> Iterator[ServerProcess]:
    """Answers at once, always the same."""
    with ServerProcess(arguments=NULL) as server:
        yield server


@pytest.fixture(scope="module")
def null_client(null_server: ServerProcess) -> Iterator[Client]:
    with Client(null_server.address) as client:
        yield client


def answer(*arguments: str | Path, exit_code: int = 0, **options: Any) -> Any:
    result = CliRunner().invoke(main, ["answer", *map(str, arguments)], **options)
    assert result.exit_code == exit_code, result.output + repr(result.exception)
    return result


def write(path: Path, rows: Rows) -> Path:
    """In the format that the name says; columns are those of the first row."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        paragraphs = [
            {
                "context": row["context"],
                "qas": [{"id": row["id"], "question": row["question"]}],
            }
            for row in rows
        ]
        path.write_text(json.dumps({"data": [{"title": "Rome", "paragraphs": paragraphs}]}))
    return path


def read(path: Path) -> Rows:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    return pq.read_table(path, partitioning=None).to_pylist()


def as_csv(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


@pytest.mark.parametrize("output", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("input_", [".jsonl", ".csv", ".parquet", ".json"])
def test_every_format_has_the_answers_of_the_client(
    server: PrivateServer, pairs: list[tuple[str, str]], tmp_path: Path, input_: str, output: str
) -> None:
    asked: Rows = [
        {"id": f"q{number}", "question": question, "context": context}
        for number, (question, context) in enumerate(pairs)
    ]
    source, target = write(tmp_path / f"in{input_}", asked), tmp_path / f"out{output}"
    result = answer("--input", source, "--output", target, "--address", server.address)
    assert f"{len(pairs)} rows in " in result.stderr
    assert "0 with an error" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([source.name, target.name])
    rows = read(target)
    with Client(server.address) as client:
        results = [client.answer(*pair) for pair in pairs]
    assert {one.is_impossible for one in results} == {True, False}
    for row, before, one in zip(rows, asked, results, strict=True):
        best = one.answers[0]
        expected = {
            "answer": one.text,
            "start": 0 if one.is_impossible else best.start,
            "end": 0 if one.is_impossible else best.end,
            "is_impossible": one.is_impossible,
            "windows": one.windows,
            "error": None,
        }
        scores = {
            "score": one.null_probability if one.is_impossible else best.score,
            "null_score": one.null_score,
            "null_score_diff": one.null_score_diff,
        }
        title = {"title": "Rome"} if input_ == ".json" else {}
        passed = before | title | expected
        assert set(row) == set(passed) | set(scores)
        assert list(row)[-len(ADDED) :] == list(ADDED)
        for name, value in passed.items():
            assert row[name] == (as_csv(value) if output == ".csv" else value)
        for name, value in scores.items():
            assert float(row[name]) == pytest.approx(value, abs=1e-3)


def test_options_and_names_are_taken(server: PrivateServer, tmp_path: Path) -> None:
    row = {"q": "Who founded Rome?", "text": "It rained.", "answer": "gold", "error": 1}
    source, target = write(tmp_path / "in.jsonl", [row]), tmp_path / "out.jsonl"
    answer(
        *("--input", source, "--output", target, "--address", server.address),
        *("--question-column", "q", "--context-column", "text", "--prefix", "qa_"),
        *("--null-score-diff-threshold", "1e9", "--max-answer-length", "1"),
    )
    (answered,) = read(target)
    assert {name: answered[name] for name in row} == row
    assert not answered["qa_is_impossible"]
    assert answered["qa_answer"] in ("It", "rained", ".")
    assert answered["qa_error"] is None


def test_a_private_server_answers_without_an_address(tmp_path: Path) -> None:
    source, target = write(tmp_path / "in.csv", [ROME]), tmp_path / "out.csv"
    answer("--input", source, "--output", target)
    assert read(target)[0]["answer"] == "Romulus"


BAD_LINES = [
    (b"Who founded Rome?", "the line is not JSON"),
    (b'{"question": "who?", "context": "Ro', "the line is not JSON"),
    (b'["who?", "Rome"]', "must be a JSON object, got list"),
    (b"[" * 100_000, "the line is not JSON"),
    (b'{"question": "who?", "context": "Rome", "x": NaN}', "it has NaN"),
    (b'{"question": "who?", "context": "Rome", "x": 1e999}', "1e999 is too large"),
    (b'{"question": "who?", "context": "R\xf6me"}', "not UTF-8 (byte 34)"),
    (b'{"question": "who?", "context": "\\ud800"}', "lone surrogate"),
    (b'{"question": "who?", "context": "Rome", "\\udfff": 1}', "lone surrogate"),
    (b'{"context": "Rome"}', "there is no question"),
    (b'{"question": "who?", "context": null}', "there is no context"),
    (b'{"question": 7, "context": "Rome"}', "question must be a str, got int"),
    (b'{"question": "", "context": "Rome"}', "question is empty"),
    (b'{"question": "who?", "context": " "}', "context is blank"),
    (b'{"question": "who?", "context": "Rome", "score": 1}', "the key score itself"),
    (b'{"question": "who?", "context": "%s"}' % (b"x" * 200_001), "at most 200000 characters"),
    (b'{"question": "%s", "context": "Rome"}' % (b"x" * 4_001), "at most 4000 characters"),
    (b'{"question": "who?", "context": "%s"}' % (b"x " * 17_000_000), "larger than max"),
]


def test_a_bad_line_is_an_error_in_its_place(null_server: ServerProcess, tmp_path: Path) -> None:
    good = json.dumps(ROME).encode()
    lines = [part for line, _ in BAD_LINES for part in (line, b"", good)]
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(b"\xef\xbb\xbf" + good + b"\r\n" + b"\n".join(lines))
    result = answer("--input", source, "--output", target, "--address", null_server.address)
    assert f"{len(BAD_LINES)} with an error; the first is row 2: the line is not" in result.stderr
    rows = read(target)
    assert len(rows) == 2 * len(BAD_LINES) + 1
    assert [row["answer"] for row in rows[::2]] == ["Rome"] * (len(BAD_LINES) + 1)
    assert [row["error"] for row in rows[::2]] == [None] * (len(BAD_LINES) + 1)
    for row, (_, message) in zip(rows[1::2], BAD_LINES, strict=True):
        assert message in row["error"], row["error"]
        assert {row[name] for name in ADDED if name != "error"} == {None}


def test_a_line_without_end_is_not_read_whole(
    null_server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("electra_qa.client.answer_files.json_lines.MOST_BYTES", 100)
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    good = json.dumps(ROME)
    source.write_text("\n".join(["x" * 99, "x" * 100, "x" * 1000, good, "x" * 350]))
    answer("--input", source, "--output", target, "--address", null_server.address)
    errors = [row["error"] or "" for row in read(target)]
    too_long = "the line has more than 100 bytes"
    assert "not JSON" in errors[0]
    assert errors[1:] == [too_long, too_long, "", too_long]


def test_a_bad_row_of_a_table_is_an_error_in_its_place(
    null_server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("electra_qa.client.answer_files.csv_files.MOST_CHARACTERS", 1000)
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_bytes(
        b"\xef\xbb\xbfquestion,context,x\n"
        b"who?,Rome,1\n\n"
        b"who?,Rome\n"
        b"who?,Rome,1,2\n"
        b"who?,R\xf6me,1\n"
        b",Rome,1\n" + b'who?,"%s",1\n' % (b"x" * 1001) + b'who?,"Rome\n'
    )
    answer("--input", source, "--output", target, "--address", null_server.address)
    rows = read(target)
    expected = [
        "",
        "the row has 2 fields, and the header 3",
        "the row has 4 fields, and the header 3",
        "the row is not UTF-8",
        "question is empty",
        "the row is not CSV: field larger than field limit (1000)",
        "the row has 2 fields, and the header 3",
    ]
    assert [row["error"] for row in rows] == expected
    assert [row["context"] for row in rows[:5]] == ["Rome", "Rome", "Rome", "R?me", "Rome"]


def test_a_bad_row_of_parquet_and_squad_is_an_error_in_its_place(
    null_server: ServerProcess, tmp_path: Path
) -> None:
    texts = pa.Array.from_buffers(
        pa.string(),
        2,
        [None, pa.py_buffer(b"\0\0\0\0\4\0\0\0\x08\0\0\0"), pa.py_buffer(b"R\xf6meRome")],
    )
    table = pa.table({"question": pa.array(["who?", None]), "context": texts})
    pq.write_table(table, tmp_path / "in.parquet")
    qas = [{"id": 7}, {"id": 8, "question": 3}, {"question": "\ud800"}, {"question": "who?"}]
    squad = {"data": [{"paragraphs": [{"context": "Rome", "qas": qas}]}]}
    (tmp_path / "in.json").write_text(json.dumps(squad))
    for name, errors in (
        ("in.parquet", ["lone surrogate", "there is no question"]),
        ("in.json", ["there is no question", "must be a str", "lone surrogate", ""]),
    ):
        for suffix in ("parquet", "jsonl"):
            target = tmp_path / f"{name}.{suffix}"
            source = ["--input", tmp_path / name, "--address", null_server.address]
            answer(*source, "--output", target)
            if suffix == "parquet":
                found = pq.read_table(target)["error"].to_pylist()
            else:
                rows = read(target)
                found = [row["error"] for row in rows]
            assert len(found) == len(errors)
            for one, error in zip(found, errors, strict=True):
                assert error in (one or "")
    assert rows[0]["id"] == "7"


def test_values_of_parquet_stay_what_they_are(null_server: ServerProcess, tmp_path: Path) -> None:
    moment = datetime.datetime(2020, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    columns = {
        "question": pa.array(["who?"] * 3).dictionary_encode(),
        "context": pa.array(["Rome"] * 3, pa.large_string()),
        "small": pa.array([1, None, 3], pa.int8()),
        "nanoseconds": pa.array([1, None, 3], pa.timestamp("ns")),
        "zoned": pa.array([moment, None, moment]),
        "decimal": pa.array([Decimal("1.10"), None, Decimal("0.01")]),
        "bytes": pa.array([b"\xff", None, b""]),
        "nested": pa.array([[{"a": [1]}, None], None, []]),
        "number": pa.array([0.1, None, math.inf]),
    }
    source = tmp_path / "in.parquet"
    pq.write_table(pa.table(columns), source)
    for suffix in ("parquet", "jsonl", "csv"):
        target = tmp_path / f"out.{suffix}"
        answer("--input", source, "--output", target, "--address", null_server.address)
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.select(list(columns)).equals(pq.read_table(source))
    first, second, third = read(tmp_path / "out.jsonl")
    assert {name: first[name] for name in columns} == {
        "question": "who?",
        "context": "Rome",
        "small": 1,
        "nanoseconds": "1970-01-01 00:00:00.000000001",
        "zoned": "2020-01-02 03:04:05.000000Z",
        "decimal": "1.10",
        "bytes": "/w==",
        "nested": [{"a": [1]}, None],
        "number": 0.1,
    }
    assert {second[name] for name in list(columns)[2:]} == {None}
    assert third["number"] is None
    assert read(tmp_path / "out.csv")[0]["nested"] == '[{"a": [1]}, null]'


def test_json_lines_with_different_keys_fill_a_table(
    null_server: ServerProcess, tmp_path: Path
) -> None:
    rows: Rows = [
        ROME | {"year": 1, "share": 1, "mixed": "x", "flag": True},
        ROME | {"year": None, "share": 2**53 + 1, "mixed": 2, "late": [1], "large": 2**63},
        ROME | {"share": 0.5},
    ]
    source = write(tmp_path / "in.jsonl", rows)
    for suffix in ("parquet", "csv"):
        target = tmp_path / f"out.{suffix}"
        answer("--input", source, "--output", target, "--address", null_server.address)
    table = pq.read_table(tmp_path / "out.parquet").to_pydict()
    assert table["year"] == [1, None, None]
    assert table["share"] == [1.0, float(2**53), 0.5]
    assert table["mixed"] == ["x", "2", None]
    assert table["flag"] == [True, None, None]
    assert table["late"] == [None, "[1]", None]
    assert table["large"] == [None, str(2**63), None]
    columns = read(tmp_path / "out.csv")
    assert [row["flag"] for row in columns] == ["true", "", ""]
    assert [row["late"] for row in columns] == ["", "[1]", ""]


ODD = st.text(st.characters(exclude_categories=["Cs"]), min_size=1) | st.sampled_from(
    ["\0", '"', '""', "\r", "\n", "\r\n", ",", ',"\r\n', "\ufeff", "\u2028", "\x1a", "NULL", "é"]
)
CUT = st.floats(0, 1)


def encodings(columns: list[str]) -> list[Any]:
    return [JsonLines(Names()), Csv(columns)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(ODD, ODD, st.none() | ODD), min_size=1, max_size=6), CUT)
def test_what_was_cut_off_anywhere_is_gone_on_with_after_its_last_whole_row(
    tmp_path: Path, texts: list[tuple[str, str, str | None]], cut: float
) -> None:
    names = ["x", "y", "error"]
    rows = [dict(zip(names, one, strict=True)) for one in texts]
    path = tmp_path / "rows"
    for encoding in encodings(names):
        written = [encoding.encode(row) for row in rows]
        whole = encoding.header + b"".join(written)
        at = int(cut * len(whole))
        path.write_bytes(whole[:at] + b"\0" * 1000)
        writer = LinesWriter.going_on(path, encoding)
        ends = [len(encoding.header) + len(b"".join(written[:n])) for n in range(len(rows) + 1)]
        kept = max([n for n, end in enumerate(ends) if end <= at], default=0)
        assert writer.rows == kept
        assert writer.errors == sum(row["error"] is not None for row in rows[:kept])
        for row in rows[kept:]:
            writer.write(bad_row("", 0, row), {}, failed=row["error"] is not None)
        writer.close()
        assert path.read_bytes() == whole


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(ODD, ODD, ODD), min_size=1, max_size=4))
def test_odd_texts_pass_through(
    null_client: Client, tmp_path: Path, texts: list[tuple[str, str, str]]
) -> None:
    rows = [dict(zip(("question", "context", "x"), one, strict=True)) for one in texts]
    outcomes = null_client.answer_batch([(question, context) for question, context, _ in texts])
    expected = [one.text if isinstance(one, Result) else str(one) for one in outcomes]
    for input_ in ("jsonl", "csv", "parquet"):
        source = write(tmp_path / f"in.{input_}", rows)
        for output in ("jsonl", "csv", "parquet"):
            target = tmp_path / f"out.{output}"
            target.unlink(missing_ok=True)
            job = Job(source, input_, target, output, Names(), {})
            done = run(job, null_client, io.BytesIO(), io.BytesIO(), retry_for=0)
            assert done.rows == len(rows)
            answered = read_exactly(target)
            assert [{name: row[name] for name in rows[0]} for row in answered] == rows
            assert [row["error"] or row["answer"] for row in answered] == expected


def read_exactly(path: Path) -> Rows:
    """`str.splitlines` and the limit of csv's fields are not for odd texts."""
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    return read(path)


def numbered(count: int) -> Rows:
    return [
        {
            "id": str(number),
            "question": f"Who founded {number}?",
            "context": f"{number},\r\n\"the city\" 'é' {'was founded. ' * (number % 7)}",
        }
        for number in range(count)
    ]


def start(*arguments: str | Path, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*COMMAND, *map(str, arguments)], stderr=subprocess.PIPE, **options)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


def size_of(folder: Path) -> int:
    """Of what is written of an output."""
    if not folder.is_dir():
        return 0
    files = [*folder.glob("rows.*"), *folder.glob("part-*.parquet")]
    return sum(path.stat().st_size for path in files)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_a_run_that_is_killed_goes_on_where_it_was(
    null_server: ServerProcess, tmp_path: Path, suffix: str
) -> None:
    source = write(tmp_path / f"in.{suffix}", numbered(12_000))
    whole, target = tmp_path / f"whole.{suffix}", tmp_path / f"out.{suffix}"
    address = ["--address", null_server.address]
    answer("--input", source, "--output", whole, *address)
    folder = tmp_path / f"{target.name}.partial"
    arguments = ["--input", source, "--output", target, *address]
    for _ in range(3):
        before = size_of(folder)
        process = start(*arguments)
        wait_for(lambda before=before: size_of(folder) > before + 2_000, process)  # type: ignore[misc]
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not target.exists()
        assert size_of(folder) > before
    result = answer(*arguments)
    assert "12,000 rows, " in result.stderr
    assert " of them now in " in result.stderr
    assert target.read_bytes() == whole.read_bytes()
    assert [row["id"] for row in read(target)] == [str(number) for number in range(12_000)]
    assert not folder.exists()
    refused = answer(*arguments, exit_code=1)
    assert "is there already" in refused.stderr


def test_a_run_that_is_interrupted_says_how_to_go_on(
    null_server: ServerProcess, tmp_path: Path
) -> None:
    source, target = write(tmp_path / "in.jsonl", numbered(12_000)), tmp_path / "out.jsonl"
    arguments = ["--input", source, "--output", target, "--address", null_server.address]
    process = start(*arguments)
    folder = tmp_path / "out.jsonl.partial"
    wait_for(lambda: size_of(folder) > 2_000, process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    written = (folder / "rows.jsonl").read_bytes().count(b"\n")
    assert stderr.decode() == (
        f"Error: interrupted. {written:,} rows are written; the same command goes on from there\n"
    )
    answer(*arguments)
    assert [row["id"] for row in read(target)] == [str(number) for number in range(12_000)]


def cut_off(source: Path, target: Path, client: Client) -> None:
    """Leaves the first 300 rows and what follows of the next one."""

    class Stops(Client):
        def answer_many(self, questions: Any, **options: Any) -> Any:
            for place, outcome in enumerate(super().answer_many(questions, **options)):
                if place == 300:
                    raise UnavailableError("gone")
                yield outcome

    with Stops(client.address) as stops:
        format_ = target.suffix.removeprefix(".")
        job = Job(source, "jsonl", target, format_, Names(), {})
        with pytest.raises(Exception, match="gone"):
            run(job, stops, io.BytesIO(), io.BytesIO(), retry_for=0)


def test_only_the_same_run_goes_on(
    null_server: ServerProcess, null_client: Client, tmp_path: Path
) -> None:
    source, target = write(tmp_path / "in.jsonl", numbered(400)), tmp_path / "out.jsonl"
    cut_off(source, target, null_client)
    folder = tmp_path / "out.jsonl.partial"
    rows = folder / "rows.jsonl"
    written = rows.read_bytes()
    assert written.count(b"\n") == 300
    other = write(tmp_path / "other.jsonl", numbered(401))
    same = ["--input", source, "--output", target, "--address", null_server.address]
    for arguments, named in (
        (["--input", other, *same[2:]], "another input."),
        ([*same, "--max-answer-length", "5"], "another options."),
        ([*same, "--prefix", "x"], "another columns."),
        (["--input", "-", *same[2:]], "another input."),
    ):
        result = answer(*arguments, exit_code=1, input=b"")
        assert named in result.stderr
        assert rows.read_bytes() == written
    # Another name, or another time: it is what is in it that counts.
    moved = source.rename(tmp_path / "moved.jsonl")
    moved.touch()
    with rows.open("ab") as file:
        file.write(written[:50])
    answer("--input", moved, *same[2:])
    assert target.read_bytes().startswith(written)
    assert [row["id"] for row in read(target)] == [str(number) for number in range(400)]


def test_another_model_does_not_go_on(null_client: Client, tmp_path: Path) -> None:
    class Other(Client):
        def info(self, **options: Any) -> Any:
            info = super().info(**options)
            info.bundle.sha256 = "0" * 64
            return info

    source, target = write(tmp_path / "in.jsonl", numbered(400)), tmp_path / "out.csv"
    cut_off(source, target, null_client)
    job = Job(source, "jsonl", target, "csv", Names(), {})
    with Other(null_client.address) as other, pytest.raises(FileError, match=r"another model\."):
        run(job, other, io.BytesIO(), io.BytesIO(), retry_for=0)


def test_two_runs_do_not_write_one_output(null_server: ServerProcess, tmp_path: Path) -> None:
    source, target = write(tmp_path / "in.jsonl", numbered(5_000)), tmp_path / "out.jsonl"
    arguments = ["--input", source, "--output", target, "--address", null_server.address]
    process = start(*arguments)
    folder = tmp_path / "out.jsonl.partial"
    wait_for(lambda: size_of(folder) > 0, process)
    process.send_signal(signal.SIGSTOP)
    try:
        assert "another process writes" in answer(*arguments, exit_code=1).stderr
    finally:
        process.send_signal(signal.SIGCONT)
    assert process.wait(60) == 0
    assert len(read(target)) == 5_000


@pytest.fixture
def serve() -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Starts a null server at an address; returns once it is ready."""
    started = []

    def start_server(address: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "electra_qa", "serve", "--address", address]
        process = subprocess.Popen([*command, *NULL, "--log-level", "warning"])
        started.append(process)
        with Client(address) as client:
            client.wait_until_ready(60)
        return process

    yield start_server
    for process in started:
        process.kill()
        process.wait()


def test_a_server_may_be_away_for_a_while(
    serve: Callable[[str], subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    address = free_address()
    first = serve(address)
    source, target = write(tmp_path / "in.csv", numbered(12_000)), tmp_path / "out.csv"
    process = start("--input", source, "--output", target, "--address", address)
    folder = tmp_path / "out.csv.partial"
    wait_for(lambda: size_of(folder) > 2_000, process)
    first.kill()
    first.wait()
    time.sleep(2)
    assert process.poll() is None
    serve(address)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert b"the server does not answer, and is asked again: " in stderr
    assert b"the server answers again" in stderr
    assert b"0 with an error" in stderr
    assert [row["id"] for row in read(target)] == [str(number) for number in range(12_000)]


def test_a_server_that_stays_away_ends_the_run_which_can_be_gone_on_with(
    serve: Callable[[str], subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    address = free_address()
    first = serve(address)
    source, target = write(tmp_path / "in.csv", numbered(12_000)), tmp_path / "out.csv"
    arguments = ["--input", source, "--output", target, "--address", address]
    process = start(*arguments, "--retry-for", "1")
    folder = tmp_path / "out.csv.partial"
    wait_for(lambda: size_of(folder) > 2_000, process)
    first.kill()
    first.wait()
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 1
    last = stderr.decode().splitlines()[-1]
    assert last.endswith(" rows are written; the same command goes on from there")
    written = len(list(csv.reader(io.StringIO((folder / "rows.csv").read_text(), newline="")))) - 1
    assert f" {written:,} rows are written" in last
    serve(address)
    answer(*arguments)
    assert [row["id"] for row in read(target)] == [str(number) for number in range(12_000)]


def test_an_option_that_no_server_takes_leaves_nothing(
    null_server: ServerProcess, tmp_path: Path
) -> None:
    source, target = write(tmp_path / "in.jsonl", [ROME]), tmp_path / "out.jsonl"
    arguments = ["--input", source, "--output", target, "--address", null_server.address]
    result = answer(*arguments, "--max-answer-length", "0", exit_code=1)
    assert "options.max_answer_length must be 1 to 512, got 0" in result.stderr
    assert list(tmp_path.iterdir()) == [source]
    answer(*arguments)


def test_many_bad_rows_are_not_kept_behind_a_good_one(null_client: Client) -> None:
    ahead, most = 0, 0

    def rows() -> Iterator[Any]:
        nonlocal ahead, most
        for number in range(20_000):
            ahead += 1
            most = max(most, ahead)
            if number % 15_000 == 0:
                yield row_of(ROME, ROME["question"], ROME["context"], Names(), number)
            else:
                yield bad_row("bad", number)

    positions = []
    for row, outcome in asking.answered(null_client, rows(), {}, 0, lambda _: None):
        ahead -= 1
        positions.append(row.position)
        assert (outcome is None) == bool(row.position % 15_000)
    assert positions == list(range(20_000))
    assert most <= asking.MOST_READ


def test_standard_input_and_output_work(null_server: ServerProcess) -> None:
    rows = numbered(1000)
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    command = [*COMMAND, "--input", "-", "--output", "-", "--address", null_server.address]
    ended = subprocess.run(command, input=lines, capture_output=True, check=True, timeout=60)
    answered = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [{name: row[name] for name in rows[0]} for row in answered] == rows
    assert ended.stderr.decode().startswith("1,000 rows in ")
    assert ended.stderr.count(b"\n") == 1
    table = b"question,context\r\nwho?,Rome\r\n"
    formats_ = ["--input-format", "csv", "--output-format", "csv"]
    ended = subprocess.run(
        [*command, *formats_], input=table, capture_output=True, check=True, timeout=60
    )
    assert ended.stdout.startswith(b"question,context,answer,start,end,score,")
    assert ended.stdout.count(b"\r\n") == 2


def test_who_reads_standard_output_may_have_enough(
    null_server: ServerProcess, tmp_path: Path
) -> None:
    source = write(tmp_path / "in.jsonl", numbered(20_000))
    process = start(
        *("--input", source, "--output", "-", "--address", null_server.address),
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["id"] == "0"
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait(60) == 1


def test_a_pipe_is_read_once(null_server: ServerProcess, tmp_path: Path) -> None:
    pipe, target = tmp_path / "in.csv", tmp_path / "out.parquet"
    os.mkfifo(pipe)
    content = b"question,context\r\nwho?,Rome\r\n"
    writing = threading.Thread(target=pipe.write_bytes, args=(content,))
    writing.start()
    answer("--input", pipe, "--output", target, "--address", null_server.address)
    writing.join()
    assert [row["answer"] for row in read(target)] == ["Rome"]


def test_a_terminal_sees_how_far_it_is(null_server: ServerProcess, tmp_path: Path) -> None:
    source, target = write(tmp_path / "in.jsonl", numbered(8_000)), tmp_path / "out.jsonl"
    ours, theirs = pty.openpty()
    command = [*COMMAND, "--input", str(source), "--output", str(target)]
    process = subprocess.Popen(
        [*command, "--address", null_server.address],
        stderr=theirs,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(theirs)
    seen = b""
    try:
        while part := os.read(ours, 4096):
            seen += part
    except OSError:  # the other end is closed
        pass
    finally:
        os.close(ours)
    assert process.wait(60) == 0
    assert b" rows, " in seen
    assert b"/s" in seen
    assert b" %" in seen


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.csv", "", "in.csv is empty: there is no header"),
        ("in.csv", "q,context\n", "no column question, but q, context: choose one by --question"),
        ("in.csv", "question,text\n", "choose one by --context-column"),
        ("in.csv", "question,context,context\n", "in.csv has the column context twice"),
        ("in.csv", "question,context,answer\n", "choose a --prefix for what is added"),
        ("in.parquet", "x", "in.parquet is not a Parquet file"),
        ("in.json", "{}", "in.json is not a SQuAD file: no 'data'"),
        ("in.json", '{"question": 1}\n{}', "in.json is not JSON"),
        ("in.txt", "", "--input-format must say what "),
    ],
)
def test_what_can_not_be_read_is_said(
    null_server: ServerProcess, tmp_path: Path, name: str, content: str, message: str
) -> None:
    source, target = tmp_path / name, tmp_path / "out.csv"
    source.write_text(content)
    arguments = ["--input", source, "--output", target, "--address", null_server.address]
    result = answer(*arguments, exit_code=1)
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "x.csv"], "JSON lines from a stream become JSON lines"),
        (["--output-format", "parquet"], "JSON lines from a stream become JSON lines"),
        (["--input-format", "csv", "--output-format", "parquet"], "a parquet output must be"),
        (["--input-format", "squad"], "a squad input must be a file"),
        (["--output", "/no/such/out.jsonl"], "/no/such/out.jsonl"),
    ],
)
def test_what_can_not_be_a_stream_is_said(
    null_server: ServerProcess, arguments: list[str], message: str
) -> None:
    streams = ["--input", "-", "--output", "-", "--address", null_server.address]
    result = answer(*streams, *arguments, exit_code=1, input=b"question,context\n")
    assert message in result.stderr


def test_a_numeric_column_of_questions_is_said(null_server: ServerProcess, tmp_path: Path) -> None:
    source = write(tmp_path / "in.parquet", [{"question": 1, "context": "Rome"}])
    arguments = ["--input", source, "--output", tmp_path / "out.csv"]
    result = answer(*arguments, "--address", null_server.address, exit_code=1)
    assert "question is of type int64, no text" in result.stderr


def test_without_pyarrow_the_extra_is_named(
    null_server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, parquet_files.__name__)
    monkeypatch.delattr("electra_qa.client.answer_files.parquet_files")
    source = write(tmp_path / "in.csv", [ROME])
    arguments = ["--input", source, "--address", null_server.address]
    result = answer(*arguments, "--output", tmp_path / "out.parquet", exit_code=1)
    assert "Parquet needs pyarrow: pip install 'electra-qa[parquet]'" in result.stderr
    answer(*arguments, "--output", tmp_path / "out.csv")


def test_parts_of_long_rows_are_smaller(
    null_client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_files, "PART_CHARACTERS", 10_000)
    monkeypatch.setattr(parquet_files, "GROUP_PARTS", 2)
    rows = [ROME | {"context": "Rome " * 1000}] * 11
    source, target = write(tmp_path / "in.jsonl", rows), tmp_path / "out.parquet"
    job = Job(source, "jsonl", target, "parquet", Names(), {})
    run(job, null_client, io.BytesIO(), io.BytesIO(), retry_for=0)
    metadata = pq.ParquetFile(target).metadata
    groups = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    assert groups == [4, 4, 3]


def test_a_file_of_one_row_group_is_not_read_whole(tmp_path: Path) -> None:
    source, count = tmp_path / "in.parquet", 20_000
    contexts = [os.urandom(1000).hex() for _ in range(count)]
    table = pa.table({"question": ["who?"] * count, "context": contexts})
    pq.write_table(table, source, row_group_size=count)
    size = table.nbytes
    del table
    before = pa.total_allocated_bytes()
    most = 0
    for row in parquet_files.read_parquet(source, Names(), as_parquet=True).rows:
        if row.position % 1000 == 0:
            most = max(most, pa.total_allocated_bytes() - before)
    assert row.position == count
    assert 0 < most < size / 4


@pytest.mark.parametrize("output", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("input_", ["jsonl", "csv", "parquet", "json"])
def test_no_rows_are_no_answers(
    null_server: ServerProcess, tmp_path: Path, input_: str, output: str
) -> None:
    source, target = tmp_path / f"in.{input_}", tmp_path / f"out.{output}"
    if input_ == "parquet":
        texts = pa.array([], pa.string())
        pq.write_table(pa.table({"question": texts, "context": texts}), source)
    else:
        empty = {"jsonl": "\n", "csv": "question,context\n", "json": '{"data": []}'}
        source.write_text(empty[input_])
    arguments = ["--input", source, "--output", target, "--address", null_server.address]
    assert answer(*arguments).stderr == "0 rows, 0 with an error\n"
    assert read(target) == []
    assert sorted(tmp_path.iterdir()) == [source, target]


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_said(null_server: ServerProcess, tmp_path: Path, unbuffered: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    source = write(tmp_path / "in.jsonl", numbered(1000))
    command = [*COMMAND, "--input", str(source), "--output", "-"]
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            [*command, "--address", null_server.address],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        )
    assert ended.returncode == 1
    assert b"standard output: No space left on device" in ended.stderr
    assert b"ignored" not in ended.stderr
    assert b"Traceback" not in ended.stderr
