"""A Ray Dataset of questions, to one with their answers."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

import pyarrow as pa
from ray.data import ActorPoolStrategy, Dataset

from electra_qa.model_options import ModelChoice
from electra_qa.models import Precision

from ..answer_files.parquet_files import TYPES
from ..answer_files.rows import Names, answer_values, check_columns, row_of
from ..messages import Options, options_message
from .engines import Engine, EngineChoice, share

BATCH_ROWS = 1024


def answer_dataset(
    dataset: Dataset,
    *,
    bundle: Path | str | None = None,
    model: str | None = None,
    revision: str | None = None,
    precision: Precision | None = None,
    device: str = "cpu",
    question_column: str = "question",
    context_column: str = "context",
    prefix: str = "",
    actors: int | tuple[int, int] | None = None,
    cpus: int | None = None,
    batch_rows: int = BATCH_ROWS,
    **options: Unpack[Options],
) -> Dataset:
    """The dataset with the columns that `electra-qa answer` adds, rows in their order.

    answer (string), start and end (int64, in characters), score, null_score and null_score_diff
    (float64), is_impossible (bool), windows (int64), and error (string): a row that can't be asked
    or answered has that one alone.

    bundle, model, revision, precision, device: see `electra_qa.client.pipeline`; a folder has to
        be on every node, by the same path.
    prefix: before the names of the columns that are added.
    actors: each with an engine of its own; the smallest and the largest number for a pool that
        grows. By default so many that every node has work.
    cpus: of an actor, by default all of the smallest node's but one, which reading needs.
    batch_rows: that an actor gets at a time.

    Raises FileError where a column is missing, or named like one that is added.
    """
    if bundle is not None and model is not None:
        raise ValueError("bundle and model: set one, not both")
    options_message(options)
    names = Names(question_column, context_column, prefix)
    check_columns(dataset.columns() or [], names, "the dataset")
    divided = share(device, left_for_others=1)
    chosen = ModelChoice(None if bundle is None else Path(bundle), model, revision, precision)
    choice = EngineChoice(chosen, device, cpus or divided.cpus)
    smallest, largest = actors if isinstance(actors, tuple) else (actors or divided.actors,) * 2
    return dataset.map_batches(
        Answers,
        fn_constructor_args=(choice, names, options),
        batch_size=batch_rows,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ActorPoolStrategy(min_size=smallest, max_size=largest),
        **choice.remote_options,
    )


class Answers:
    """What an actor does with a batch."""

    def __init__(self, choice: EngineChoice, names: Names, options: Options) -> None:
        self._engine = Engine(choice)
        self._names = names
        self._options = options

    def __call__(self, table: pa.Table) -> pa.Table:
        names = self._names
        texts = zip(
            table[names.question].to_pylist(), table[names.context].to_pylist(), strict=True
        )
        rows = [row_of({}, question, context, names, 0) for question, context in texts]
        asked = [(row.question, row.context) for row in rows if row.error is None]
        outcomes = iter(self._engine.outcomes(asked, self._options) if asked else ())
        added = [
            answer_values(row, next(outcomes) if row.error is None else None, names) for row in rows
        ]
        for name, kind in names.added.items():
            values = pa.array([one[name] for one in added], TYPES[kind])
            table = table.append_column(name, values)
        return table
