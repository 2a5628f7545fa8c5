from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import BertWordPieceTokenizer
from tokenizers import Tokenizer as RustTokenizer
from transformers import AutoModelForQuestionAnswering

from electra_qa.build_engine.checkpoint import load_checkpoint, read_tokenizer
from electra_qa.build_engine.errors import BuildError
from electra_qa.build_engine.finetune.model import (
    load_model,
    longest_input,
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
    model, _ = load_model(str(folder))
    expected = AutoModelForQuestionAnswering.from_pretrained(folder)
    ids = torch.randint(1000, 20_000, (2, 40), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "token_type_ids": (torch.arange(40) > 9).long().expand(2, 40)}
    with torch.inference_mode():
        ours, theirs = model.eval()(**inputs), expected.eval()(**inputs)
    torch.testing.assert_close(ours.start_logits, theirs.start_logits)
    torch.testing.assert_close(ours.end_logits, theirs.end_logits)
    assert model.config.model_type == "electra"


def test_an_encoder_alone_gets_a_head_from_the_seed(tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint("bert")
    whole = AutoModelForQuestionAnswering.from_pretrained(folder)
    whole.bert.save_pretrained(folder)
    heads = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        model, _ = load_model(str(folder), hidden_dropout_prob=0.25)
        heads.append(model.qa_outputs.weight)
        weight = model.electra.encoder.layer[1].output.dense.weight
        assert torch.equal(weight, whole.bert.encoder.layer[1].output.dense.weight)
        assert model.config.hidden_dropout_prob == 0.25
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_an_mpnet_gets_berts_vocabulary(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_checkpoint("mpnet", vocab_size=30527, max_position_embeddings=130)
    bert = read_tokenizer(folder)
    own = ["<s>", "<pad>", "</s>", "<unk>", *vocabulary(bert), "<mask>"]
    ids = {piece: index for index, piece in enumerate(own)}
    (folder / "tokenizer.json").write_text(BertWordPieceTokenizer(ids).to_str(), encoding="utf-8")
    expected = AutoModelForQuestionAnswering.from_pretrained(folder).eval()

    torch.manual_seed(0)
    window = torch.randint(1000, 20_000, (1, 40))
    window[0, [0, 9, 39]] = torch.tensor([101, 102, 102])
    its_window = window + 4
    its_window[0, [0, 9, 39]] = torch.tensor([0, 2, 2])
    with torch.inference_mode():
        theirs = expected(input_ids=its_window)

    model, tokenizer = load_model(str(folder))
    assert vocabulary(tokenizer) == vocabulary(bert)
    assert longest_input(model) == 128
    save_checkpoint(
        model, tokenizer, tmp_path, null_score_diff_threshold=0, do_lower_case=True, half=False
    )
    again, tokenizer = load_model(str(tmp_path))
    assert vocabulary(tokenizer) == vocabulary(bert)
    padded = torch.nn.functional.pad(window, (0, 24))  # with [PAD]
    for found in (model, again):
        with torch.inference_mode():
            logits = span_logits(
                found.eval(), padded, (padded > 0).long(), torch.zeros_like(padded), "no"
            )
        torch.testing.assert_close(logits[:, :40, 0], theirs.start_logits)
        torch.testing.assert_close(logits[:, :40, 1], theirs.end_logits)
    with pytest.raises(
        BuildError, match="model_type is 'mpnet'; this build takes electra and bert"
    ):
        load_checkpoint(str(tmp_path))


def vocabulary(tokenizer: str) -> list[str]:
    """The pieces in the order of their ids."""
    ids = RustTokenizer.from_str(tokenizer).get_vocab()
    return sorted(ids, key=ids.__getitem__)


@pytest.mark.parametrize("half", [False, True])
def test_build_reads_what_was_saved(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, half: bool
) -> None:
    folder = tiny_checkpoint("bert")
    model, tokenizer = load_model(str(folder))
    save_checkpoint(
        model, tokenizer, tmp_path, null_score_diff_threshold=-1.5, do_lower_case=True, half=half
    )
    checkpoint = load_checkpoint(str(tmp_path))
    assert checkpoint.null_score_diff_threshold == -1.5
    assert checkpoint.architecture.model_type == "electra"
    assert checkpoint.do_lower_case
    weight = model.electra.embeddings.word_embeddings.weight.detach()
    saved = torch.from_numpy(checkpoint.weights["embeddings.word_embeddings.weight"])
    assert saved.dtype == (torch.float16 if half else torch.float32)
    assert weight.dtype == torch.float32
    torch.testing.assert_close(saved.float(), weight, rtol=1e-3, atol=1e-4)
    vocab = (tmp_path / "vocab.txt").read_text(encoding="utf-8").splitlines()
    assert vocab.index("[SEP]") == json.loads(tokenizer)["model"]["vocab"]["[SEP]"]


def test_other_models_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "roberta"}', encoding="utf-8")
    with pytest.raises(BuildError, match="model_type is 'roberta'; electra, bert, mpnet"):
        load_model(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "electra"}', encoding="utf-8")
    with pytest.raises(BuildError, match="can't be loaded"):
        load_model(str(tmp_path))


def test_logits_are_finer_than_bfloat16(tiny_checkpoint: Callable[..., Path]) -> None:
    model, _ = load_model(str(tiny_checkpoint()))
    window = torch.arange(1000, 1064).reshape(2, 32)
    ones, zeros = torch.ones_like(window), torch.zeros_like(window)
    with torch.inference_mode():
        exact, rounded = (
            span_logits(model.eval(), window, ones, zeros, mode) for mode in ("no", "bf16")
        )
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.2)
    assert not torch.equal(rounded, rounded.bfloat16().float())


@pytest.mark.parametrize("model_type", ["electra", "mpnet"])
def test_each_layer_learns_at_its_own_rate(
    tiny_checkpoint: Callable[..., Path], model_type: str
) -> None:
    model, _ = load_model(str(tiny_checkpoint(model_type)))
    settings = FinetuneSettings(learning_rate=1.0, layerwise_lr_decay=0.5, weight_decay=0.1)
    optimizer = make_optimizer(model, settings)
    set_learning_rate(optimizer, 0, 10, 0.0)
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    found = {
        name: (groups[id(p)]["lr"], groups[id(p)]["weight_decay"])
        for name, p in model.named_parameters()
    }
    assert len(found) == sum(len(group["params"]) for group in optimizer.param_groups)
    assert found["qa_outputs.weight"] == (1.0, 0.1)
    assert found["qa_outputs.bias"] == (1.0, 0.0)
    assert found[f"{model_type}.encoder.layer.1.output.dense.weight"] == (0.5, 0.1)
    assert found[f"{model_type}.encoder.layer.0.output.LayerNorm.weight"] == (0.25, 0.0)
    assert found[f"{model_type}.embeddings.word_embeddings.weight"] == (0.125, 0.1)
    if model_type == "electra":
        assert found["electra.embeddings_project.weight"] == (0.125, 0.1)


def test_the_rate_rises_and_falls_in_straight_lines(tiny_checkpoint: Callable[..., Path]) -> None:
    model, _ = load_model(str(tiny_checkpoint()))
    optimizer = make_optimizer(model, FinetuneSettings(learning_rate=2.0))
    shares = [set_learning_rate(optimizer, step, 10, 0.2) for step in range(10)]
    assert shares == [0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    assert {group["lr"] for group in optimizer.param_groups} == {0.25}
