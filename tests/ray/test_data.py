"""Ray Data and `electra-qa answer --ray`, on a cluster of this machine alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="needs ray: pip install 'electra-qa[ray]'")

import pyarrow as pa
import ray

from electra_qa.client import Client, PrivateServer
from electra_qa.client.answer_files.rows import FileError, Names, answer_values, row_of
from electra_qa.client.ray import answer_dataset
from electra_qa.squad import read_squad

SMALL = Path(__file__).parents[1] / "data" / "small.json"
PAIRS: list[tuple[str | None, str]] = [(q.question, q.context) for q in read_squad(SMALL)]
# None of these can be asked.
PAIRS += [("", "Rome."), (None, "Rome.")]


@pytest.fixture(scope="module")
def of_one_server() -> list[dict[str, Any]]:
    """What `electra-qa answer` adds."""
    names = Names()
    rows = [row_of({}, *pair, names, 0) for pair in PAIRS]
    with PrivateServer() as server, Client(server.address) as client:
        asked = [(row.question, row.context) for row in rows if row.error is None]
        outcomes = client.answer_many(asked)
        return [
            answer_values(row, next(outcomes) if row.error is None else None, names) for row in rows
        ]


def alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Scores depend in their last digits on what was in a batch together."""
    return one.keys() == other.keys() and all(
        other[name] == (pytest.approx(value, abs=0.05) if isinstance(value, float) else value)
        for name, value in one.items()
    )


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
        yield
    ray.shutdown()


@pytest.mark.usefixtures("local_ray")
class TestDataset:
    def test_it_has_the_columns_of_answer(self, of_one_server: list[dict[str, Any]]) -> None:
        rows = [{"n": n, "q": q, "context": c} for n, (q, c) in enumerate(PAIRS)]
        dataset = ray.data.from_items(rows, override_num_blocks=3)
        answered = answer_dataset(
            dataset, question_column="q", prefix="qa_", actors=1, cpus=1, batch_rows=5
        )
        given = sorted(answered.take_all(), key=lambda row: row["n"])
        assert [(row.pop("n"), row.pop("q"), row.pop("context")) for row in given] == [
            (n, *pair) for n, pair in enumerate(PAIRS)
        ]
        plain = [{name.removeprefix("qa_"): value for name, value in row.items()} for row in given]
        assert plain[-1].pop("error") == "there is no q"
        assert of_one_server[-1]["error"] == "there is no question"
        plain[-1]["error"] = of_one_server[-1]["error"]
        assert [alike(*both) for both in zip(of_one_server, plain, strict=True)] == [True] * len(
            PAIRS
        )

    def test_the_types_of_columns_do_not_hang_on_the_rows(self) -> None:
        dataset = ray.data.from_items([{"question": "", "context": "Rome."}])
        (table,) = answer_dataset(dataset, actors=1, cpus=1).to_arrow_refs()
        types = {field.name: field.type for field in ray.get(table).schema}
        assert (types["answer"], types["start"]) == (pa.string(), pa.int64())

    def test_a_missing_column_is_told_of_before_anything_is_asked(self) -> None:
        dataset = ray.data.from_items([{"question": "Who?"}])
        with pytest.raises(FileError, match="no column context"):
            answer_dataset(dataset)


def answer_file(folder: Path, *arguments: str) -> str:
    source, target = folder / "in.jsonl", folder / "out.jsonl"
    lines = [json.dumps({"question": q, "context": c}) for q, c in PAIRS]
    source.write_text("\n".join(lines))
    command = [sys.executable, "-m", "electra_qa", "answer", *arguments]
    command += ["--input", str(source), "--output", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_a_file_is_answered_over_a_cluster(
    of_one_server: list[dict[str, Any]], tmp_path: Path
) -> None:
    said = answer_file(tmp_path, "--ray", "local", "--ray-actors", "2", "--ray-cpus", "1")
    given = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(given) == len(PAIRS)
    for row, one, pair in zip(given, of_one_server, PAIRS, strict=True):
        assert (row.pop("question"), row.pop("context")) == pair
        assert alike({name: one.get(name) for name in row}, row)
    assert f"{len(PAIRS)} rows" in said
