"""Read a question-answering checkpoint: a folder in Hugging Face's layout, or a hub id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from tokenizers import BertWordPieceTokenizer

from electra_qa.bundle import sha256_of
from electra_qa.tokenization import SpecialTokens

from .architecture import Architecture
from .config import CONFIG, Config, read_json
from .errors import BuildError
from .families import family_of
from .families.bert import Bert
from .writer import Weights

FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A fine-tuned encoder with a span head.

    source: the folder's name or the hub id, as given.
    sha256: of its weights, hexadecimal.
    weights: by our names, see `families/bert.py`; read when they are asked for.
    tokenizer: the content of a `tokenizer.json`.
    null_score_diff_threshold: what `finetune` chose on held-out data, else 0.
    """

    source: str
    sha256: str
    architecture: Architecture
    weights: Weights
    tokenizer: str
    special_tokens: SpecialTokens
    null_score_diff_threshold: float

    @property
    def family(self) -> Bert:
        return family_of(self.architecture.model_type)


def load_checkpoint(folder_or_hub_id: str) -> Checkpoint:
    """Load a checkpoint for question answering of one of the families.

    A path that exists is a folder; anything else is fetched from the Hugging Face hub. Raises
    BuildError where it is not there, is not for question answering, or has another shape.
    """
    folder, source = checkpoint_folder(folder_or_hub_id)
    fields = read_json(folder / CONFIG)
    family = family_of(fields.get("model_type"))
    config = Config(fields, {**family.defaults, "null_score_diff_threshold": 0.0})
    architecture = family.architecture(config)
    weights_file = folder / "model.safetensors"
    if not weights_file.is_file():
        raise BuildError(
            f"{source} has no model.safetensors; pickled weights (pytorch_model.bin) are not read. "
            "Convert them once with Transformers: model.save_pretrained(folder)"
        )
    try:
        stored = _LazyTensors(weights_file)
    except (SafetensorError, OSError) as error:
        raise BuildError(f"{weights_file.name} can't be read: {error}") from error
    return Checkpoint(
        source=source,
        sha256=sha256_of(weights_file),
        architecture=architecture,
        weights=_OurWeights(stored, family, architecture),
        tokenizer=read_tokenizer(folder),
        special_tokens=family.special_tokens,
        null_score_diff_threshold=config.number("null_score_diff_threshold"),
    )


class _LazyTensors(Mapping[str, npt.NDArray[Any]]):
    """Those of a safetensors file, each read when it is asked for."""

    def __init__(self, path: Path) -> None:
        self._file = cast(Any, safe_open(path, framework="numpy"))  # whose methods have no types
        self._names = list(self._file.keys())

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        tensor: npt.NDArray[Any] = self._file.get_tensor(name)
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class _OurWeights(Mapping[str, npt.NDArray[Any]]):
    """The tensors of a checkpoint by our names, read and converted when they are asked for.

    All of them are there, have the shapes that config.json gives them, and are finite: making one
    raises BuildError else.
    """

    def __init__(self, stored: Weights, family: Bert, architecture: Architecture) -> None:
        self._stored = _Stored(stored, family.prefix)
        self._family = family
        self._architecture = architecture
        self._shapes = family.shapes(architecture)
        head = family.stored_name("qa_outputs.weight")
        if head not in self._stored:
            raise BuildError(
                f"the checkpoint has no span head ({head}): it is not fine-tuned for question "
                "answering"
            )
        for name, shape in self._shapes.items():
            tensor = self[name]
            if tensor.shape != shape:
                raise BuildError(
                    f"{name} has the shape {list(tensor.shape)}, by config.json it should be "
                    f"{list(shape)}"
                )
            if not np.isfinite(tensor).all():
                raise BuildError(f"{name} holds values that are not finite")
        self._refuse_more_layers()

    def _refuse_more_layers(self) -> None:
        layers = self._architecture.num_hidden_layers
        after = self._family.stored_name(f"encoder.layer.{layers}.output.dense.weight")
        if after in self._stored:
            raise BuildError(f"the checkpoint has more layers than the {layers} of config.json")

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        if name not in self._shapes:
            raise KeyError(name)
        tensor = self._family.read(name, self._stored, self._architecture)
        return tensor if tensor.dtype == np.float16 else tensor.astype(np.float32, copy=False)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


class _Stored(Mapping[str, npt.NDArray[Any]]):
    """The tensors of the file without the family's prefix. Raises BuildError for what it lacks."""

    def __init__(self, tensors: Weights, prefix: str) -> None:
        self._tensors = tensors
        self._prefix = prefix

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        for stored in (self._prefix + name, name):
            if stored in self._tensors:
                return self._tensors[stored]
        raise BuildError(f"the weights lack {name}, which config.json asks for")

    def __contains__(self, name: object) -> bool:
        return f"{self._prefix}{name}" in self._tensors or name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return (name.removeprefix(self._prefix) for name in self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


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
    return bool(read_json(path).get("do_lower_case", default)) if path.is_file() else default
