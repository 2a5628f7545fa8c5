"""Encoders in, checkpoints out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as RustTokenizer
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    BertForQuestionAnswering,
    ElectraConfig,
    ElectraForQuestionAnswering,
    PreTrainedConfig,
    PreTrainedModel,
)

from electra_qa.tokenization import SpecialTokens, Tokenizer

from ..architecture import HEADS_BY_LAYER, INTERMEDIATE_BY_LAYER, Architecture
from ..checkpoint import read_special_tokens
from ..config import CONFIG, read_json
from ..errors import BuildError
from ..families import family_of
from ..hub import fetch
from ..tokenizer_files import read_tokenizer
from ..weights import read_weights
from .narrowing import architecture_of, first_ones, is_pruned, narrow
from .settings import Autocast
from .tokenizer_config import tokenizer_config

AUTOCAST_DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# The fields of one config or another that BERT's names of dropouts stand for.
DROPOUTS = {
    "hidden_dropout_prob": (
        "hidden_dropout_prob",
        "dropout",
        "embedding_dropout",
        "mlp_dropout",
        "qa_dropout",
    ),
    "attention_probs_dropout_prob": ("attention_probs_dropout_prob", "attention_dropout"),
}
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


@dataclass(frozen=True, slots=True)
class QaModel:
    """An encoder with a span head, in float32, and what its windows are made of.

    network: one of Transformers' models for question answering.
    tokenizer: the content of a `tokenizer.json`.
    tokenizer_config: of the `tokenizer_config.json` beside it.
    has_span_head: whether it came with one; else it begins at random.
    """

    network: PreTrainedModel
    architecture: Architecture
    tokenizer: str
    tokenizer_config: Mapping[str, Any]
    special_tokens: SpecialTokens
    has_span_head: bool

    @property
    def longest_input(self) -> int:
        """How many tokens the model has positions for."""
        return self.architecture.max_position_embeddings

    def make_tokenizer(self) -> Tokenizer:
        """Raises BuildError where the model has not an embedding for each token."""
        tokenizer = Tokenizer(self.tokenizer, self.special_tokens)
        if tokenizer.vocab_size > self.architecture.vocab_size:
            raise BuildError(
                f"the tokenizer has {tokenizer.vocab_size} tokens, the model embeddings for "
                f"{self.architecture.vocab_size}"
            )
        return tokenizer


def load_model(
    folder_or_hub_id: str,
    *,
    do_lower_case: bool = True,
    hidden_dropout_prob: float | None = None,
    attention_probs_dropout_prob: float | None = None,
) -> QaModel:
    """A model to train, from a folder or a hub id: of any family that `build` takes.

    A BERT becomes an ELECTRA of the same shape: with an embedding as wide as the hidden layers the
    two compute the same. A span head that is not there yet begins at random, from PyTorch's seed.
    Raises BuildError.
    """
    fetched = fetch(folder_or_hub_id)
    folder, source = fetched.folder, fetched.source
    fields = read_json(folder / CONFIG)
    family_of(fields.get("model_type"))
    try:
        config = AutoConfig.from_pretrained(folder)
        config.num_labels = 2  # start and end, whatever it was trained for before
        _set_dropout(config, "hidden_dropout_prob", hidden_dropout_prob)
        _set_dropout(config, "attention_probs_dropout_prob", attention_probs_dropout_prob)
        network, has_span_head = _load(folder, config)
    except BuildError:
        raise
    except Exception as error:  # whatever the readers of weights and Transformers raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BuildError(f"{source} can't be loaded: {reason}") from error
    family = family_of(network.config.model_type)
    architecture = architecture_of(network.config)
    head = family.stored_name("qa_outputs.weight").removesuffix(".weight")
    _keep_in_float32(network, head)
    tokenizer = read_tokenizer(folder, do_lower_case=do_lower_case)
    return QaModel(
        network,
        architecture,
        tokenizer,
        tokenizer_config(
            folder,
            tokenizer,
            do_lower_case=do_lower_case,
            model_max_length=architecture.max_position_embeddings,
            segments=architecture.type_vocab_size > 0,
        ),
        read_special_tokens(family, folder),
        has_span_head,
    )


def span_logits(
    model: QaModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    token_type_ids: torch.Tensor,
    autocast: Autocast,
) -> torch.Tensor:
    """float32 [windows, length, 2], of starts and ends, from int64 [windows, length].

    token_type_ids count where the model has segments.
    """
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    if model.architecture.type_vocab_size:
        inputs["token_type_ids"] = token_type_ids
    with torch.autocast(input_ids.device.type, AUTOCAST_DTYPES[autocast], enabled=autocast != "no"):
        output = model.network(**inputs)
    return torch.stack((output.start_logits, output.end_logits), dim=-1)


def _set_dropout(config: PreTrainedConfig, option: str, value: float | None) -> None:
    if value is None:
        return
    names = [name for name in DROPOUTS[option] if hasattr(config, name)]
    if not names:
        raise BuildError(f"{option}: a {config.model_type} has none of {DROPOUTS[option]}")
    for name in names:
        setattr(config, name, value)


def _load(folder: Path, config: PreTrainedConfig) -> tuple[PreTrainedModel, bool]:
    """(the network, whether its span head is in the files)."""
    # On a CPU the plain product of matrices is faster to train than fused attention; on a GPU
    # Transformers takes what the model has.
    attention = None if torch.cuda.is_available() else "eager"
    if is_pruned(config):
        network, has_span_head = _load_pruned(folder, config, attention), True
    else:
        network, has_span_head = _load_whole(folder, config, attention)
    if isinstance(network, BertForQuestionAnswering):
        return _as_electra(network, attention), has_span_head
    return network, has_span_head


def _load_whole(
    folder: Path, config: PreTrainedConfig, attention: str | None
) -> tuple[PreTrainedModel, bool]:
    network, report = AutoModelForQuestionAnswering.from_pretrained(
        folder,
        config=config,
        dtype=torch.float32,
        attn_implementation=attention,
        output_loading_info=True,
    )
    encoder = f"{network.base_model_prefix}."
    if lacking := sorted(name for name in report["missing_keys"] if name.startswith(encoder)):
        raise BuildError(f"the weights lack {lacking[0]}, which {CONFIG} asks for")
    assert isinstance(network, PreTrainedModel)
    return network, not report["missing_keys"]


def _load_pruned(folder: Path, config: PreTrainedConfig, attention: str | None) -> PreTrainedModel:
    """Transformers' classes know one width for all layers: the whole network is made first, made
    narrow, and given the weights then."""
    kept = first_ones(architecture_of(config))
    for name in (HEADS_BY_LAYER, INTERMEDIATE_BY_LAYER):
        setattr(config, name, None)  # the network that is made now is whole
    network: PreTrainedModel = AutoModelForQuestionAnswering.from_config(
        config, dtype=torch.float32, attn_implementation=attention
    )
    narrow(network, kept)
    stored = read_weights(folder)
    for name in network.state_dict():
        if name not in stored:
            raise BuildError(f"the weights lack {name}, which {CONFIG} asks for")
    network.load_state_dict({name: torch.tensor(tensor) for name, tensor in stored.items()})
    return network


def _as_electra(bert: BertForQuestionAnswering, attention: str | None) -> PreTrainedModel:
    shape = {name: getattr(bert.config, name) for name in SHARED}
    electra: ElectraForQuestionAnswering = ElectraForQuestionAnswering._from_config(
        ElectraConfig(embedding_size=bert.config.hidden_size, **shape),
        attn_implementation=attention,
        dtype=torch.float32,
    )
    if is_pruned(bert.config):
        narrow(electra, first_ones(architecture_of(bert.config)))
    weights = {
        name.replace("bert.", "electra.", 1): tensor for name, tensor in bert.state_dict().items()
    }
    electra.load_state_dict(weights)
    return electra


class _Float32Linear(torch.nn.Linear):
    """A span head under autocast: in bfloat16 logits lie 0.06 apart, and so would thresholds and
    scores."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return super().forward(hidden.float())


def _keep_in_float32(network: PreTrainedModel, head: str) -> None:
    linear = network.get_submodule(head)
    assert isinstance(linear, torch.nn.Linear)
    kept = _Float32Linear(linear.in_features, linear.out_features, device="meta")
    kept.weight, kept.bias = linear.weight, linear.bias
    network.set_submodule(head, kept)


def save_checkpoint(
    model: QaModel, output: Path, *, null_score_diff_threshold: float, half: bool
) -> None:
    """Write a checkpoint in Hugging Face's layout, in float32 or `half`; the model stays as it is.

    config.json carries `null_score_diff_threshold`, which `build` puts into the bundle.
    """
    network = model.network
    network.config.null_score_diff_threshold = null_score_diff_threshold
    weights = network.state_dict()
    if half:
        weights = {
            name: tensor.half() if tensor.is_floating_point() else tensor
            for name, tensor in weights.items()
        }
    network.save_pretrained(output, state_dict=weights)
    config = read_json(output / CONFIG)
    config["dtype"] = "float16" if half else "float32"
    (output / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    _save_tokenizer(model, output)


def _save_tokenizer(model: QaModel, output: Path) -> None:
    """tokenizer.json, tokenizer_config.json and, of BERT's kind of vocabulary, vocab.txt."""
    rust: RustTokenizer = RustTokenizer.from_str(model.tokenizer)
    rust.no_truncation()
    rust.no_padding()
    (output / "tokenizer.json").write_text(rust.to_str(), encoding="utf-8")
    (output / "tokenizer_config.json").write_text(
        json.dumps(model.tokenizer_config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    if json.loads(model.tokenizer)["model"]["type"] == "WordPiece":
        vocab = rust.get_vocab(with_added_tokens=True)
        (output / "vocab.txt").write_text(
            "".join(f"{token}\n" for token in sorted(vocab, key=vocab.__getitem__)),
            encoding="utf-8",
        )
