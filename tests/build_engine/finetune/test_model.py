from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForQuestionAnswering

from electra_qa.build_engine.checkpoint import load_checkpoint
from electra_qa.build_engine.errors import BuildError
from electra_qa.build_engine.finetune.model import (
    load_model,
    save_checkpoint,
    span_logits,
)
from electra_qa.build_engine.finetune.optimizer import make_optimizer, set_learning_rate
from electra_qa.build_engine.finetune.settings import FinetuneSettings


@pytest.mark.parametrize("model_type", ["bert", "electra"])
def test_a_bert_becomes_an_electra_that_computes_the_same(
    tiny_checkpoint: Callable[..., Path], model_type: str
) -> None:
    folder = tiny_checkpoint(model_type)
    model = load_model(str(folder)).network
    expected = AutoModelForQuestionAnswering.from_pretrained(folder)
    ids = torch.randint(1000, 20_000, (2, 40), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "token_type_ids": (torch.arange(40) > 9).long().expand(2, 40)}
    with torch.inference_mode():
        ours, theirs = model.eval()(**inputs), expected.eval()(**inputs)
    torch.testing.assert_close(ours.start_logits, theirs.start_logits)
    torch.testing.assert_close(ours.end_logits, theirs.end_logits)
    assert model.config.model_type == "electra"


@pytest.mark.parametrize("half", [False, True])
def test_build_reads_what_was_saved(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, half: bool
) -> None:
    folder = tiny_checkpoint("bert")
    model = load_model(str(folder))
    save_checkpoint(model, tmp_path, null_score_diff_threshold=-1.5, half=half)
    checkpoint = load_checkpoint(str(tmp_path))
    assert checkpoint.null_score_diff_threshold == -1.5
    assert checkpoint.architecture.model_type == "electra"
    assert json.loads(checkpoint.tokenizer)["normalizer"]["lowercase"]
    weight = model.network.get_input_embeddings().weight.detach()
    saved = torch.from_numpy(checkpoint.weights["embeddings.word_embeddings.weight"])
    assert saved.dtype == (torch.float16 if half else torch.float32)
    assert weight.dtype == torch.float32
    torch.testing.assert_close(saved.float(), weight, rtol=1e-3, atol=1e-4)
    vocab = (tmp_path / "vocab.txt").read_text(encoding="utf-8").splitlines()
    assert vocab.index("[SEP]") == json.loads(model.tokenizer)["model"]["vocab"]["[SEP]"]


def test_other_models_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5"}', encoding="utf-8")
    with pytest.raises(BuildError, match="model_type is 't5'; this build takes albert, bert"):
        load_model(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "electra"}', encoding="utf-8")
    with pytest.raises(BuildError, match="can't be loaded"):
        load_model(str(tmp_path))


def test_weights_of_another_encoder_are_refused(tiny_checkpoint: Callable[..., Path]) -> None:
    """They would begin at random, in silence."""
    folder = tiny_checkpoint("roberta")
    path = folder / "config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | {"model_type": "electra"}), encoding="utf-8")
    with pytest.raises(
        BuildError, match=r"^the weights lack electra\.\S+, which config\.json asks"
    ):
        load_model(str(folder))


def test_logits_are_finer_than_bfloat16(tiny_checkpoint: Callable[..., Path]) -> None:
    model = load_model(str(tiny_checkpoint()))
    model.network.eval()
    window = torch.arange(1000, 1064).reshape(2, 32)
    ones, zeros = torch.ones_like(window), torch.zeros_like(window)
    with torch.inference_mode():
        exact, rounded = (span_logits(model, window, ones, zeros, mode) for mode in ("no", "bf16"))
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.2)
    assert not torch.equal(rounded, rounded.bfloat16().float())


def test_the_rate_rises_and_falls_in_straight_lines(tiny_checkpoint: Callable[..., Path]) -> None:
    model = load_model(str(tiny_checkpoint()))
    optimizer = make_optimizer(model, FinetuneSettings(learning_rate=2.0))
    shares = [set_learning_rate(optimizer, step, 10, 0.2) for step in range(10)]
    assert shares == [0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    assert {group["lr"] for group in optimizer.param_groups} == {0.25}
