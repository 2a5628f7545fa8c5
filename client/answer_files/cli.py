"""`electra-qa answer`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ..cli import reported
from ..messages import Options
from ..server_options import ServerChoice, server_options
from ..timeouts import Seconds
from .formats import INPUTS, OUTPUTS, format_of
from .rows import FileError, Names
from .run import CutOffError, Done, Job, run

FILE = click.Path(dir_okay=False, allow_dash=True, path_type=Path)
EXISTING_FILE = click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)


@click.command()
@click.option(
    "--input",
    "input_",
    type=EXISTING_FILE,
    required=True,
    help="JSON lines, CSV, Parquet or a SQuAD file; - for standard input.",
)
@click.option(
    "--output", type=FILE, required=True, help="JSON lines, CSV or Parquet; - for standard output."
)
@click.option(
    "--input-format",
    type=click.Choice(INPUTS),
    help="Where the name does not say it: .jsonl, .csv, .parquet, .json (SQuAD).",
)
@click.option("--output-format", type=click.Choice(OUTPUTS), help="Where the name does not say it.")
@click.option("--question-column", default="question", show_default=True)
@click.option("--context-column", default="context", show_default=True)
@click.option("--prefix", default="", help="Before the names of the columns that are added.")
@click.option("--max-answer-length", type=int, help="In tokens.")
@click.option("--null-score-diff-threshold", type=float, help="No answer where it is over this.")
@click.option(
    "--retry-for",
    type=Seconds(min=0),
    default=600.0,
    show_default=True,
    help="Seconds that the server at --address may be away.",
)
@server_options()
def answer(
    input_: Path,
    output: Path,
    input_format: str | None,
    output_format: str | None,
    question_column: str,
    context_column: str,
    prefix: str,
    max_answer_length: int | None,
    null_score_diff_threshold: float | None,
    retry_for: float,
    server: ServerChoice,
) -> None:
    """Answer every row of a file, in its order.

    Columns pass through; answer, start, end, score, null_score, null_score_diff, is_impossible,
    windows and error are added. A run that was cut off goes on when it is started again.
    """
    options: Options = {}
    if max_answer_length is not None:
        options["max_answer_length"] = max_answer_length
    if null_score_diff_threshold is not None:
        options["null_score_diff_threshold"] = null_score_diff_threshold
    names = Names(question_column, context_column, prefix)
    source, target = (None if str(path) == "-" else path for path in (input_, output))
    try:
        job = Job(
            source,
            format_of(source, input_format, "input", INPUTS),
            target,
            format_of(target, output_format, "output", OUTPUTS),
            names,
            options,
        )
        with reported(), server.connect() as client:
            # A private server that is away has ended, and nobody starts it again.
            patience = 0.0 if server.address is None else retry_for
            done = run(job, client, sys.stdin.buffer, sys.stdout.buffer, retry_for=patience)
    except FileError as error:
        raise click.ClickException(str(error)) from error
    except BrokenPipeError:  # who reads has enough, which click says by the exit code
        raise
    except OSError as error:
        where = error.filename or target or "standard output"
        raise click.ClickException(f"{where}: {error.strerror}") from error
    except CutOffError as error:
        how = "; the same command goes on from there" if error.again else ""
        raise click.ClickException(f"{error}. {error.rows:,} rows are written{how}") from error
    click.echo(_summary(done), err=True)


def _summary(done: Done) -> str:
    asked = done.rows - done.rows_before
    text = f"{done.rows:,} rows"
    if done.rows_before:
        text += f", {asked:,} of them now"
    if asked and done.seconds:
        text += f" in {done.seconds:,.1f} s ({asked / done.seconds:,.1f} a second)"
    text += f", {done.errors:,} with an error"
    if done.first_error is not None:
        text += f"; the first is {done.first_error}"
    return text
