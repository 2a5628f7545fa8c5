"""Every family through gRPC against the pipeline that Transformers had up to 5.2."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from electra_qa.build_engine.build import BuildData, BuildSettings, build_bundle
from electra_qa.build_engine.families import model_types
from electra_qa.client import pipeline

from ..checkpoints import KINDS, make_checkpoint

REPOSITORY = Path(__file__).parents[2]
SCRIPT = REPOSITORY / "benchmarks" / "scripts" / "pipeline_parity.py"
# An environment with the last Transformers that had the pipeline: `make .venv-pipeline/.done`.
# Of the dev set; the script asks more of them.
QUESTIONS = 50
PYTHON = REPOSITORY / ".venv-pipeline" / "bin" / "python"


def parity() -> Any:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("pipeline_parity", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint of every family, by its model_type."""
    if not PYTHON.exists():
        pytest.skip("needs Transformers 5.2: make .venv-pipeline/.done")
    folder = tmp_path_factory.mktemp("families")
    for model_type in KINDS:
        (folder / model_type).mkdir()
        make_checkpoint(model_type, folder / model_type)
    return folder


@pytest.fixture(scope="module")
def theirs(checkpoints: Path, squad_folder: Path) -> dict[str, dict[str, list[Any]]]:
    output = checkpoints / "theirs.json"
    command = [str(PYTHON), str(SCRIPT), "write", "--output", str(output)]
    command += ["--data", str(squad_folder / "dev-v2.0.json")]
    command += ["--questions", str(QUESTIONS)]
    for model_type in KINDS:
        command += ["--checkpoint", str(checkpoints / model_type)]
    subprocess.run(command, check=True, capture_output=True, timeout=1800)
    answers: dict[str, dict[str, list[Any]]] = json.loads(output.read_text(encoding="utf-8"))
    return answers


def test_no_family_is_left_out() -> None:
    assert sorted(KINDS) == model_types()


@pytest.mark.parametrize("model_type", KINDS)
def test_answers_are_those_of_transformers(
    model_type: str,
    checkpoints: Path,
    theirs: dict[str, dict[str, list[Any]]],
    squad_folder: Path,
    tmp_path: Path,
) -> None:
    quiet = Console(file=io.StringIO())
    folder = checkpoints / model_type
    bundle = build_bundle(str(folder), tmp_path, BuildSettings(), BuildData(), quiet)
    script = parity()
    with pipeline("question-answering", bundle=bundle.path) as pipe:
        questions = script.read_questions(squad_folder / "dev-v2.0.json", QUESTIONS)
        ours = script.answer_all(pipe, questions)
    # Answers that differ are there at all, and not the same one always.
    assert len({call[0]["answer"] for call in ours["defaults"]}) > QUESTIONS / 2
    for way, calls in theirs[model_type].items():
        different = []
        for mine, other in zip(ours[way], calls, strict=True):
            scores = [answer["score"] for answer in other]
            assert [answer["score"] for answer in mine] == pytest.approx(scores, rel=1e-3, abs=1e-7)
            if not script.same(mine, other):
                different.append((mine, other))
        # Of two spans whose scores are as good as equal either may come first, by the CPU's last
        # digit. Anything that is wrong with spans, words or offsets is wrong more often than that.
        assert len(different) <= 1, (way, different)
