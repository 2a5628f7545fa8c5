"""Encoders in, checkpoints out."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer as RustTokenizer
from transformers import (
    AutoConfig,
    BertForQuestionAnswering,
    ElectraConfig,
    ElectraForQuestionAnswering,
    MPNetForQuestionAnswering,
    PreTrainedConfig,
)

from ..errors import BuildError
from ..hub import fetch
from ..tokenizer_files import read_tokenizer
from .mpnet import FIRST_POSITION, bert_vocabulary
from .settings import Autocast

QaModel = ElectraForQuestionAnswering | MPNetForQuestionAnswering

AUTOCAST_DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TRAINABLE_TYPES = ("bert", "electra", "mpnet")
# What a config of BERT's shares with one of ELECTRA's.
SHARED = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "max_position_embeddings",
    "type_vocab_size",
    "initializer_range",
    "layer_norm_eps",
    "pad_token_id",
)


def load_model(
    folder_or_hub_id: str,
    *,
    do_lower_case: bool = True,
    hidden_dropout_prob: float | None = None,
    attention_probs_dropout_prob: float | None = None,
) -> tuple[QaModel, str]:
    """(a model in float32, the content of its tokenizer.json), from a folder or a hub id.

    A model of BERT's shape becomes an ELECTRA one of the same shape: with an embedding as wide as
    the hidden layers the two compute the same. An MPNet gets BERT's vocabulary: it can teach, but
    `build` does not take it. A span head that is not there yet begins at random, from PyTorch's
    seed. Raises BuildError.
    """
    fetched = fetch(folder_or_hub_id)
    folder, source = fetched.folder, fetched.source
    try:
        config = AutoConfig.from_pretrained(folder)
        if config.model_type not in TRAINABLE_TYPES:
            raise BuildError(
                f"{source}: model_type is {config.model_type!r}; {', '.join(TRAINABLE_TYPES)} "
                "can be fine-tuned"
            )
        for name, value in (
            ("hidden_dropout_prob", hidden_dropout_prob),
            ("attention_probs_dropout_prob", attention_probs_dropout_prob),
        ):
            if value is not None:
                setattr(config, name, value)
        model = _load(folder, config)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BuildError(f"{source} can't be loaded: {reason}") from error
    tokenizer = read_tokenizer(folder, do_lower_case=do_lower_case)
    if isinstance(model, MPNetForQuestionAnswering):
        tokenizer = bert_vocabulary(model, tokenizer)
    return model, tokenizer


def longest_input(model: QaModel) -> int:
    """How many tokens the model has positions for."""
    positions: int = model.config.max_position_embeddings
    return positions - (FIRST_POSITION if model.config.model_type == "mpnet" else 0)


def span_logits(
    model: QaModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    token_type_ids: torch.Tensor,
    autocast: Autocast,
) -> torch.Tensor:
    """float32 [windows, length, 2], of starts and ends, from int64 [windows, length]."""
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    if model.config.model_type != "mpnet":  # which has no segments
        inputs["token_type_ids"] = token_type_ids
    with torch.autocast(input_ids.device.type, AUTOCAST_DTYPES[autocast], enabled=autocast != "no"):
        hidden = model.base_model(**inputs)[0]
    # The head in float32: in bfloat16 logits lie 0.06 apart, and so would thresholds and scores.
    logits: torch.Tensor = model.qa_outputs(hidden.float())
    return logits


def _load(folder: Path, config: PreTrainedConfig) -> QaModel:
    if config.model_type == "mpnet":
        return MPNetForQuestionAnswering.from_pretrained(
            folder, config=config, dtype=torch.float32, attn_implementation="eager"
        )
    # On a CPU the plain product of matrices is faster to train than fused attention.
    attention = "sdpa" if torch.cuda.is_available() else "eager"
    if config.model_type == "electra":
        return ElectraForQuestionAnswering.from_pretrained(
            folder, config=config, dtype=torch.float32, attn_implementation=attention
        )
    bert = BertForQuestionAnswering.from_pretrained(folder, config=config, dtype=torch.float32)
    shape = {name: getattr(config, name) for name in SHARED}
    model: ElectraForQuestionAnswering = ElectraForQuestionAnswering._from_config(
        ElectraConfig(embedding_size=config.hidden_size, **shape),
        attn_implementation=attention,
        dtype=torch.float32,
    )
    weights = {
        name.replace("bert.", "electra.", 1): tensor for name, tensor in bert.state_dict().items()
    }
    model.load_state_dict(weights)
    return model


def save_checkpoint(
    model: QaModel,
    tokenizer: str,
    output: Path,
    *,
    null_score_diff_threshold: float,
    do_lower_case: bool,
    half: bool,
) -> None:
    """Write a checkpoint in Hugging Face's layout, in float32 or `half`; the model stays as it is.

    config.json carries `null_score_diff_threshold`, which `build` puts into the bundle.
    """
    model.config.null_score_diff_threshold = null_score_diff_threshold
    weights = model.state_dict()
    if half:
        weights = {
            name: tensor.half() if tensor.is_floating_point() else tensor
            for name, tensor in weights.items()
        }
    model.save_pretrained(output, state_dict=weights)
    config = json.loads((output / "config.json").read_text(encoding="utf-8"))
    config["dtype"] = "float16" if half else "float32"
    (output / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_tokenizer(tokenizer, output, do_lower_case, longest_input(model))


def save_tokenizer(tokenizer: str, output: Path, do_lower_case: bool, longest: int) -> None:
    """tokenizer.json, tokenizer_config.json and vocab.txt."""
    rust: RustTokenizer = RustTokenizer.from_str(tokenizer)
    rust.no_truncation()
    rust.no_padding()
    vocab = rust.get_vocab(with_added_tokens=True)
    (output / "tokenizer.json").write_text(rust.to_str(), encoding="utf-8")
    (output / "vocab.txt").write_text(
        "".join(f"{token}\n" for token in sorted(vocab, key=vocab.__getitem__)), encoding="utf-8"
    )
    settings = {
        "tokenizer_class": "ElectraTokenizer",
        "do_lower_case": do_lower_case,
        "model_max_length": longest,
    } | {f"{name}_token": f"[{name.upper()}]" for name in ("cls", "sep", "pad", "unk", "mask")}
    (output / "tokenizer_config.json").write_text(
        json.dumps(settings, indent=1) + "\n", encoding="utf-8"
    )
