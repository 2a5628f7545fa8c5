"""`electra-qa build` and `check`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import onnx
from google.protobuf.message import DecodeError
from rich.console import Console

from electra_qa.settings import settings_options

from .build import BuildData, BuildSettings, build_bundle
from .check import check_graph
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
@click.option(
    "--calibration",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A SQuAD file of training data to calibrate int8 on; may be given several times.",
)
@settings_options(BuildSettings)
def build(
    checkpoint: str,
    output: Path,
    calibration: tuple[Path, ...],
    data: Path | None,
    **settings: Any,
) -> None:
    """Make a bundle from a fine-tuned ELECTRA or BERT checkpoint, and compile it here."""
    console = Console(stderr=True)
    try:
        files = BuildData(calibration, data)
        bundle = build_bundle(checkpoint, output, BuildSettings(**settings), files, console)
    except BuildError as error:
        raise click.ClickException(str(error)) from error
    click.echo(bundle.path)


@click.command()
@click.argument("graph", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def check(graph: Path) -> None:
    """Say what TensorRT would refuse in an ONNX file. Exit code 1 if there is anything."""
    try:
        problems = check_graph(onnx.load(graph))
    except DecodeError as error:
        raise click.ClickException(f"{graph} is not an ONNX file") from error
    for problem in problems:
        click.echo(str(problem))
    if problems:
        raise SystemExit(1)
    click.echo("nothing that TensorRT's documentation would have it refuse")
