"""Run the engine once for every length that is to come, before the first caller pays for it.

An engine prepares kernels for a length when it first sees it: some 10 ms each on a CPU.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from electra_qa.engines import Engine, bucket
from electra_qa.tokenization import Tokenizer
from electra_qa.windows import Window, WindowBatch


def parse_lengths(text: str, longest: int) -> list[int]:
    """The lengths that `all`, `none`, or a list like `64-128,384` stands for, none over `longest`.

    Raises ValueError.
    """
    if text == "all":
        return list(range(1, longest + 1))
    lengths: set[int] = set()
    for part in text.split(",") if text != "none" else ():
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if match is None:
            raise ValueError(
                f"warm_up_lengths must be all, none, or a list like 64-128,384, got {text!r}"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if not 1 <= first <= last <= longest:
            raise ValueError(f"warm_up_lengths must be 1 to {longest} and rise, got {part.strip()}")
        lengths.update(range(first, last + 1))
    return sorted(lengths)


def warm_up(engine: Engine, tokenizer: Tokenizer, lengths: list[int]) -> None:
    """One window for each bucket of these lengths, alone and in all slots at a time, which may be
    other kernels; at the least one, so that an engine that can't run fails at the start. Raises
    EngineError."""
    with ThreadPoolExecutor(engine.slots) as side_by_side:
        for length in sorted({bucket(engine.buckets, n) for n in lengths}) or engine.buckets[:1]:
            ids = np.full(length, tokenizer.pad_id, dtype=np.int32)
            window = Window(ids, 1, length - 1, 1, length - 1, 0)
            batch = WindowBatch.pad([window], [1], length=length, pad_id=tokenizer.pad_id)
            engine.run(batch)
            list(side_by_side.map(engine.run, [batch] * engine.slots))
