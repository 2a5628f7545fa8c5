"""A tokenizer.json is loaded and tried in a process of its own first, which may die of it.

Where memory runs out, the Rust library ends its process; and a tokenizer.json may ask for any
amount, since its normalizer may put a text of any length in the place of a letter.
"""

from __future__ import annotations

import hashlib
import json
import math
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

# Over what the process has when the trial begins, in bytes.
MEMORY = 2 * 2**30
CPU_S = 60
# How many times longer than the text its normal form may be. Unicode's own forms (NFKD) make at
# the most 18 characters of one, in a text of all of them less than 2.
GROWTH = 16
CHUNK = 2048
# The planes of Unicode that have characters in them.
PLANES = (range(0x40000), range(0xE0000, 0xE1000))
# The same for what replacements of whole words may make, all of them together.
REPLACEMENTS = 256
REFUSED = 2

COMMAND = ["-m", "electra_qa.server.front.tokenizer_trial"]

_passed: set[str] = set()


def try_tokenizer(content: str) -> None:
    """Raises ValueError where the content of a tokenizer.json is none, or can't be trusted.

    What has passed is not tried again.
    """
    digest = hashlib.sha256(content.encode()).hexdigest()
    if digest in _passed:
        return
    try:
        done = subprocess.run(
            [sys.executable, "-P", *COMMAND],
            input=content.encode(),
            capture_output=True,
            timeout=2 * CPU_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError("the tokenizer.json takes too long to load and try") from error
    if done.returncode == REFUSED:
        raise ValueError(done.stdout.decode())
    if done.returncode:
        raise ValueError(
            "the tokenizer.json ended the process that tried it: it takes too much memory or time"
        )
    _passed.add(digest)


def check(content: str) -> None:
    """Encode every character of Unicode. Raises ValueError; may end the process."""
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not a tokenizer.json: {error}") from error
    if (factor := math.prod(_replacements(parsed))) > REPLACEMENTS:
        raise ValueError(f"the replacements of tokenizer.json make texts {factor} times longer")
    try:
        tokenizer = Tokenizer.from_str(content)
    except Exception as error:  # tokenizers raises bare Exception
        raise ValueError(f"not a tokenizer.json: {error}") from error
    normalizer = tokenizer.normalizer
    for first in (first for plane in PLANES for first in plane[::CHUNK]):
        codes = range(first, first + CHUNK)
        text = "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)
        length = len(text if normalizer is None else normalizer.normalize_str(text))
        if length > GROWTH * max(len(text), CHUNK):
            raise ValueError(f"the normalizer of tokenizer.json makes {length} of {CHUNK} letters")
        if first < 0x3000:  # all but the large sets, which cost most
            tokenizer.encode(text, add_special_tokens=False)


def _replacements(part: Any) -> Iterator[int]:
    """By how much each replacement may make a text longer."""
    if isinstance(part, dict):
        if part.get("type") == "Replace":
            length = len(str(part.get("content", "")))
            is_text = bool(isinstance(p := part.get("pattern"), dict) and p.get("String"))
            # A regular expression may match between any two letters.
            yield max(1, length) if is_text else 1 + length
        part = list(part.values())
    if isinstance(part, list):
        for one in part:
            yield from _replacements(one)


def main() -> None:
    """Exits with REFUSED and the reason on standard output, or dies."""
    content = sys.stdin.buffer.read().decode()
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        check(content)
    except ValueError as error:
        sys.stdout.write(str(error))
        sys.exit(REFUSED)


if __name__ == "__main__":
    main()
