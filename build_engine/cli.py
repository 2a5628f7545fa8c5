"""`electra-qa build`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from electra_qa.settings import settings_options

from .build import BuildSettings, build_bundle
from .errors import BuildError


@click.command()
@click.option(
    "--checkpoint",
    required=True,
    help="A folder, or a Hugging Face hub id such as mrm8488/electra-small-finetuned-squadv2.",
)
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), required=True, help="The bundle."
)
@click.option(
    "--data",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A SQuAD file: measure EM and F1 on it and write them into the manifest.",
)
@settings_options(BuildSettings)
def build(checkpoint: str, output: Path, data: Path | None, **settings: Any) -> None:
    """Make a bundle from a fine-tuned ELECTRA or BERT checkpoint, and compile it here."""
    console = Console(stderr=True)
    try:
        bundle = build_bundle(checkpoint, output, BuildSettings(**settings), data, console)
    except BuildError as error:
        raise click.ClickException(str(error)) from error
    click.echo(bundle.path)
