"""Where things are kept that can be had again."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache() -> Path:
    """This user's folder for it, which need not exist. Raises RuntimeError for one without a home,
    as in many containers."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "electra-qa"
