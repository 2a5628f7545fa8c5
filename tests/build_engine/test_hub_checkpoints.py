"""The repositories that people have, from the hub to a bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from tokenizers import Tokenizer as RustTokenizer
from transformers import AutoTokenizer

from electra_qa.build_engine.checkpoint import load_checkpoint
from electra_qa.build_engine.cli import build
from electra_qa.build_engine.hub import fetch
from electra_qa.build_engine.tokenizer_files import read_tokenizer
from electra_qa.build_engine.weights import read_weights
from electra_qa.bundle import load_bundle

from ..hub.repositories import MODELS, Model
from ..hub.server import HubRepository, LoopbackHub


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.hub_id)
def test_a_repository_becomes_a_bundle(
    hub: LoopbackHub,
    hub_repository: Callable[[str], HubRepository],
    model: Model,
    tmp_path: Path,
) -> None:
    repository = hub.add(hub_repository(model.hub_id))
    commit = repository.refs["main"]
    arguments = ["--checkpoint", model.hub_id, "--output", str(tmp_path / "bundle")]
    result = CliRunner().invoke(build, [*arguments, "--revision", commit])
    assert result.exit_code == 0, result.output
    manifest = load_bundle(tmp_path / "bundle").manifest
    assert manifest.source == f"{model.hub_id}@{commit}"
    assert manifest.architecture["model_type"] == model.config["model_type"]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.hub_id)
def test_weights_and_tokenizer_of_a_repository_are_those_of_transformers(
    hub: LoopbackHub, hub_repository: Callable[[str], HubRepository], model: Model
) -> None:
    from transformers import AutoModelForQuestionAnswering

    hub.add(hub_repository(model.hub_id))
    folder = fetch(model.hub_id).folder
    weights = read_weights(folder)
    expected = AutoModelForQuestionAnswering.from_pretrained(folder).state_dict()
    assert expected.keys() <= weights.keys()
    for name, tensor in expected.items():
        assert (weights[name] == tensor.numpy()).all()
    reference = AutoTokenizer.from_pretrained(folder).backend_tokenizer
    reference.no_truncation()
    reference.no_padding()
    assert json.loads(read_tokenizer(folder)) == json.loads(reference.to_str())


def test_a_revision_of_a_folder_is_refused(tmp_path: Path) -> None:
    arguments = ["--checkpoint", str(tmp_path), "--output", str(tmp_path / "bundle")]
    result = CliRunner().invoke(build, [*arguments, "--revision", "main"])
    assert result.exit_code == 1
    assert f"revision is for hub ids; {tmp_path} is a folder" in result.output.replace("\n", " ")


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.hub_id)
def test_finetune_takes_a_revision_and_keeps_the_tokenizer(
    hub: LoopbackHub,
    hub_repository: Callable[[str], HubRepository],
    model: Model,
    tmp_path: Path,
) -> None:
    from electra_qa.build_engine.finetune.model import load_model, save_checkpoint

    commit = hub.add(hub_repository(model.hub_id)).refs["main"]
    name = f"{model.hub_id}@{commit}"
    trained = load_model(name)
    save_checkpoint(trained, tmp_path, null_score_diff_threshold=0, half=True)
    reference = AutoTokenizer.from_pretrained(fetch(name).folder)
    question, context = "Où est le café?", "It is in São Paulo [SEP]  somewhere, 1871–1890 (京)."
    expected = reference(question, context)["input_ids"]
    assert AutoTokenizer.from_pretrained(tmp_path)(question, context)["input_ids"] == expected
    saved = load_checkpoint(str(tmp_path))
    assert saved.special_tokens == load_checkpoint(name).special_tokens
    assert RustTokenizer.from_str(saved.tokenizer).encode(question, context).ids == expected
