"""Read a question-answering checkpoint: a folder in Hugging Face's layout, or a hub id."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from electra_qa.tokenization import SpecialTokens

from .architecture import Architecture
from .config import CONFIG, Config, read_json
from .errors import BuildError
from .families import family_of
from .families.bert import Bert
from .hub import fetch
from .tokenizer_files import read_tokenizer, special_token_names
from .weights import read_weights
from .writer import Weights


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A fine-tuned encoder with a span head.

    source: the folder's name or the hub id, as given.
    sha256: of its weights, hexadecimal, see `WeightFiles`.
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


def load_checkpoint(folder_or_hub_id: str, tokenizer: str | None = None) -> Checkpoint:
    """Load a checkpoint for question answering of one of the families.

    A path that exists is a folder; anything else is fetched from the Hugging Face hub, see `fetch`.
    `tokenizer` is another such name, whose tokenizer takes the place of the checkpoint's own.
    Raises BuildError where it is not there, is not for question answering, or has another shape.
    """
    fetched = fetch(folder_or_hub_id)
    fields = read_json(fetched.folder / CONFIG)
    family = family_of(fields.get("model_type"))
    config = Config(fields, {**family.defaults, "null_score_diff_threshold": 0.0})
    architecture = family.architecture(config)
    stored = read_weights(fetched.folder)
    words = fetched.folder if tokenizer is None else fetch(tokenizer, weights=False).folder
    return Checkpoint(
        source=fetched.source,
        sha256=stored.sha256,
        architecture=architecture,
        weights=_OurWeights(stored, family, architecture),
        tokenizer=read_tokenizer(words),
        special_tokens=read_special_tokens(family, words),
        null_score_diff_threshold=config.number("null_score_diff_threshold"),
    )


def read_special_tokens(family: Bert, folder: Path) -> SpecialTokens:
    """As the checkpoint names them, else as its family does."""
    names = {**dataclasses.asdict(family.special_tokens), **special_token_names(folder)}
    return SpecialTokens(**names)


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
