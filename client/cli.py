"""`electra-qa ask`, `eval`, `score` and `info`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import click
from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from electra_qa.bundle import BundleError, load_bundle
from electra_qa.configuration import Effective, effective_elsewhere
from electra_qa.credentials import CredentialsError
from electra_qa.devices import parse_devices
from electra_qa.engines import EngineError, EngineSettings, load_engine
from electra_qa.model_options import ModelChoice
from electra_qa.squad import SquadError, read_by_id, read_squad, squad_metrics
from electra_qa.squad_files import SquadFile
from electra_qa.terminal import as_json as json_text
from electra_qa.versions import installed_versions

from .context_files import ContextFiles
from .errors import ElectraQAError
from .evaluate import evaluate as run_evaluation
from .messages import given_options
from .server_options import ServerChoice, server_options
from .showing import show, show_documents

EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
NEW_FILE = click.Path(dir_okay=False, path_type=Path)


@contextmanager
def reported() -> Iterator[None]:
    """What went wrong, as one line and exit code 1."""
    try:
        yield
    except (ElectraQAError, CredentialsError, BundleError, EngineError, SquadError) as error:
        raise click.ClickException(str(error)) from error


@click.command()
@click.argument("question")
@click.option("--context", help="The text to look in.")
@click.option(
    "--context-file",
    "context_files",
    type=click.Path(exists=True, allow_dash=True),
    multiple=True,
    help="A file with it, in UTF-8; - for stdin. May be given several times, and be a folder: the "
    "best answers over all of the files.",
)
@click.option("--top-k", type=int, default=1, show_default=True, help="How many answers to show.")
@click.option("--max-answer-length", type=int, help="In tokens.")
@click.option("--null-score-diff-threshold", type=float, help="No answer where it is over this.")
@click.option(
    "--max-overlap", type=float, help="The part of it that an answer may share with a better one."
)
@click.option("--every-place", is_flag=True, help="An answer for each place of the same text.")
@click.option(
    "--answers-per-document", type=int, default=1, show_default=True, help="With several files."
)
@click.option("--read-top", type=int, help="Read only so many of the files, chosen by BM25.")
@click.option("--json", "as_json", is_flag=True, help="The whole response, for machines.")
@server_options()
def ask(
    question: str,
    context: str | None,
    context_files: tuple[str, ...],
    top_k: int,
    max_answer_length: int | None,
    null_score_diff_threshold: float | None,
    max_overlap: float | None,
    every_place: bool,
    answers_per_document: int,
    read_top: int | None,
    as_json: bool,
    server: ServerChoice,
) -> None:
    """Ask one QUESTION about a text, or about many."""
    if (context is None) == (not context_files):
        raise click.UsageError("set one of --context and --context-file")
    options = given_options(
        top_k=top_k,
        max_answer_length=max_answer_length,
        null_score_diff_threshold=null_score_diff_threshold,
        max_overlap=max_overlap,
        every_place=every_place or None,
    )
    files = ContextFiles(context_files)
    if context is not None or files.is_one_file:
        text = files.text(files.files[0]) if context is None else context
        with reported(), server.connect() as client:
            result = client.answer(question, text, **options)
        if as_json:
            click.echo(json_text({"text": result.text} | asdict(result)))
        else:
            show(Console(), text, result)
        return
    with reported(), server.connect() as client:
        found = client.answer_documents(
            question,
            files.documents(lambda why: click.echo(why, err=True)),
            answers_per_document=answers_per_document,
            read_top=read_top,
            **options,
        )
    if as_json:
        failures = [
            {"document": one.document, "id": one.id, "error": str(one.error)}
            for one in found.failures
        ]
        click.echo(json_text({"text": found.text} | asdict(found) | {"failures": failures}))
    else:
        show_documents(Console(), found, files.text)


@click.command("eval")
@click.option(
    "--data",
    type=SquadFile(),
    required=True,
    help="A SQuAD 1.1 or 2.0 file, or squad-v2-dev for the official one, downloaded and checked.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N questions.")
@click.option("--predictions", type=NEW_FILE, help="Write {id: text} here.")
@click.option("--null-odds", type=NEW_FILE, help="Write {id: null_score_diff} here.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for machines.")
@server_options()
def evaluate(
    data: Path,
    limit: int | None,
    predictions: Path | None,
    null_odds: Path | None,
    as_json: bool,
    server: ServerChoice,
) -> None:
    """Measure EM and F1 on a SQuAD file, every question sent through gRPC."""
    with reported():
        questions = read_squad(data)[:limit]
    with reported(), server.connect() as client, _progress() as progress:
        task = progress.add_task(data.name, total=len(questions))
        evaluation = run_evaluation(client, questions, lambda: progress.advance(task))
        info = client.info().bundle
    for path, content in (
        (predictions, evaluation.predictions),
        (null_odds, evaluation.null_odds),
    ):
        if path is not None:
            path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    if evaluation.refused:
        id_, why = next(iter(evaluation.refused.items()))
        click.echo(
            f"{len(evaluation.refused)} of {len(questions)} questions can't be asked and count as "
            f"no answer; the first is {id_}: {why}",
            err=True,
        )
    rate = len(questions) / evaluation.seconds
    if as_json:
        summary = {
            "metrics": evaluation.metrics,
            "questions": len(questions),
            "refused": evaluation.refused,
            "windows": evaluation.windows,
            "seconds": evaluation.seconds,
            "questions_per_second": rate,
            "bundle": {
                "source": info.source,
                "precision": info.precision,
                "sha256": info.sha256,
            },
        }
        click.echo(json.dumps(summary, indent=2))
    else:
        click.echo(json.dumps(evaluation.metrics, indent=2))
        click.echo(
            f"{len(questions)} questions ({evaluation.windows} windows) in "
            f"{evaluation.seconds:.1f} s: {rate:.1f} questions a second",
            err=True,
        )


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


@click.command()
@click.option(
    "--data", type=SquadFile(), required=True, help="A SQuAD 1.1 or 2.0 file, or squad-v2-dev."
)
@click.option("--predictions", type=EXISTING_FILE, required=True, help="{id: text}.")
@click.option("--na-prob-file", type=EXISTING_FILE, help="{id: no-answer score}.")
@click.option(
    "--na-prob-thresh",
    type=float,
    default=1.0,
    show_default=True,
    help="Over this no-answer score a prediction counts as no answer.",
)
@click.option("--json", "as_json", is_flag=True, help="On one line, for machines.")
def score(
    data: Path, predictions: Path, na_prob_file: Path | None, na_prob_thresh: float, as_json: bool
) -> None:
    """The official script's metrics of a predictions file."""
    with reported():
        questions, predicted = read_squad(data), read_by_id(predictions, str)
        metrics = squad_metrics(
            questions,
            predicted,
            na_probs=read_by_id(na_prob_file, float) if na_prob_file else None,
            na_prob_thresh=na_prob_thresh,
        )
    asked = {question.id for question in questions}
    for count, what in (
        (len(asked - predicted.keys()), "questions have no prediction, and are left out"),
        (len(predicted.keys() - asked), "predictions are of no question, and are left out"),
        (len(questions) - len(asked), "questions have the id of another, and are left out"),
    ):
        if count:
            click.echo(f"{count} {what}, as by the official script", err=True)
    click.echo(json.dumps(metrics, indent=None if as_json else 2))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@server_options()
@click.pass_context
def info(ctx: click.Context, as_json: bool, server: ServerChoice) -> None:
    """Show the bundle in force, the device, the versions, and the settings that `serve` would start
    with here and where each comes from; of a server, its bundle and its limits instead."""
    with reported():
        if server.address is not None:
            with server.connect() as client:
                facts = MessageToDict(client.info(), preserving_proto_field_name=True)
        else:
            facts = _local(server, effective_elsewhere(ctx, "serve"))
    if as_json:
        click.echo(json.dumps(facts, indent=2, default=str))
    else:
        for group, values in facts.items():
            if isinstance(values, dict):
                click.echo(f"{group}:")
                for name, value in values.items():
                    click.echo(f"  {name}: {_in_words(value)}")
            else:
                click.echo(f"{group}: {values}")


def _in_words(value: Any) -> str:
    if isinstance(value, dict) and value.keys() == {"value", "source"}:
        return f"{'not set' if value['value'] is None else value['value']} ({value['source']})"
    return str(value)


def _local(server: ServerChoice, settings: list[Effective]) -> dict[str, Any]:
    in_force = {setting.name: setting for setting in settings}
    choice = server.choice
    if choice == ModelChoice():
        choice = ModelChoice(*(in_force[one.name].value for one in fields(ModelChoice)))
        choice.check()
    values = {one.name: in_force[one.name].value for one in fields(EngineSettings)}
    values["device"] = in_force["engine"].value or parse_devices(values["device"]).kind
    bundle = load_bundle(choice.path(values["device"]))
    try:
        device = load_engine(bundle, EngineSettings(**values)).device
    except EngineError as error:
        device = f"none: {error}"
    return {
        "bundle": {
            "path": str(bundle.path),
            "precision": bundle.manifest.precision,
            "source": bundle.manifest.source,
            "sha256": bundle.sha256,
            "metrics": bundle.manifest.metrics,
        },
        "device": device,
        "versions": installed_versions(),
        "serve": {
            name: {"value": setting.value, "source": setting.source}
            for name, setting in in_force.items()
        },
    }
