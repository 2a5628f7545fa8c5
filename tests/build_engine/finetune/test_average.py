from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

from electra_qa.cli import main


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint(hidden_size=64)


def average(squad_file: Path, output: Path, *arguments: Path | str) -> Result:
    options = (f"--train_file={squad_file}", "--held_out=0.5", f"--output_dir={output}")
    return CliRunner().invoke(
        main, ["average", *map(str, arguments), *options, "--max_seq_length=128"]
    )


def scaled(model: Path, by: float, folder: Path) -> Path:
    shutil.copytree(model, folder)
    weights = {name: by * w for name, w in load_file(model / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_the_weights_are_the_mean_and_the_threshold_is_new(
    model: Path, squad_file: Path, tmp_path: Path
) -> None:
    first, *others = [scaled(model, by, tmp_path / f"times-{by}") for by in (1, 3, 5)]
    config = json.loads((first / "config.json").read_text(encoding="utf-8"))
    config["null_score_diff_threshold"] = 99.0
    (first / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (first / "training.json").write_text('{"seconds": 7}', encoding="utf-8")
    output = tmp_path / "mean"
    result = average(squad_file, output, first, *others)
    assert result.exit_code == 0, result.output
    found = load_file(output / "model.safetensors")
    weights = load_file(model / "model.safetensors")
    assert found.keys() == weights.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(found[name], 3 * weight)
    report = json.loads((output / "training.json").read_text(encoding="utf-8"))
    assert report["average_of"] == [
        {"checkpoint": "times-1", "seconds": 7},
        {"checkpoint": "times-3"},
        {"checkpoint": "times-5"},
    ]
    assert report["held_out_questions"] == 16
    config = json.loads((output / "config.json").read_text(encoding="utf-8"))
    assert config["null_score_diff_threshold"] == report["held_out"]["null_score_diff_threshold"]
    assert config["null_score_diff_threshold"] < 99
    assert str(tmp_path) not in json.dumps(report)


def test_half_weights_are_half(model: Path, squad_file: Path, tmp_path: Path) -> None:
    average(squad_file, tmp_path / "mean", model, "--half_weights")
    found = load_file(tmp_path / "mean" / "model.safetensors")
    assert {w.dtype for w in found.values()} == {torch.float16}


def test_checkpoints_that_have_no_mean_are_refused(
    model: Path, squad_file: Path, tmp_path: Path, tiny_checkpoint: Callable[..., Path]
) -> None:
    wider = tiny_checkpoint(intermediate_size=64, hidden_size=64)
    result = average(squad_file, tmp_path / "mean", model, wider)
    assert result.exit_code == 1
    assert f"{wider} has another shape than {model}" in result.output
    unlike = scaled(model, 1, tmp_path / "unlike")
    serialized = json.loads((unlike / "tokenizer.json").read_text(encoding="utf-8"))
    serialized["model"]["vocab"]["unheard-of"] = serialized["model"]["vocab"].pop("lighthouse")
    (unlike / "tokenizer.json").write_text(json.dumps(serialized), encoding="utf-8")
    result = average(squad_file, tmp_path / "mean", model, unlike)
    assert f"{unlike} has another vocabulary than {model}" in result.output
    assert not (tmp_path / "mean").exists()


def test_a_folder_with_files_is_not_written_to(
    model: Path, squad_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "mean"
    output.mkdir()
    (output / "config.json").write_text("mine", encoding="utf-8")
    result = average(squad_file, output, model)
    assert result.exit_code == 1
    assert f"{output} is not empty" in result.output
    assert (output / "config.json").read_text(encoding="utf-8") == "mine"
