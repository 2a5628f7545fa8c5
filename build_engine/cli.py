"""`electra-qa build`."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from .build import PRECISIONS, BuildSettings, build_bundle
from .errors import BuildError

DEFAULTS = BuildSettings()


@click.command()
@click.option(
    "--checkpoint",
    required=True,
    help="A folder, or a Hugging Face hub id such as mrm8488/electra-small-finetuned-squadv2.",
)
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), required=True, help="The bundle."
)
@click.option("--precision", type=click.Choice(PRECISIONS), default="fp32", show_default=True)
@click.option(
    "--data",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A SQuAD file: measure EM and F1 on it and write them into the manifest.",
)
@click.option(
    "--max-seq-length",
    type=click.IntRange(min=8),
    default=DEFAULTS.max_seq_length,
    show_default=True,
)
@click.option(
    "--doc-stride", type=click.IntRange(min=1), default=DEFAULTS.doc_stride, show_default=True
)
@click.option(
    "--max-query-length",
    type=click.IntRange(min=1),
    default=DEFAULTS.max_query_length,
    show_default=True,
)
@click.option(
    "--max-answer-length",
    type=click.IntRange(min=1),
    default=DEFAULTS.max_answer_length,
    show_default=True,
)
@click.option(
    "--max-answer-length-limit",
    type=click.IntRange(min=1),
    default=DEFAULTS.max_answer_length_limit,
    show_default=True,
    help="What a request may ask for.",
)
@click.option(
    "--n-best-size",
    type=click.IntRange(min=1),
    default=DEFAULTS.n_best_size,
    show_default=True,
    help="Spans of a window that are decoded.",
)
@click.option("--null-score-diff-threshold", type=float, help="[default: the checkpoint's, or 0]")
def build(
    checkpoint: str, output: Path, precision: str, data: Path | None, **settings: object
) -> None:
    """Make a bundle from a fine-tuned ELECTRA or BERT checkpoint, and compile it here."""
    console = Console(stderr=True)
    try:
        bundle = build_bundle(
            checkpoint, output, BuildSettings(precision=precision, **settings), data, console
        )  # type: ignore[arg-type]
    except BuildError as error:
        raise click.ClickException(str(error)) from error
    click.echo(bundle.path)
