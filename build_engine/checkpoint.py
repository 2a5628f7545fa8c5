"""Read a question-answering checkpoint: a folder in Hugging Face's layout, or a hub id."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file
from tokenizers import BertWordPieceTokenizer

from electra_qa.bundle import sha256_of

from .errors import BuildError

FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
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
    sha256: of `model.safetensors`, hexadecimal.
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


def load_checkpoint(folder_or_hub_id: str, tokenizer: str | None = None) -> Checkpoint:
    """Load a checkpoint for question answering of ELECTRA's or BERT's shape.

    A path that exists is a folder; anything else is fetched from the Hugging Face hub. `tokenizer`
    is another such name, whose tokenizer takes the place of the checkpoint's own. Raises
    BuildError where it is not there, is not for question answering, or has another shape.
    """
    folder, source = checkpoint_folder(folder_or_hub_id)
    config = _read_json(folder / "config.json")
    architecture = _architecture(config)
    weights_file = folder / "model.safetensors"
    if not weights_file.is_file():
        raise BuildError(
            f"{source} has no model.safetensors; pickled weights (pytorch_model.bin) are not read. "
            "Convert them once with Transformers: model.save_pretrained(folder)"
        )
    words = folder if tokenizer is None else checkpoint_folder(tokenizer)[0]
    return Checkpoint(
        source=source,
        sha256=sha256_of(weights_file),
        architecture=architecture,
        weights=_load_weights(weights_file, architecture),
        tokenizer=read_tokenizer(words),
        do_lower_case=_do_lower_case(words),
        null_score_diff_threshold=_number(config, "null_score_diff_threshold", 0.0),
    )


def checkpoint_folder(folder_or_hub_id: str, files: Sequence[str] = FILES) -> tuple[Path, str]:
    """(where its files are, what to call it). Raises BuildError.

    A path that exists is a folder; of anything else `files` are fetched from the hub.
    """
    folder = Path(folder_or_hub_id)
    if folder.is_dir():
        return folder, folder.resolve().name
    return _download(folder_or_hub_id, files), folder_or_hub_id


def _download(hub_id: str, files: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(files)))
    except HFValidationError as error:
        raise BuildError(f"{hub_id}: no such folder, and not a hub id") from error
    except Exception as error:  # the hub's client raises its own, httpx's and OSError
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BuildError(
            f"{hub_id}: no such folder, and not fetched from the hub: {reason}"
        ) from error


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


def _load_weights(path: Path, architecture: Architecture) -> Weights:
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise BuildError(f"{path.name} can't be read: {error}") from error
    prefix = architecture.model_type + "."
    weights = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    if "qa_outputs.weight" not in weights:
        raise BuildError(
            "the checkpoint has no span head (qa_outputs.weight): it is not fine-tuned for "
            "question answering"
        )
    shapes = _shapes(architecture)
    for name, shape in shapes.items():
        if name not in weights:
            raise BuildError(f"{path.name} lacks {name}, which config.json asks for")
        if weights[name].shape != shape:
            raise BuildError(
                f"{name} has the shape {list(weights[name].shape)}, by config.json it should be "
                f"{list(shape)}"
            )
    if f"encoder.layer.{architecture.num_hidden_layers}.output.dense.weight" in weights:
        raise BuildError(
            f"{path.name} has more layers than the {architecture.num_hidden_layers} of config.json"
        )
    return {name: _float(name, weights[name]) for name in shapes}


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


def _float(name: str, tensor: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if not np.isfinite(tensor.astype(np.float32)).all():
        raise BuildError(f"{name} holds values that are not finite")
    return tensor if tensor.dtype == np.float16 else tensor.astype(np.float32)


def read_tokenizer(folder: Path, *, do_lower_case: bool = True) -> str:
    """The content of `tokenizer.json`, or of one made from `vocab.txt`. Raises BuildError.

    do_lower_case: of one made from `vocab.txt` where no `tokenizer_config.json` says it.
    """
    serialized, vocab = folder / "tokenizer.json", folder / "vocab.txt"
    try:
        if serialized.is_file():
            return serialized.read_text(encoding="utf-8")
        if vocab.is_file():
            lowercase = _do_lower_case(folder, do_lower_case)
            made = BertWordPieceTokenizer(str(vocab), lowercase=lowercase)
            return str(made.to_str())
    except BuildError:
        raise
    except Exception as error:  # tokenizers raises bare Exception, and TypeError without [SEP]
        name = serialized.name if serialized.is_file() else vocab.name
        raise BuildError(f"{name} can't be read: {error}") from error
    raise BuildError("the checkpoint has neither tokenizer.json nor vocab.txt")


def _do_lower_case(folder: Path, default: bool = True) -> bool:
    path = folder / "tokenizer_config.json"
    return bool(_read_json(path).get("do_lower_case", default)) if path.is_file() else default
