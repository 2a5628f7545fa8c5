"""Read a question-answering checkpoint: a folder in Hugging Face's layout, or a hub id."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import BuildError
from .hub import fetch
from .tokenizer_files import read_tokenizer
from .weights import WeightFiles, read_weights

MODEL_TYPES = ("electra", "bert")
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu")

Weights = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Architecture:
    """The shape of the encoder, with the names of Transformers' `config.json`."""

    model_type: str
    vocab_size: int
    embedding_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    hidden_act: str
    layer_norm_eps: float


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A fine-tuned encoder with a span head.

    source: the folder's name or the hub id, as given.
    sha256: of the weights, hexadecimal, see `WeightFiles`.
    weights: by their names in Transformers, without the leading "electra." or "bert.".
    tokenizer: the content of a `tokenizer.json`.
    null_score_diff_threshold: what `finetune` chose on held-out data, else 0.
    """

    source: str
    sha256: str
    architecture: Architecture
    weights: Weights
    tokenizer: str
    do_lower_case: bool
    null_score_diff_threshold: float


def load_checkpoint(folder_or_hub_id: str) -> Checkpoint:
    """Load a checkpoint for question answering of ELECTRA's or BERT's shape.

    A path that exists is a folder; anything else is fetched from the Hugging Face hub. Raises
    BuildError where it is not there, is not for question answering, or has another shape.
    """
    fetched = fetch(folder_or_hub_id)
    folder = fetched.folder
    config = _read_json(folder / "config.json")
    architecture = _architecture(config)
    weights = read_weights(folder)
    return Checkpoint(
        source=fetched.source,
        sha256=weights.sha256,
        architecture=architecture,
        weights=_load_weights(weights, architecture),
        tokenizer=read_tokenizer(folder),
        do_lower_case=_do_lower_case(folder),
        null_score_diff_threshold=_number(config, "null_score_diff_threshold", 0.0),
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BuildError(f"{path.name} can't be read: {error.strerror}") from error
    except ValueError as error:
        raise BuildError(f"{path.name} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise BuildError(f"{path.name} holds no JSON object")
    return content


def _number(config: dict[str, Any], name: str, default: float) -> float:
    value = config.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        raise BuildError(f"config.json: {name} is not a number: {value!r}")
    return float(value)


def _size(config: dict[str, Any], name: str) -> int:
    if name not in config:
        raise BuildError(f"config.json lacks {name!r}")
    value = config[name]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise BuildError(f"config.json: {name} is not a whole number over 0: {value!r}")
    return value


def _architecture(config: dict[str, Any]) -> Architecture:
    model_type = config.get("model_type")
    if model_type not in MODEL_TYPES:
        raise BuildError(
            f"model_type is {model_type!r}; this build takes {' and '.join(MODEL_TYPES)}"
        )
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise BuildError("position_embedding_type must be 'absolute'")
    if config.get("type_vocab_size", 2) != 2:
        raise BuildError(f"type_vocab_size must be 2, got {config['type_vocab_size']}")
    hidden_act = config.get("hidden_act", "gelu")
    if hidden_act not in ACTIVATIONS:
        raise BuildError(f"hidden_act is {hidden_act!r}; this build takes {', '.join(ACTIVATIONS)}")
    hidden_size, heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
    if hidden_size % heads:
        raise BuildError(
            f"num_attention_heads must divide hidden_size ({hidden_size}), got {heads}"
        )
    return Architecture(
        model_type=model_type,
        vocab_size=_size(config, "vocab_size"),
        embedding_size=_size({"embedding_size": hidden_size} | config, "embedding_size"),
        hidden_size=hidden_size,
        num_hidden_layers=_size(config, "num_hidden_layers"),
        num_attention_heads=heads,
        intermediate_size=_size(config, "intermediate_size"),
        max_position_embeddings=_size(config, "max_position_embeddings"),
        hidden_act=hidden_act,
        layer_norm_eps=_number(config, "layer_norm_eps", 1e-12),
    )


def _load_weights(files: WeightFiles, architecture: Architecture) -> Weights:
    prefix = architecture.model_type + "."
    weights = {name.removeprefix(prefix): name for name in files}
    if "qa_outputs.weight" not in weights:
        raise BuildError(
            "the checkpoint has no span head (qa_outputs.weight): it is not fine-tuned for "
            "question answering"
        )
    shapes = _shapes(architecture)
    for name in shapes:
        if name not in weights:
            raise BuildError(f"the weights lack {name}, which config.json asks for")
    if f"encoder.layer.{architecture.num_hidden_layers}.output.dense.weight" in weights:
        raise BuildError(
            f"the weights have more layers than the {architecture.num_hidden_layers} of config.json"
        )
    return {name: _float(name, shape, files[weights[name]]) for name, shape in shapes.items()}


def _shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """The tensors of an encoder with a span head, with their shapes."""
    embedding, hidden = architecture.embedding_size, architecture.hidden_size
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (architecture.vocab_size, embedding),
        "embeddings.position_embeddings.weight": (architecture.max_position_embeddings, embedding),
        "embeddings.token_type_embeddings.weight": (2, embedding),
        **_norm("embeddings.LayerNorm", embedding),
        **_linear("qa_outputs", hidden, 2),
    }
    if embedding != hidden:
        shapes |= _linear("embeddings_project", embedding, hidden)
    for index in range(architecture.num_hidden_layers):
        layer = f"encoder.layer.{index}"
        for part in ("query", "key", "value"):
            shapes |= _linear(f"{layer}.attention.self.{part}", hidden, hidden)
        shapes |= _linear(f"{layer}.attention.output.dense", hidden, hidden)
        shapes |= _norm(f"{layer}.attention.output.LayerNorm", hidden)
        shapes |= _linear(f"{layer}.intermediate.dense", hidden, architecture.intermediate_size)
        shapes |= _linear(f"{layer}.output.dense", architecture.intermediate_size, hidden)
        shapes |= _norm(f"{layer}.output.LayerNorm", hidden)
    return shapes


def _linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, size: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def _float(name: str, shape: tuple[int, ...], tensor: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if tensor.shape != shape:
        raise BuildError(
            f"{name} has the shape {list(tensor.shape)}, by config.json it should be {list(shape)}"
        )
    if not np.isfinite(tensor.astype(np.float32)).all():
        raise BuildError(f"{name} holds values that are not finite")
    return tensor if tensor.dtype == np.float16 else tensor.astype(np.float32)


def _do_lower_case(folder: Path, default: bool = True) -> bool:
    path = folder / "tokenizer_config.json"
    return bool(_read_json(path).get("do_lower_case", default)) if path.is_file() else default
