"""The built-in calibration set: a SQuAD 2.0 file of ours, and the int8 bundle that comes of it."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from electra_qa.build_engine.calibration import BUILT_IN, calibration_windows
from electra_qa.bundle import load_bundle
from electra_qa.cli import main
from electra_qa.squad import SquadQuestion, read_squad
from electra_qa.tokenization import Tokenizer
from electra_qa.windows import WindowSettings, make_windows

SMALL = Path(__file__).parents[1] / "data" / "small.json"


@pytest.fixture(scope="module")
def questions() -> list[SquadQuestion]:
    return read_squad(BUILT_IN)


def test_the_offsets_slice_to_the_answers(questions: list[SquadQuestion]) -> None:
    for question in questions:
        for text, start in zip(question.answers, question.answer_starts, strict=True):
            assert question.context[start : start + len(text)] == text, question.id


def test_an_answer_is_not_cut_out_of_a_word(questions: list[SquadQuestion]) -> None:
    """What a wrong occurrence of the answer's text would most likely be."""
    for question in questions:
        for text, start in zip(question.answers, question.answer_starts, strict=True):
            around = question.context[max(0, start - 1) : start + len(text) + 1]
            if re.search(r"[぀-ヿ㐀-鿿]", around):
                continue  # Chinese and Japanese have no spaces
            assert re.search(rf"(?<!\w){re.escape(text)}(?!\w)", around), question.id


def test_both_kinds_of_questions_are_there_and_marked() -> None:
    content = json.loads(BUILT_IN.read_text(encoding="utf-8"))
    qas = [qa for a in content["data"] for p in a["paragraphs"] for qa in p["qas"]]
    assert content["version"] == "v2.0"
    assert all(qa["is_impossible"] == (not qa["answers"]) for qa in qas)
    assert len({qa["id"] for qa in qas}) == len(qas)
    impossible = sum(qa["is_impossible"] for qa in qas)
    assert len(qas) / 4 < impossible < len(qas) / 2


def test_every_paragraph_has_both_kinds(questions: list[SquadQuestion]) -> None:
    kinds: dict[str, set[bool]] = defaultdict(set)
    for question in questions:
        kinds[question.context].add(bool(question.answers))
    assert len(kinds) >= 60
    assert set(map(frozenset, kinds.values())) == {frozenset({True, False})}


def test_the_scripts_of_multilingual_models_are_there(questions: list[SquadQuestion]) -> None:
    letters = {letter for question in questions for letter in question.context if letter.isalpha()}
    scripts = {unicodedata.name(letter).split()[0] for letter in letters}
    assert {"LATIN", "CYRILLIC", "ARABIC", "CJK", "HIRAGANA"} <= scripts


def test_every_paragraph_makes_windows_and_all_together_enough(
    questions: list[SquadQuestion], tokenizer: Tokenizer
) -> None:
    windows = calibration_windows([BUILT_IN], tokenizer, WindowSettings(), 10_000)
    assert len(windows) > len(questions) >= 300
    lengths = [window.length for window in windows]
    assert min(lengths) < 100
    assert max(lengths) == 384
    for question in questions:
        assert make_windows(
            tokenizer.question(question.question),
            tokenizer.context(question.context).ids,
            settings=WindowSettings(),
            cls_id=tokenizer.cls_id,
            sep_id=tokenizer.sep_id,
        )


def test_it_stays_small() -> None:
    assert BUILT_IN.stat().st_size < 200_000


def build_int8(checkpoint: Path, output: Path, *options: str) -> Result:
    arguments = ["build", "--checkpoint", str(checkpoint), "--output", str(output), *options]
    return CliRunner().invoke(main, [*arguments, "--precision", "int8", "--max-seq-length", "128"])


def test_int8_needs_no_file(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    result = build_int8(tiny_checkpoint("electra"), tmp_path / "b")
    assert result.exit_code == 0, result.output
    said = "300 windows of the built-in calibration set"
    assert f"Calibrating on {said}\n" in result.stderr
    assert load_bundle(tmp_path / "b").manifest.calibration == said


def test_files_that_are_given_replace_it(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = tiny_checkpoint("electra")
    result = build_int8(checkpoint, tmp_path / "b", "--calibration", str(SMALL))
    assert result.exit_code == 0, result.output
    bundle = load_bundle(tmp_path / "b")
    assert re.fullmatch(r"\d+ windows of small\.json", bundle.manifest.calibration or "")
    assert build_int8(checkpoint, tmp_path / "other").exit_code == 0
    other = load_bundle(tmp_path / "other")
    assert bundle.graph_path.read_bytes() != other.graph_path.read_bytes()


def test_the_wheel_carries_it() -> None:
    import tomllib

    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    package_data = pyproject["tool"]["setuptools"]["package-data"]
    assert BUILT_IN.name in package_data["electra_qa.build_engine"]
