"""`electra-qa build` and `check`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from google.protobuf.message import DecodeError
from rich.console import Console

from electra_qa.settings import settings_options
from electra_qa.squad_files import SquadFile

from .build import BuildData, BuildSettings, build_bundle
from .cached import cached_bundle
from .check import check_graph
from .errors import BuildError
from .finetune.settings import FinetuneData, FinetuneSettings
from .graph_file import read_without_weights
from .hub import with_revision


@click.command()
@click.option(
    "--checkpoint",
    required=True,
    help="A folder, or a Hugging Face hub id such as mrm8488/electra-small-finetuned-squadv2; "
    "id@revision for a branch, tag, commit or refs/pr/N of it.",
)
@click.option("--revision", help="The same as id@revision in --checkpoint.")
@click.option(
    "--tokenizer",
    help="A folder or a hub id: its tokenizer in place of the checkpoint's own.",
)
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), help="The folder of the bundle."
)
@click.option(
    "--cached",
    is_flag=True,
    help="Instead of --output: into the user's cache, if it is not there already.",
)
@click.option(
    "--data",
    type=SquadFile(),
    help="A SQuAD file: measure EM and F1 on it and write them into the manifest.",
)
@click.option(
    "--calibration",
    multiple=True,
    type=SquadFile(),
    help="A SQuAD file of training data to calibrate int8 on, or squad-v2-train for the official "
    "one, downloaded and checked; may be given several times.  "
    "[default: a small set that is built in]",
)
@settings_options(BuildSettings)
@click.option(
    "--json", "as_json", is_flag=True, help="What came of it, an error too, on stdout for machines."
)
def build(
    checkpoint: str,
    revision: str | None,
    tokenizer: str | None,
    output: Path | None,
    cached: bool,
    calibration: tuple[Path, ...],
    data: Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Make a bundle from a fine-tuned ELECTRA or BERT checkpoint, and compile it here."""
    if (output is None) != cached:
        raise click.UsageError("set one of --output and --cached")
    console = Console(stderr=True)
    chosen, files = BuildSettings(**settings), BuildData(calibration, data)
    try:
        name = with_revision(checkpoint, revision)
        if output is None:
            path = cached_bundle(name, chosen, files, console, tokenizer)
        else:
            path = build_bundle(name, output, chosen, files, console, tokenizer).path
    except BuildError as error:
        if not as_json:
            raise click.ClickException(str(error)) from error
        click.echo(json.dumps({"error": str(error)}))
        raise SystemExit(1) from error
    click.echo(json.dumps({"bundle": str(path)}) if as_json else path)


@click.command()
@click.argument("graph", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def check(graph: Path) -> None:
    """Say what TensorRT would refuse in an ONNX file. Exit code 1 if there is anything."""
    try:
        problems = check_graph(read_without_weights(graph))
    except DecodeError as error:
        raise click.ClickException(f"{graph} is not an ONNX file") from error
    for problem in problems:
        click.echo(str(problem))
    if problems:
        raise SystemExit(1)
    click.echo("nothing that TensorRT's documentation would have it refuse")


@click.command()
@click.option(
    "--model_name_or_path",
    required=True,
    help="A folder, or a hub id such as google/electra-small-discriminator, or id@revision: an "
    "encoder of any family that build takes. A BERT becomes an ELECTRA that computes the same.",
)
@click.option(
    "--train_file",
    multiple=True,
    required=True,
    type=SquadFile(),
    help="A SQuAD 1.1 or 2.0 file, or squad-v2-train for the official one, downloaded and checked; "
    "may be given several times.",
)
@click.option(
    "--output_dir",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="The checkpoint, the logs, and what a run is resumed from.",
)
@click.option(
    "--predict_file",
    type=SquadFile(),
    help="A SQuAD file to evaluate on and to choose the threshold on, in place of --held_out.",
)
@click.option(
    "--question_edits",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Pairs of an answerable and an unanswerable question, a line each, apart by a tab: what "
    "--make_negatives learns from.",
)
@click.option(
    "--teacher",
    help="A question-answering checkpoint to distil, a folder or a hub id, whose vocabulary has "
    "the model's pieces.",
)
@click.option("--resume", is_flag=True, help="Go on with the run that was stopped in --output_dir.")
@click.option("--overwrite_output_dir", is_flag=True, help="Forget that run and begin anew.")
@settings_options(FinetuneSettings, underscores=True)
def finetune(
    model_name_or_path: str,
    train_file: tuple[Path, ...],
    output_dir: Path,
    predict_file: Path | None,
    question_edits: Path | None,
    teacher: str | None,
    resume: bool,
    overwrite_output_dir: bool,
    **settings: Any,
) -> None:
    """Train a checkpoint for `build`. The options are those of run_squad.py."""
    from .finetune import state
    from .finetune.memory import keep_freed_memory
    from .finetune.train import finetune as train

    if resume and overwrite_output_dir:
        raise click.UsageError("--resume and --overwrite_output_dir: set one, not both")
    data = FinetuneData(model_name_or_path, train_file, predict_file, question_edits, teacher)
    console = Console(stderr=True)
    keep_freed_memory()
    try:
        if overwrite_output_dir:
            state.clear(output_dir)
        train(data, FinetuneSettings(**settings), output_dir, console, resume=resume)
    except (BuildError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(output_dir)
