"""`electra-qa answer`."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from pathlib import Path

import click

from ..cli import reported
from ..messages import given_options
from ..server_options import ServerChoice, server_options
from ..timeouts import Seconds
from .asking import Asked
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
@click.option(
    "--ray",
    "ray_address",
    is_flag=False,
    flag_value="",
    metavar="[ADDRESS]",
    help="Over a Ray cluster, an engine on each of its nodes: the one at this address, or the one "
    "that Ray finds, else one of this machine.",
)
@click.option(
    "--ray-actors",
    type=click.IntRange(min=1),
    help="Engines of --ray.  [default: for each node of the smallest kind one]",
)
@click.option(
    "--ray-cpus",
    type=click.IntRange(min=1),
    help="CPUs of each.  [default: those of the smallest node]",
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
    ray_address: str | None,
    ray_actors: int | None,
    ray_cpus: int | None,
    server: ServerChoice,
) -> None:
    """Answer every row of a file, in its order.

    Columns pass through; answer, start, end, score, null_score, null_score_diff, is_impossible,
    windows and error are added. A run that was cut off goes on when it is started again.
    """
    options = given_options(
        max_answer_length=max_answer_length, null_score_diff_threshold=null_score_diff_threshold
    )
    if ray_address is None and (ray_actors is not None or ray_cpus is not None):
        raise click.UsageError("--ray-actors and --ray-cpus are of --ray")
    if ray_address is not None and server.address is not None:
        raise click.UsageError("--ray and --address: set one, not both")
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
        asking: AbstractContextManager[Asked] = (
            server.connect()
            if ray_address is None
            else _cluster(ray_address, server, ray_actors, ray_cpus)
        )
        with reported(), asking as client:
            # A private server that is away has ended, and nobody starts it again.
            patience = 0.0 if server.address is None else retry_for
            done = run(job, client, sys.stdin.buffer, sys.stdout.buffer, retry_for=patience)
    except FileError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        if error.filename is not None or target is None:
            raise
        raise click.ClickException(f"{target}: {error.strerror}") from error
    except CutOffError as error:
        how = "; the same command goes on from there" if error.again else ""
        raise click.ClickException(f"{error}. {error.rows:,} rows are written{how}") from error
    click.echo(_summary(done), err=True)


def _cluster(
    address: str, server: ServerChoice, actors: int | None, cpus: int | None
) -> AbstractContextManager[Asked]:
    """Raises click.ClickException where Ray is missing."""
    try:
        from ..ray.pool import on_cluster
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"--ray needs {error.name}: pip install 'electra-qa[ray]'"
        ) from error
    return on_cluster(address or None, server.choice, server.device, actors, cpus)


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
