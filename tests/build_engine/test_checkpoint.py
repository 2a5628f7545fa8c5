from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from electra_qa.build_engine.checkpoint import Checkpoint, load_checkpoint
from electra_qa.build_engine.errors import BuildError
from electra_qa.tokenization import Tokenizer

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def original(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint("electra")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy of a tiny checkpoint, to be damaged."""
    return Path(shutil.copytree(original, tmp_path / "damaged"))


def edit_config(folder: Path, **changes: Any) -> None:
    """Set fields of the config; those set to `...` are dropped."""
    path = folder / "config.json"
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    kept = {name: value for name, value in content.items() if value is not ...}
    path.write_text(json.dumps(kept), encoding="utf-8")


def edit_weights(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    weights = load_file(folder / WEIGHTS)
    edit(weights)
    save_file(weights, folder / WEIGHTS)


def refusal(folder: Path | str) -> str:
    """What loading says: one line, for people."""
    with pytest.raises(BuildError) as caught:
        load_checkpoint(str(folder))
    message = str(caught.value)
    assert "\n" not in message
    assert "Traceback" not in message
    return message


def test_a_checkpoint_is_loaded_as_it_is(original: Path) -> None:
    checkpoint = load_checkpoint(str(original))
    assert checkpoint.source == original.name
    assert checkpoint.architecture.model_type == "electra"
    assert checkpoint.architecture.embedding_size == 16
    assert checkpoint.architecture.hidden_size == 32
    assert checkpoint.architecture.max_position_embeddings == 128
    assert checkpoint.null_score_diff_threshold == 0.0
    stored = load_file(original / WEIGHTS)
    assert {name.removeprefix("electra.") for name in stored} == checkpoint.weights.keys()
    name = "encoder.layer.1.attention.self.query.weight"
    np.testing.assert_array_equal(checkpoint.weights[name], stored[f"electra.{name}"])


def test_bert_embeddings_are_as_wide_as_the_rest(tiny_checkpoint: Callable[..., Path]) -> None:
    checkpoint = load_checkpoint(str(tiny_checkpoint("bert")))
    assert checkpoint.architecture.model_type == "bert"
    assert checkpoint.architecture.embedding_size == checkpoint.architecture.hidden_size == 32
    assert {"embeddings.LayerNorm.bias", "qa_outputs.weight"} <= checkpoint.weights.keys()


def test_the_threshold_of_a_checkpoint_is_read(folder: Path) -> None:
    edit_config(folder, null_score_diff_threshold=-1.5)
    assert load_checkpoint(str(folder)).null_score_diff_threshold == -1.5


@pytest.mark.parametrize("content", [None, "", "{", "[]"])
def test_without_a_config_there_is_no_checkpoint(folder: Path, content: str | None) -> None:
    path = folder / "config.json"
    path.unlink() if content is None else path.write_text(content, encoding="utf-8")
    assert refusal(folder).startswith("config.json ")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model_type", "t5", "model_type is 't5'; this build takes albert, "),
        ("model_type", ..., "model_type is None"),
        (
            "position_embedding_type",
            "relative_key",
            "config.json: position_embedding_type is 'relative_key'; this build takes 'absolute'",
        ),
        ("hidden_act", "silu", "config.json: hidden_act is 'silu'; this build takes 'gelu'"),
        # Transformers' default, which these weights have not.
        ("hidden_size", ..., "qa_outputs.weight has the shape"),
    ],
)
def test_an_encoder_of_another_shape_is_refused(
    folder: Path, field: str, value: Any, message: str
) -> None:
    edit_config(folder, **{field: value})
    assert refusal(folder).startswith(message)


def test_an_encoder_without_a_span_head_is_refused(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights.pop("qa_outputs.weight"))
    assert "not fine-tuned for question answering" in refusal(folder)


def test_a_head_of_another_task_is_refused(folder: Path) -> None:
    head = np.zeros((3, 32), np.float32)
    edit_weights(folder, lambda weights: weights.update({"qa_outputs.weight": head}))
    assert "qa_outputs.weight has the shape [3, 32]" in refusal(folder)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_weights_are_the_same(original: Path, folder: Path, zipped: bool) -> None:
    import torch
    from safetensors.torch import load_file as load_torch

    tensors = load_torch(folder / WEIGHTS)
    path = folder / "pytorch_model.bin"
    torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
    (folder / WEIGHTS).unlink()
    pickled, expected = load_checkpoint(str(folder)), load_checkpoint(str(original))
    assert pickled.weights.keys() == expected.weights.keys()
    for name, tensor in expected.weights.items():
        np.testing.assert_array_equal(pickled.weights[name], tensor)
    assert pickled.sha256 != expected.sha256


def test_old_names_of_the_norms_are_read(original: Path, folder: Path) -> None:
    """BERTs that came from TensorFlow have them."""
    weights = load_file(folder / WEIGHTS)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in weights.items()
    }
    assert old.keys() != weights.keys()
    save_file(old, folder / WEIGHTS)
    renamed, expected = load_checkpoint(str(folder)).weights, load_checkpoint(str(original)).weights
    for name, tensor in expected.items():
        np.testing.assert_array_equal(renamed[name], tensor)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_weights_that_are_not_finite_are_named(
    folder: Path, value: float, dtype: type[np.floating[Any]]
) -> None:
    name = "electra.encoder.layer.1.output.dense.weight"

    def spoil(weights: dict[str, Any]) -> None:
        weights[name] = weights[name].astype(dtype)
        weights[name][3, 5] = value

    edit_weights(folder, spoil)
    expected = "encoder.layer.1.output.dense.weight holds values that are not finite"
    assert refusal(folder) == expected


@pytest.mark.parametrize("kept", [0, 4, 1000, -1])
def test_weights_that_are_cut_short_are_refused(folder: Path, kept: int) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:kept])
    assert refusal(folder).startswith("model.safetensors can't be read: ")


def test_a_checkpoint_without_a_vocabulary_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    message = refusal(folder)
    assert message.startswith("the checkpoint has neither tokenizer.json nor vocab.txt; ")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", b"\xff\xfe"),
        ("vocab.txt", b"\xff\xfe"),
        ("vocab.txt", b"[PAD]\n[UNK]\n[CLS]\nNorse\n"),  # no [SEP]
    ],
)
def test_a_vocabulary_that_is_none_is_refused(folder: Path, name: str, content: bytes) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / name).write_bytes(content)
    refusal(folder)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's client as HF_HUB_OFFLINE sets it up, which it reads when it is imported."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["electra-qa-tests/no-such-model", "no-such-model"])
def test_a_hub_id_that_is_out_of_reach_is_named(name: str) -> None:
    assert refusal(name).startswith(f"{name}: no such folder, and not fetched from the hub: ")


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["../x y", "a/b/c", "x y", "no--such", "/no/such/folder"])
def test_a_name_that_can_be_no_hub_id_is_named(name: str) -> None:
    assert refusal(name) == f"{name}: no such folder, and not a hub id"


def with_vocabulary_only(folder: Path, vocabulary: Path, **config: Any) -> Checkpoint:
    (folder / "tokenizer.json").unlink()
    shutil.copy(vocabulary, folder)
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return load_checkpoint(str(folder))


@pytest.mark.parametrize(
    "text",
    [
        "The Normans (Norman: Nourmands) gave their name to Normandy, in the 10th century.",
        "Übermäßig naïve cafés, coöperating: ÉCOLE İstanbul cafe\u0301",
        "漢字とかな 한국어 नमस्ते עברית العربية",
        "100% of $5.00 — “quoted” … x²+y³=z½ ﬁn",
        "👩\u200d👩\u200d👧 and 🏴 \u200b\xad\x00\x07\ufffd end",
        "pneumonoultramicroscopicsilicovolcanoconiosis " + "a" * 150,
        "[CLS] is [SEP] not [MASK] special [PAD] here [UNK]",
        "\t line\r\nbreaks \u3000 and spaces\xa0",
        "",
    ],
)
def test_a_vocab_txt_gives_the_ids_of_the_tokenizer_json(
    text: str, folder: Path, checkpoint: Path, tokenizer: Tokenizer
) -> None:
    loaded = with_vocabulary_only(folder, checkpoint / "vocab.txt", do_lower_case=True)
    made = Tokenizer(loaded.tokenizer)
    assert made.question(text).tolist() == tokenizer.question(text).tolist()
    context, expected = made.context(text), tokenizer.context(text)
    spans = range(len(expected.ids))
    assert [context.characters(i, i) for i in spans] == [expected.characters(i, i) for i in spans]
    assert (made.cls_id, made.sep_id, made.pad_id) == (
        tokenizer.cls_id,
        tokenizer.sep_id,
        tokenizer.pad_id,
    )


def test_a_vocab_txt_of_a_cased_model_keeps_case(folder: Path, tmp_path: Path) -> None:
    vocabulary = tmp_path / "vocab.txt"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Norse", "norse", "é", "e"]
    vocabulary.write_text("\n".join(words), encoding="utf-8")
    loaded = with_vocabulary_only(folder, vocabulary, do_lower_case=False)
    assert Tokenizer(loaded.tokenizer).question("Norse norse é").tolist() == [5, 6, 7]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_size", "32"),
        ("hidden_size", 32.0),
        ("num_attention_heads", None),
        ("num_hidden_layers", "2"),
        ("vocab_size", True),
        ("layer_norm_eps", "x"),
        ("layer_norm_eps", None),
        ("null_score_diff_threshold", float("nan")),
    ],
)
def test_a_number_of_the_config_that_is_none_is_named(
    folder: Path, name: str, value: object
) -> None:
    edit_config(folder, **{name: value})
    assert f"config.json: {name} is not a" in refusal(folder)
