"""The options of every command that serves a model: --bundle, or --model and what goes with it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from .bundle import PRECISIONS, default_bundle_path
from .models import Precision, bundle_for

Command = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """What to serve: a bundle, or a model (see `electra_qa.models.bundle_for`); of neither the
    bundle in the package."""

    bundle: Path | None = None
    model: str | None = None
    revision: str | None = None
    precision: Precision | None = None

    def path(self, device: str, *, progress: bool = True) -> Path:
        """Of the bundle; a model may be built for it, and for the device. Raises ModelError."""
        if self.model is None:
            return self.bundle or default_bundle_path()
        return bundle_for(
            self.model,
            revision=self.revision,
            precision=self.precision,
            device=device,
            progress=progress,
        )

    def check(self) -> None:
        """Raises click.UsageError for options that don't go together."""
        if self.bundle is not None and self.model is not None:
            raise click.UsageError("--bundle and --model: set one, not both")
        for name in ("revision", "precision"):
            if getattr(self, name) is not None and self.model is None:
                raise click.UsageError(f"--{name} is of --model")


def model_options(bundle_help: str) -> Callable[[Command], Command]:
    """--bundle, --model, --revision and --precision, as one `choice`."""

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def with_model(
            *args: Any,
            bundle: Path | None,
            model: str | None,
            revision: str | None,
            precision: Precision | None,
            **options: Any,
        ) -> Any:
            choice = ModelChoice(bundle, model, revision, precision)
            choice.check()
            return command(*args, choice=choice, **options)

        decorated: Command = with_model
        for option in (
            click.option(
                "--precision",
                type=click.Choice(PRECISIONS),
                help="Of the bundle that is built of --model.  [default: fp32, on a GPU fp16]",
            ),
            click.option(
                "--revision", help="Of a --model of the hub: a branch, a tag or a commit."
            ),
            click.option(
                "--model",
                help="Instead of a bundle a checkpoint: a folder, or a Hugging Face hub id. It is "
                "built once, into the user's cache.",
            ),
            click.option(
                "--bundle",
                type=click.Path(path_type=Path),
                help=f"{bundle_help}  [default: the one in the package]",
            ),
        ):
            decorated = option(decorated)
        return decorated

    return decorate
