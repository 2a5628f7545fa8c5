"""Python's garbage collector, as a server wants it."""

from __future__ import annotations

import gc

# It looks after so many new objects that stay. With thousands of calls waiting Python's own 700
# costs as much as the batcher does.
COLLECT_AFTER = 10_000


def keep_what_is_there() -> None:
    """What a process that is ready holds stays: a full collection, which holds up everybody, passes
    it over from now on."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)
