"""What the inputs of linear layers look like on real questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from electra_qa.engines import batches_by_length, steps
from electra_qa.squad import SquadQuestion, read_squad
from electra_qa.tokenization import Tokenizer
from electra_qa.windows import Window, WindowBatch, WindowSettings, make_windows

from .checkpoint import Checkpoint
from .parts import Floats, Part, embeddings_part, layer_part
from .quantization import Observed, sites

SAMPLED_TOKENS = 8192
# Ours, in many registers and languages, so that int8 needs no file of the user's.
BUILT_IN = Path(__file__).with_name("calibration_set.json")
# How windows are run: a new shape costs every part a kernel, padding and larger batches the time
# and the memory for more tokens.
LENGTH_STEP = 32
BATCH_TOKENS = 1024


def calibration_windows(
    files: Sequence[Path], tokenizer: Tokenizer, settings: WindowSettings, count: int, seed: int = 0
) -> list[Window]:
    """`count` windows of questions drawn from SQuAD files, the same ones for the same seed.

    Raises SquadError.
    """
    questions = [question for file in files for question in read_squad(file)]
    drawn = np.random.default_rng(seed).permutation(len(questions))[:count]
    windows = [w for i in drawn for w in _windows(questions[i], tokenizer, settings)]
    return windows[:count]


def _windows(
    question: SquadQuestion, tokenizer: Tokenizer, settings: WindowSettings
) -> list[Window]:
    return make_windows(
        tokenizer.question(question.question),
        tokenizer.context(question.context).ids,
        settings=settings,
        cls_id=tokenizer.cls_id,
        sep_id=tokenizer.sep_id,
    )


@dataclass(slots=True)
class _Batch:
    """Windows on their way through the encoder.

    hidden: float32 [windows, length, size], the output of the part before.
    chosen: the tokens of each window that are sampled.
    """

    windows: list[Window]
    places: list[int]
    bounds: npt.NDArray[np.int32]
    hidden: Floats
    chosen: list[npt.NDArray[np.int64]]


def observe(
    checkpoint: Checkpoint, windows: Sequence[Window], on_window: Callable[[], None], seed: int = 0
) -> Iterator[tuple[str | None, dict[str, Observed]]]:
    """Run the encoder in float32, layer by layer, and watch the inputs of its linear layers.

    Yields the name of each layer (None for what comes before the first) once all that have this
    name are through, and what was seen of its sites, by the first linear layer of each. Whoever
    lets go of that before the next holds one layer's only.

    on_window: called once a window is through a part; a model has one part more than layers.
    """
    family, architecture = checkpoint.family, checkpoint.architecture
    batches = _batches(checkpoint, windows, seed)
    groups = sites(checkpoint, None)
    watch = _Watch(groups, uses=1)
    watch.run(embeddings_part(checkpoint, groups), batches, on_window)
    yield None, watch.seen()
    names = [family.layer_name(architecture, i) for i in range(architecture.num_hidden_layers)]
    uses = Counter(names)
    watches: dict[str, _Watch] = {}
    for index, name in enumerate(names):
        groups = sites(checkpoint, name)
        watch = watches.setdefault(name, _Watch(groups, uses[name]))
        watch.run(layer_part(checkpoint, index, groups), batches, on_window)
        if name not in names[index + 1 :]:
            yield name, watches.pop(name).seen()


def _batches(checkpoint: Checkpoint, windows: Sequence[Window], seed: int) -> list[_Batch]:
    random = np.random.default_rng(seed)
    each = -(-SAMPLED_TOKENS // len(windows))
    # [CLS] always: it carries the null score and looks like no other token.
    chosen = [np.append(0, random.permutation(np.arange(1, w.length))[: each - 1]) for w in windows]
    words = checkpoint.weights["embeddings.word_embeddings.weight"]
    batches = []
    lengths = [window.length for window in windows]
    buckets = steps(LENGTH_STEP, checkpoint.architecture.max_position_embeddings)
    for length, places in batches_by_length(lengths, buckets, BATCH_TOKENS):
        batch = [windows[place] for place in places]
        padded = WindowBatch.pad(batch, [1] * len(batch), length=length, pad_id=0)
        hidden = words[padded.input_ids].astype(np.float32)
        batches.append(_Batch(batch, places, padded.bounds, hidden, [chosen[p] for p in places]))
    return batches


class _Watch:
    """Collects what is seen of one layer's sites, over all `uses` of its weights."""

    def __init__(self, groups: Sequence[tuple[str, ...]], uses: int) -> None:
        self._names = [group[0] for group in groups]
        self._uses = uses
        self._use = 0
        self._reach: dict[str, Floats] = {}
        self._samples: dict[str, list[Floats]] = {name: [] for name in self._names}

    def run(self, part: Part, batches: Sequence[_Batch], on_window: Callable[[], None]) -> None:
        for batch in batches:
            batch.hidden, inputs = part(batch.hidden, batch.bounds)
            for name, values in zip(self._names, inputs, strict=True):
                self._look(name, values, batch)
            for _ in batch.windows:
                on_window()
        self._use += 1

    def _look(self, name: str, values: Floats, batch: _Batch) -> None:
        rows = zip(values, batch.windows, batch.places, batch.chosen, strict=True)
        for row, window, place, chosen in rows:
            tokens = row[: window.length]
            reach = np.maximum(tokens.max(axis=0), -tokens.min(axis=0))
            self._reach[name] = np.maximum(self._reach.get(name, reach), reach)
            if place % self._uses == self._use:  # each use has its share of the windows
                self._samples[name].append(tokens[chosen])

    def seen(self) -> dict[str, Observed]:
        return {
            name: Observed(self._reach[name], np.concatenate(self._samples.pop(name)))
            for name in self._names
        }
