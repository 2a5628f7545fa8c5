"""One module for each `model_type` of `config.json`, with dashes as underscores.

A family says how an encoder differs from BERT's: names and defaults of its config, names of its
weights, embeddings, positions, attention, special tokens. Graph, decode, quantizer, checker and
windows know none by name. A new module with an object `family` in it is a new family.
"""

from __future__ import annotations

import importlib
import pkgutil

from ..errors import BuildError
from .bert import Bert


def model_types() -> list[str]:
    """Those that can be built, as `config.json` has them."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def family_of(model_type: object) -> Bert:
    """Raises BuildError, naming those that there are, for any other."""
    name = str(model_type).replace("_", "-")
    if name not in model_types():
        raise BuildError(
            f"model_type is {model_type!r}; this build takes {', '.join(model_types())}"
        )
    family = importlib.import_module(f".{name.replace('-', '_')}", __package__).family
    if not isinstance(family, Bert):
        raise TypeError(f"families/{name}: family is not a family")
    return family
