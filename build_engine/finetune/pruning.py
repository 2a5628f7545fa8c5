"""Take out of a trained model what matters least, for the training to make up for it.

Whole heads and whole neurons go, so that what is left are dense, narrower matrices: McCarley et
al. (2019), "Structured Pruning of a BERT-based Question Answering Model". Which ones is decided at
once, by their gradients, before the training; Lagunas et al. (2021), "Block Pruning For Faster
Transformers", learn it, which takes many more steps.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from electra_qa.files import written_whole

from ..errors import BuildError
from ..families import family_of
from .data import Feature
from .importance import Importance, importance
from .model import QaModel
from .narrowing import Kept, architecture_of, narrow
from .settings import FinetuneSettings
from .state import KEPT
from .widths import most_important

# Widths that the matrix products of every engine are good at.
MULTIPLE = 64


def check_prunable(model: QaModel) -> None:
    """Raises BuildError."""
    model_type = model.architecture.model_type
    if not family_of(model_type).narrows:
        raise BuildError(f"keep_intermediate and keep_heads: a {model_type} can't be pruned")
    if not model.has_span_head:
        raise BuildError(
            "keep_intermediate and keep_heads: the model is not fine-tuned for question answering, "
            "so nothing tells what of it matters"
        )


def prune(
    model: QaModel,
    features: Sequence[Feature],
    settings: FinetuneSettings,
    output: Path,
    console: Console,
    *,
    multiple: int = MULTIPLE,
) -> QaModel:
    """The model without what `keep_intermediate` and `keep_heads` leave out; its network changes.

    Shares are of what the model has, over all layers. What is kept is noted in the folder `output`
    for a run that is resumed. multiple: of it are a layer's neurons, and the width of its attention
    as far as the size of a head allows.
    """
    file = output / KEPT
    if file.is_file():
        noted = json.loads(file.read_text(encoding="utf-8"))
        kept = Kept(*(tuple(map(tuple, noted[name])) for name in ("heads", "neurons")))
    else:
        pad_id = model.make_tokenizer().pad_id
        found = importance(model, features, pad_id, settings, console)
        kept = choose(found, settings, model.architecture.head_size, multiple)
        with written_whole(file) as unfinished:
            unfinished.write_text(json.dumps(dataclasses.asdict(kept)), encoding="utf-8")
    narrow(model.network, kept)
    architecture = architecture_of(model.network.config)
    for what, widths in (
        ("heads", architecture.attention_heads_by_layer),
        ("feed-forward neurons", architecture.intermediate_size_by_layer),
    ):
        console.print(f"{what} kept: {', '.join(map(str, widths))}", highlight=False)
    return dataclasses.replace(model, architecture=architecture)


def choose(found: Importance, settings: FinetuneSettings, head_size: int, multiple: int) -> Kept:
    """multiple: as of `prune`."""
    heads = multiple // math.gcd(multiple, head_size)
    return Kept(
        most_important(found.heads, settings.keep_heads, heads),
        most_important(found.neurons, settings.keep_intermediate, multiple),
    )
