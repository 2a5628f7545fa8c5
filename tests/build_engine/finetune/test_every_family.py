"""Each family: trained, saved, read again by `build` and by Transformers."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from rich.console import Console
from tokenizers import Tokenizer as RustTokenizer
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from electra_qa.build_engine.checkpoint import Checkpoint, load_checkpoint
from electra_qa.build_engine.families import family_of, model_types
from electra_qa.build_engine.finetune.batches import collate
from electra_qa.build_engine.finetune.data import Feature
from electra_qa.build_engine.finetune.model import load_model, save_checkpoint, span_logits
from electra_qa.build_engine.finetune.optimizer import make_optimizer, set_learning_rate
from electra_qa.build_engine.finetune.settings import FinetuneData, FinetuneSettings
from electra_qa.build_engine.finetune.train import finetune
from electra_qa.build_engine.graph import build_graph
from electra_qa.build_engine.tokenizer_files import read_tokenizer
from electra_qa.tokenization import Tokenizer
from electra_qa.windows import Window, WindowBatch, WindowSettings, make_windows

SMALL = Path(__file__).parents[2] / "data" / "small.json"
QUICK = FinetuneSettings(
    max_seq_length=64,
    max_query_length=16,
    doc_stride=32,
    per_gpu_train_batch_size=2,
    learning_rate=1e-3,
    max_steps=3,
    save_steps=2,
)
QUESTION = "Where was the café of São Paulo?"
CONTEXT = "It was opened in 1871, in  the old town; nobody knows why."

Checkpoints = Callable[[str], Path]
every_family = pytest.mark.parametrize("model_type", model_types())


def window_of(checkpoint: Checkpoint) -> Window:
    special_tokens = checkpoint.special_tokens
    tokenizer = Tokenizer(checkpoint.tokenizer, special_tokens)
    [window] = make_windows(
        tokenizer.question(QUESTION),
        tokenizer.context(CONTEXT).ids,
        settings=WindowSettings(max_seq_length=120, special_tokens=special_tokens.separators + 2),
        cls_id=tokenizer.cls_id,
        sep_id=tokenizer.sep_id,
    )
    return window


def in_graph(checkpoint: Checkpoint, window: Window) -> npt.NDArray[np.float32]:
    """[length, 2], with padding behind it, as a server has it."""
    graph = ir.to_proto(build_graph(checkpoint, n_best_size=4, max_answer_length_limit=8))
    pad_id = Tokenizer(checkpoint.tokenizer, checkpoint.special_tokens).pad_id
    batch = WindowBatch.pad([window], [8], length=window.length + 7, pad_id=pad_id)
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    [logits] = session.run(["logits"], {"input_ids": batch.input_ids, "bounds": batch.bounds})
    found: npt.NDArray[np.float32] = logits[0, : window.length]
    return found


def assert_near(found: Any, expected: npt.NDArray[np.float32]) -> None:
    """Within 1e-4 of the range of the logits."""
    span = float(np.ptp(expected))
    assert span > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * span)


@every_family
def test_what_was_trained_is_what_is_built(
    whole_checkpoint: Checkpoints, tmp_path: Path, model_type: str
) -> None:
    folder, output = whole_checkpoint(model_type), tmp_path / "output"
    data = FinetuneData(str(folder), (SMALL,), predict_file=SMALL)
    finetune(data, QUICK, output, Console(file=io.StringIO()))

    checkpoint = load_checkpoint(str(output))
    assert checkpoint.architecture.model_type == ("electra" if model_type == "bert" else model_type)
    report = json.loads((output / "training.json").read_text(encoding="utf-8"))
    threshold = report["held_out"]["null_score_diff_threshold"]
    assert checkpoint.null_score_diff_threshold == threshold
    name = "embeddings.word_embeddings.weight"
    before = load_checkpoint(str(folder)).weights[name]
    assert not np.array_equal(checkpoint.weights[name], before)

    # Without being told anything, Transformers makes the same of the files.
    tokenizer = AutoTokenizer.from_pretrained(output)
    inputs = tokenizer(QUESTION, CONTEXT, return_tensors="pt")
    window = window_of(checkpoint)
    assert inputs["input_ids"][0].tolist() == window.input_ids.tolist()
    assert tokenizer.model_max_length == checkpoint.architecture.max_position_embeddings
    network = AutoModelForQuestionAnswering.from_pretrained(output).eval()
    with torch.inference_mode():
        answer = network(**inputs)
    expected = torch.cat((answer.start_logits, answer.end_logits)).T.numpy()
    assert_near(in_graph(checkpoint, window), expected)

    trained = load_model(str(output))
    feature = Feature(window.input_ids, window.context_start, 0, 0)
    longer = Feature(np.tile(window.input_ids, 2), window.context_start, 0, 0)
    batch = collate([feature, longer], trained.make_tokenizer().pad_id, 128)
    trained.network.eval()
    with torch.inference_mode():
        logits = span_logits(
            trained, batch.input_ids, batch.attention_mask, batch.token_type_ids, "no"
        )
    assert_near(logits[0, : window.length], expected)


@every_family
def test_the_tokenizer_stays_what_it_is(
    whole_checkpoint: Checkpoints, tmp_path: Path, model_type: str
) -> None:
    """All of it, not what a text shows."""
    folder = whole_checkpoint(model_type)
    model = load_model(str(folder))
    save_checkpoint(model, tmp_path, null_score_diff_threshold=0, half=True)
    expected = parts(model.tokenizer)
    assert parts(read_tokenizer(tmp_path)) == expected
    theirs = AutoTokenizer.from_pretrained(tmp_path).backend_tokenizer
    theirs.no_truncation()
    theirs.no_padding()
    assert parts(theirs.to_str()) == expected
    assert (tmp_path / "vocab.txt").is_file() == (expected["model"]["type"] == "WordPiece")
    again = load_model(str(tmp_path))
    assert again.tokenizer_config == model.tokenizer_config
    assert again.special_tokens == model.special_tokens


def parts(tokenizer: str) -> dict[str, Any]:
    """Of a tokenizer.json; the last bits of its scores change whenever it is read and written."""
    content: dict[str, Any] = json.loads(tokenizer, parse_float=lambda x: round(float(x), 9))
    return content


@every_family
def test_an_encoder_for_something_else_gets_a_span_head(
    whole_checkpoint: Checkpoints, model_type: str
) -> None:
    folder = whole_checkpoint(model_type)
    network = AutoModelForQuestionAnswering.from_pretrained(folder)
    network.base_model.save_pretrained(folder)
    path = folder / "config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    labels = {"id2label": {0: "yes", 1: "no", 2: "maybe"}}
    labels["label2id"] = {name: index for index, name in labels["id2label"].items()}
    path.write_text(json.dumps(content | labels), encoding="utf-8")
    heads = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        model = load_model(str(folder))
        name = family_of(model_type).stored_name("qa_outputs.weight")
        heads.append(model.network.state_dict()[name])
    assert heads[0].shape == (2, 32)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


@every_family
def test_dropout_is_what_is_asked_for(whole_checkpoint: Checkpoints, model_type: str) -> None:
    folder = str(whole_checkpoint(model_type))
    assert not differs(folder, 0.0, 0.0)
    assert differs(folder, 0.5, 0.0)
    assert differs(folder, 0.0, 0.5)


def differs(folder: str, hidden: float, attention: float) -> bool:
    """Whether a model in training says other things each time."""
    model = load_model(folder, hidden_dropout_prob=hidden, attention_probs_dropout_prob=attention)
    model.network.train()
    ids = torch.arange(100, 140)[None]
    with torch.no_grad():
        first, second = (
            span_logits(model, ids, torch.ones_like(ids), torch.zeros_like(ids), "no")
            for _ in range(2)
        )
    return not torch.equal(first, second)


@every_family
def test_each_layer_learns_at_its_own_rate(whole_checkpoint: Checkpoints, model_type: str) -> None:
    model = load_model(str(whole_checkpoint(model_type)))
    settings = FinetuneSettings(learning_rate=1.0, layerwise_lr_decay=0.5, weight_decay=0.1)
    optimizer = make_optimizer(model, settings)
    set_learning_rate(optimizer, 0, 10, 0.0)
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    weights = dict(model.network.named_parameters())
    assert len(weights) == sum(len(group["params"]) for group in optimizer.param_groups)
    rates = {name: groups[id(weight)]["lr"] for name, weight in weights.items()}
    family = family_of(model.architecture.model_type)
    layers = family.layer_names(model.architecture)

    def rate(name: str) -> float:
        name = family.stored_name(name)
        return rates[name if name in rates else family.prefix + name]

    assert rate("qa_outputs.weight") == rate("qa_outputs.bias") == 1.0
    for depth, layer in enumerate(reversed(layers), start=1):
        assert rate(f"{layer}.output.dense.weight") == 0.5**depth
        assert rate(f"{layer}.attention.self.query.weight") == 0.5**depth
    assert rate("embeddings.word_embeddings.weight") == 0.5 ** (len(layers) + 1)
    for name, weight in weights.items():
        norm_or_bias = name.endswith("bias") or "norm" in name.lower()
        assert groups[id(weight)]["weight_decay"] == (0.0 if norm_or_bias else 0.1), name
        assert (weight.dim() == 1) == norm_or_bias


def test_flags_and_names_of_the_files_are_kept(
    whole_checkpoint: Checkpoints, tmp_path: Path
) -> None:
    folder = whole_checkpoint("distilbert")
    said = {
        "do_lower_case": False,
        "strip_accents": True,
        "tokenize_chinese_chars": False,
        "pad_token": "[unused5]",
        "additional_special_tokens": ["[unused7]", "[unused8]"],
        "name_or_path": "/somebody/else",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(said), encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(
        json.dumps({"cls_token": {"content": "[unused6]", "lstrip": True}}), encoding="utf-8"
    )
    model = load_model(str(folder))
    assert model.special_tokens.pad == "[unused5]"
    assert model.special_tokens.cls == "[unused6]"
    save_checkpoint(model, tmp_path, null_score_diff_threshold=0, half=False)
    assert json.loads(read_tokenizer(tmp_path)) == json.loads(model.tokenizer)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config["tokenizer_class"] == "BertTokenizer"
    assert config["model_input_names"] == ["input_ids", "attention_mask"]
    assert "name_or_path" not in config
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert (tokenizer.cls_token, tokenizer.pad_token) == ("[unused6]", "[unused5]")
    text = RustTokenizer.from_str(model.tokenizer).normalizer.normalize_str("Café 東京")
    assert text == "Cafe 東京"


@pytest.mark.parametrize("do_lower_case", [True, False])
def test_a_vocabulary_alone_is_read_as_it_was_told(
    whole_checkpoint: Checkpoints, tmp_path: Path, do_lower_case: bool
) -> None:
    model = load_model(str(whole_checkpoint("bert")), do_lower_case=do_lower_case)
    save_checkpoint(model, tmp_path, null_score_diff_threshold=0, half=False)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config["do_lower_case"] is do_lower_case
    assert json.loads(read_tokenizer(tmp_path))["normalizer"]["lowercase"] is do_lower_case
