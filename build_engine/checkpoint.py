"""Read a question-answering checkpoint: a folder in Hugging Face's layout, or a hub id."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file

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


def load_checkpoint(folder_or_hub_id: str) -> Checkpoint:
    """Load a checkpoint for question answering of ELECTRA's or BERT's shape.

    A path that exists is a folder; anything else is fetched from the Hugging Face hub. Raises
    BuildError where it is not there, is not for question answering, or has another shape.
    """
    folder = Path(folder_or_hub_id)
    if folder.is_dir():
        source = folder.resolve().name
    else:
        folder, source = _download(folder_or_hub_id), folder_or_hub_id
    config = _read_json(folder / "config.json")
    architecture = _architecture(config)
    weights_file = folder / "model.safetensors"
    if not weights_file.is_file():
        raise BuildError(
            f"{source} has no model.safetensors; pickled weights (pytorch_model.bin) are not read. "
            "Convert them once with Transformers: model.save_pretrained(folder)"
        )
    return Checkpoint(
        source=source,
        sha256=hashlib.sha256(weights_file.read_bytes()).hexdigest(),
        architecture=architecture,
        weights=_load_weights(weights_file, architecture),
        tokenizer=_tokenizer(folder),
        do_lower_case=_do_lower_case(folder),
        null_score_diff_threshold=float(config.get("null_score_diff_threshold", 0.0)),
    )


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(FILES)))
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
    try:
        return Architecture(
            model_type=model_type,
            vocab_size=config["vocab_size"],
            embedding_size=config.get("embedding_size", config["hidden_size"]),
            hidden_size=config["hidden_size"],
            num_hidden_layers=config["num_hidden_layers"],
            num_attention_heads=config["num_attention_heads"],
            intermediate_size=config["intermediate_size"],
            max_position_embeddings=config["max_position_embeddings"],
            hidden_act=hidden_act,
            layer_norm_eps=config.get("layer_norm_eps", 1e-12),
        )
    except KeyError as error:
        raise BuildError(f"config.json lacks {error}") from error


def _load_weights(path: Path, architecture: Architecture) -> Weights:
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise BuildError(f"{path.name} can't be read: {error}") from error
    prefix = architecture.model_type + "."
    weights = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    head = weights.get("qa_outputs.weight")
    if head is None or head.shape != (2, architecture.hidden_size):
        raise BuildError(
            "the checkpoint has no span head (qa_outputs.weight of shape "
            f"[2, {architecture.hidden_size}]): it is not fine-tuned for question answering"
        )
    return {name: _float(name, tensor) for name, tensor in weights.items()}


def _float(name: str, tensor: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if tensor.dtype.kind != "f" and tensor.dtype.name != "bfloat16":
        return tensor
    if not np.isfinite(tensor.astype(np.float32)).all():
        raise BuildError(f"{name} holds values that are not finite")
    return tensor if tensor.dtype == np.float16 else tensor.astype(np.float32)


def _tokenizer(folder: Path) -> str:
    """The `tokenizer.json`, or one made from `vocab.txt` by Transformers, if that is installed."""
    serialized = folder / "tokenizer.json"
    if serialized.is_file():
        return serialized.read_text(encoding="utf-8")
    if not (folder / "vocab.txt").is_file():
        raise BuildError("the checkpoint has neither tokenizer.json nor vocab.txt")
    from tokenizers import BertWordPieceTokenizer

    return str(
        BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=_do_lower_case(folder)).to_str()
    )


def _do_lower_case(folder: Path) -> bool:
    path = folder / "tokenizer_config.json"
    return bool(_read_json(path).get("do_lower_case", True)) if path.is_file() else True
