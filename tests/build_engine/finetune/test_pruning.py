"""Pruned checkpoints: taken from whole ones, saved, read again, built, trained."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import AutoModelForQuestionAnswering

from electra_qa.build_engine.build import BuildData, BuildSettings, build_bundle
from electra_qa.build_engine.checkpoint import load_checkpoint
from electra_qa.build_engine.errors import BuildError
from electra_qa.build_engine.families import family_of, model_types
from electra_qa.build_engine.finetune import pruning, state
from electra_qa.build_engine.finetune.batches import collate
from electra_qa.build_engine.finetune.data import Feature
from electra_qa.build_engine.finetune.importance import importance
from electra_qa.build_engine.finetune.model import QaModel, load_model, span_logits
from electra_qa.build_engine.finetune.narrowing import Kept, architecture_of, layer_names, narrow
from electra_qa.build_engine.finetune.pruning import prune
from electra_qa.build_engine.finetune.settings import FinetuneData
from electra_qa.build_engine.finetune.train import finetune

from .test_every_family import QUICK, SMALL, assert_near, in_graph, window_of

Checkpoints = Callable[..., Path]

# Of a whole one's 2 layers of 4 heads and 48 neurons; the numbers follow no order of widths.
KEPT = Kept(((0, 2, 3), (1,)), (tuple(range(0, 48, 3)), tuple(range(7, 47))))
PRUNABLE = [model_type for model_type in model_types() if family_of(model_type).narrows]
SETTINGS = dataclasses.replace(
    QUICK,
    per_gpu_train_batch_size=4,
    max_steps=4,
    hidden_dropout_prob=0.2,
    keep_intermediate=0.5,
    keep_heads=0.5,
)
QUIET = Console(file=io.StringIO())


def without(network: Any, kept: Kept) -> None:
    """The same as pruning, by Transformers' own whole modules: what goes adds nothing."""
    architecture = architecture_of(network.config)
    size = architecture.head_size
    with torch.no_grad():
        for index, names in enumerate(layer_names(architecture)):
            by_head = network.get_submodule(names.attention_output).weight.unflatten(1, (-1, size))
            by_head[:, left_out(kept.heads[index], architecture.num_attention_heads)] = 0
            weight = network.get_submodule(names.output).weight
            weight[:, left_out(kept.neurons[index], architecture.intermediate_size)] = 0


def left_out(kept: tuple[int, ...], of: int) -> list[int]:
    return sorted(set(range(of)) - set(kept))


def windows(count: int = 12) -> list[Feature]:
    rng = np.random.default_rng(0)
    features = []
    for length in rng.integers(10, 60, count):
        start = int(rng.integers(4, length))
        features.append(Feature(rng.integers(1000, 2000, length, np.int32), 3, start, start))
    return features


def logits(model: QaModel, features: list[Feature]) -> torch.Tensor:
    batch = collate(features, model.make_tokenizer().pad_id, 128)
    torch.nn.Module.eval(model.network)
    with torch.inference_mode():
        return span_logits(
            model, batch.input_ids, batch.attention_mask, batch.token_type_ids, "no"
        ).masked_fill(batch.attention_mask[..., None] == 0, 0)


def test_the_families_that_can_be_pruned() -> None:
    assert PRUNABLE == ["bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta"]


@pytest.mark.parametrize("model_type", PRUNABLE)
def test_a_pruned_checkpoint_is_built_and_loaded(
    whole_checkpoint: Checkpoints, tmp_path: Path, model_type: str
) -> None:
    folder = whole_checkpoint(model_type)
    network: Any = AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    whole = load_checkpoint(str(folder))
    window = window_of(whole)
    inputs: dict[str, Any] = {"input_ids": torch.from_numpy(window.input_ids)[None].long()}
    if whole.architecture.type_vocab_size:
        segments = torch.arange(window.length) >= window.context_start
        inputs["token_type_ids"] = segments[None].long()
    masked: Any = AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    without(masked, KEPT)
    with torch.inference_mode():
        answer, of_all = masked(**inputs), network(**inputs)
    expected = torch.cat((answer.start_logits, answer.end_logits)).T.numpy()
    assert not torch.allclose(of_all.start_logits, answer.start_logits, atol=0.05)

    narrow(network, KEPT)
    network.save_pretrained(tmp_path)
    for path in folder.iterdir():
        if not (tmp_path / path.name).exists():
            (tmp_path / path.name).write_bytes(path.read_bytes())

    pruned = load_checkpoint(str(tmp_path))
    assert pruned.architecture.attention_heads_by_layer == (3, 1)
    assert pruned.architecture.intermediate_size_by_layer == (16, 40)
    assert pruned.architecture.num_attention_heads == 4
    assert_near(in_graph(pruned, window), expected)

    assert load_model(str(folder)).has_span_head
    model = load_model(str(tmp_path))
    assert model.architecture.attention_heads_by_layer == (3, 1)
    feature = Feature(window.input_ids, window.context_start, 0, 0)
    longer = Feature(np.tile(window.input_ids, 2), window.context_start, 0, 0)
    assert_near(logits(model, [feature, longer])[0, : window.length], expected)

    # As the documentation says.
    with pytest.raises(RuntimeError, match="mismatch"):
        AutoModelForQuestionAnswering.from_pretrained(tmp_path)


def test_what_adds_nothing_goes_and_nothing_changes(
    tiny_checkpoint: Checkpoints, tmp_path: Path
) -> None:
    model = load_model(str(tiny_checkpoint("electra")))
    without(model.network, KEPT)
    features = windows()
    before = logits(model, features)
    settings = dataclasses.replace(SETTINGS, keep_heads=4 / 8, keep_intermediate=56 / 96)
    pruned = prune(model, features, settings, tmp_path, QUIET, multiple=8)
    assert json.loads((tmp_path / "kept.json").read_text(encoding="utf-8")) == {
        "heads": [list(heads) for heads in KEPT.heads],
        "neurons": [list(neurons) for neurons in KEPT.neurons],
    }
    assert pruned.architecture.attention_heads_by_layer == (3, 1)
    assert pruned.architecture.intermediate_size_by_layer == (16, 40)
    assert before.std() > 0.1
    torch.testing.assert_close(logits(pruned, features), before, rtol=1e-4, atol=1e-4)
    shapes = {name: tuple(t.shape) for name, t in pruned.network.state_dict().items()}
    first = "electra.encoder.layer.0."
    assert shapes[f"{first}attention.self.key.weight"] == (24, 32)
    assert shapes[f"{first}attention.output.dense.weight"] == (32, 24)
    assert shapes[f"{first}output.dense.weight"] == (32, 16)

    # What is left can be pruned again, by numbers of its own.
    again = dataclasses.replace(settings, keep_heads=1.0, keep_intermediate=0.5)
    (tmp_path / "twice").mkdir()
    twice = prune(pruned, features, again, tmp_path / "twice", QUIET, multiple=8)
    assert sum(twice.architecture.intermediate_size_by_layer) in (24, 32)
    assert twice.architecture.attention_heads_by_layer == (3, 1)


def test_importance_is_the_change_of_the_loss(tiny_checkpoint: Checkpoints) -> None:
    """By how much the loss of each window moves with a little more or less of it."""
    model = load_model(str(tiny_checkpoint("distilbert")))
    features = windows(5)
    found = importance(model, features, 0, SETTINGS, QUIET)
    names = layer_names(model.architecture)[1]
    for module, size, places, scores in (
        (names.attention_output, 8, (0, 3), found.heads[1]),
        (names.output, 1, (0, 17, 47), found.neurons[1]),
    ):
        weight = model.network.get_submodule(module).weight
        for place in places:
            columns = slice(place * size, (place + 1) * size)
            kept = weight[:, columns].detach().clone()
            found_losses = []
            for share in (1.01, 0.99):
                with torch.no_grad():
                    weight[:, columns] = share * kept
                found_losses.append(losses(model, features))
            with torch.no_grad():
                weight[:, columns] = kept
            more, less = found_losses
            moved = float((more - less).abs().sum()) / 0.02
            assert scores[place] == pytest.approx(moved, rel=0.02, abs=1e-3)


def losses(model: QaModel, features: list[Feature]) -> torch.Tensor:
    """[windows]."""
    found = []
    for feature in features:
        wanted = torch.tensor([feature.start, feature.end])
        of_one = logits(model, [feature])[0, : feature.length]
        found.append(torch.nn.functional.cross_entropy(of_one.T, wanted))
    return torch.stack(found)


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Checkpoints) -> Path:
    """Heads of 32, so that attention goes in pairs of them."""
    return tiny_checkpoint("electra", hidden_size=128, intermediate_size=256)


def run(
    model: Path, output: Path, *, resume: bool = False, teacher: str | None = None, **settings: Any
) -> dict[str, torch.Tensor]:
    data = FinetuneData(str(model), (SMALL,), predict_file=SMALL, teacher=teacher)
    finetune(data, dataclasses.replace(SETTINGS, **settings), output, QUIET, resume=resume)
    weights: dict[str, torch.Tensor] = load_file(output / "model.safetensors")
    return weights


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_pruned_model_is_trained_built_and_trained_on(model: Path, tmp_path: Path) -> None:
    weights = run(model, tmp_path / "pruned", half_weights=True)
    report = json.loads((tmp_path / "pruned" / "training.json").read_text(encoding="utf-8"))
    heads, neurons = report["attention_heads_by_layer"], report["intermediate_size_by_layer"]
    assert (heads, sum(neurons)) == ([2, 2], 256)
    assert set(neurons) <= {64, 128, 192}
    assert report["teacher"] == model.name
    assert not (tmp_path / "pruned" / "kept.json").exists()
    for layer, width in enumerate(neurons):
        assert weights[f"electra.encoder.layer.{layer}.output.dense.weight"].shape == (128, width)

    bundle = build_bundle(
        str(tmp_path / "pruned"),
        tmp_path / "bundle",
        BuildSettings(precision="int8", quantization_seconds=0),
        BuildData(),
        QUIET,
    )
    assert bundle.manifest.architecture["attention_heads_by_layer"] == heads

    # As the model, as the teacher, and both.
    pruned = tmp_path / "pruned"
    again = run(pruned, tmp_path / "again", keep_heads=1.0, keep_intermediate=1.0)
    assert {n: w.shape for n, w in again.items()} == {n: w.shape for n, w in weights.items()}
    run(model, tmp_path / "student", teacher=str(pruned), keep_heads=1.0, keep_intermediate=1.0)


def test_a_stopped_run_goes_on_to_the_same_result(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    never_stopped = run(model, tmp_path / "whole")
    save = state.save

    def save_and_stop(*arguments: Any) -> None:
        save(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as stopping:
        stopping.setattr(state, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            run(model, tmp_path / "stopped")
    assert (tmp_path / "stopped" / "checkpoint-2").is_dir()
    with pytest.raises(BuildError, match="differs in keep_heads"):
        run(model, tmp_path / "stopped", resume=True, keep_heads=1.0)
    # What is kept was decided.
    monkeypatch.delattr(pruning, "importance")
    assert equal(never_stopped, run(model, tmp_path / "stopped", resume=True))


def test_the_teacher_is_the_whole_model(model: Path, tmp_path: Path) -> None:
    alone = run(model, tmp_path / "a")
    assert equal(alone, run(model, tmp_path / "b", teacher=str(model)))
    assert not equal(alone, run(model, tmp_path / "c", distillation_weight=0.0))


@pytest.mark.parametrize("share", [0.0, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(model: Path, tmp_path: Path, share: float) -> None:
    with pytest.raises(ValueError, match="keep_heads must be over 0 and at most 1, got"):
        run(model, tmp_path / "a", keep_heads=share)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("model_type", [name for name in model_types() if name not in PRUNABLE])
def test_other_families_are_refused(
    whole_checkpoint: Checkpoints, tmp_path: Path, model_type: str
) -> None:
    with pytest.raises(BuildError, match=f"keep_heads: a {model_type} can't be pruned"):
        run(whole_checkpoint(model_type), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_an_encoder_without_a_span_head_is_refused(
    tiny_checkpoint: Checkpoints, tmp_path: Path
) -> None:
    folder = tiny_checkpoint("electra")
    network = AutoModelForQuestionAnswering.from_pretrained(folder)
    network.base_model.save_pretrained(folder)
    with pytest.raises(BuildError, match="the model is not fine-tuned for question answering"):
        run(folder, tmp_path / "a")


def test_a_pruned_checkpoint_that_lacks_a_tensor_is_refused(
    tiny_checkpoint: Checkpoints,
) -> None:
    folder = tiny_checkpoint("roberta", attention_heads_by_layer=[1, 4])
    weights = load_file(folder / "model.safetensors")
    name = "roberta.encoder.layer.1.output.dense.bias"
    del weights[name]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(BuildError, match=f"the weights lack {name}, which config.json asks for"):
        load_model(str(folder))
