"""`electra-qa cache`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

import click
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from . import bundle_cache
from .bundle import BundleError
from .bundle_cache import Entry


@click.group()
def cache() -> None:
    """The bundles that --model and pipeline(model=…) built of checkpoints."""


@cache.command("list")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def list_entries(as_json: bool) -> None:
    """What is there."""
    with _reported():
        entries = bundle_cache.entries()
        folder = bundle_cache.bundles_folder()
    if as_json:
        click.echo(json.dumps([_facts(entry) for entry in entries], indent=2))
        return
    if entries:
        Console().print(_table(entries))
    total = decimal(sum(entry.size for entry in entries))
    click.echo(f"{len(entries)} bundle{'' if len(entries) == 1 else 's'}, {total}, in {folder}")


@cache.command()
@click.option(
    "--unused-days",
    type=click.FloatRange(min=0),
    help="Those as well that were not used for so many days.",
)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.option("--dry-run", is_flag=True, help="Say what would go, and let it be.")
def prune(unused_days: float | None, everything: bool, dry_run: bool) -> None:
    """Remove what no longer loads, and what killed builds left.

    What is being built stays. A server that runs goes on.
    """
    with _reported():
        gone = bundle_cache.prune(
            everything=everything,
            unused=None if unused_days is None else timedelta(days=unused_days),
            dry_run=dry_run,
        )
    for entry in gone:
        click.echo(f"{_name(entry)}: {decimal(entry.size)}")
    freed = decimal(sum(entry.size for entry in gone))
    click.echo(f"{'would free' if dry_run else 'freed'} {freed}")


@contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except BundleError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}") from error


def _name(entry: Entry) -> str:
    if entry.about is None:
        return f"{entry.path.name} ({'unfinished' if entry.is_unfinished else 'damaged'})"
    return f"{entry.about.model} ({entry.about.precision})"


def _facts(entry: Entry) -> dict[str, object]:
    about = {} if entry.about is None else dataclasses.asdict(entry.about)
    return about | {
        "bytes": entry.size,
        "used": entry.used.isoformat(timespec="seconds"),
        "path": str(entry.path / bundle_cache.BUNDLE),
        "unfinished": entry.is_unfinished,
    }


def _table(entries: list[Entry]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("model", "revision", "precision", "size", "made", "last used"):
        table.add_column(title, justify="right" if title == "size" else "left", overflow="fold")
    for entry in entries:
        about = entry.about
        used = f"{entry.used.astimezone():%Y-%m-%d %H:%M}"
        if about is None:
            table.add_row(_name(entry), "", "", decimal(entry.size), "", used)
            continue
        made = f"{datetime.fromisoformat(about.made).astimezone():%Y-%m-%d}"
        revision = about.revision or (about.commit or "")[:12]
        table.add_row(about.model, revision, about.precision, decimal(entry.size), made, used)
    return table
