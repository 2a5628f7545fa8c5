"""A bundle and its engine, from what a command says."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from electra_qa.bundle import Bundle, load_bundle
from electra_qa.engines import Engine, EngineSettings, load_engine
from electra_qa.model_options import ModelChoice

log = logging.getLogger(__name__)


def find_and_load(choice: ModelChoice, settings: EngineSettings) -> tuple[Bundle, Engine]:
    """A model is looked up again, and built again where it has changed. Raises BundleError or
    EngineError."""
    if choice.model is not None:
        log.info("looking for a bundle of %s; it may have to be built", choice.model)
    # What a build says is for who watches, and no lines of this log.
    return load(choice.path(settings.device, progress=sys.stderr.isatty()), settings)


def load(path: Path, settings: EngineSettings) -> tuple[Bundle, Engine]:
    """Raises BundleError or EngineError."""
    # Where the path is a link, it may be changed at any time: one load, one folder.
    bundle = load_bundle(path.resolve())
    return bundle, load_engine(bundle, settings)
