"""Networks whose layers have fewer heads and neurons than their config's whole ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import prune_linear_layer

from ..architecture import HEADS_BY_LAYER, INTERMEDIATE_BY_LAYER, Architecture
from ..config import Config
from ..families import family_of

Indices = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Kept:
    """The heads and the feed-forward neurons that each layer keeps of those that it has."""

    heads: Indices
    neurons: Indices


@dataclass(frozen=True, slots=True)
class LayerNames:
    """Of a layer's linear modules in a network of Transformers'."""

    projections: tuple[str, ...]
    attention_output: str
    intermediate: tuple[str, ...]
    output: str


def architecture_of(config: PreTrainedConfig) -> Architecture:
    """Raises BuildError."""
    # `architectures` is of what the encoder was trained for before.
    fields = {k: v for k, v in config.to_dict().items() if k != "architectures"}
    family = family_of(config.model_type)
    return family.architecture(Config(fields, family.defaults))


def is_pruned(config: PreTrainedConfig) -> bool:
    return any(getattr(config, name, None) for name in (HEADS_BY_LAYER, INTERMEDIATE_BY_LAYER))


def layer_names(architecture: Architecture) -> list[LayerNames]:
    """Of the families that can be narrowed, in the order of the layers."""
    family = family_of(architecture.model_type)

    def stored(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(family.prefix + family.stored_name(name) for name in names)

    found = []
    for layer in family.layer_names(architecture):
        projections, (attention_output,), intermediate, (output,) = map(stored, family.sites(layer))
        found.append(LayerNames(projections, attention_output, intermediate, output))
    return found


def first_ones(architecture: Architecture) -> Kept:
    """As many as the architecture has, whichever: to be followed by their weights."""
    return Kept(
        tuple(tuple(range(heads)) for heads in architecture.attention_heads_by_layer),
        tuple(tuple(range(size)) for size in architecture.intermediate_size_by_layer),
    )


def narrow(network: PreTrainedModel, kept: Kept) -> None:
    """Leave of a network what is kept; its config says how much that is, layer by layer.

    Of a family that `narrows`: Transformers' attentions count their heads by what they are given.
    """
    architecture = architecture_of(network.config)
    size = architecture.head_size
    layers = zip(layer_names(architecture), kept.heads, kept.neurons, strict=True)
    for names, heads, neurons in layers:
        columns = [head * size + place for head in heads for place in range(size)]
        for name in names.projections:
            _select(network, name, columns, dim=0)
        _select(network, names.attention_output, columns, dim=1)
        for name in names.intermediate:
            _select(network, name, neurons, dim=0)
        _select(network, names.output, neurons, dim=1)
    setattr(network.config, HEADS_BY_LAYER, [len(heads) for heads in kept.heads])
    setattr(network.config, INTERMEDIATE_BY_LAYER, [len(neurons) for neurons in kept.neurons])


def _select(network: PreTrainedModel, name: str, places: Sequence[int], *, dim: int) -> None:
    """dim: 0 for the outputs of a linear layer, 1 for its inputs."""
    linear = network.get_submodule(name)
    assert isinstance(linear, torch.nn.Linear)
    with torch.no_grad():
        network.set_submodule(name, prune_linear_layer(linear, torch.LongTensor(list(places)), dim))
