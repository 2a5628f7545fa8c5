"""Settings that are options of a command as well: said once, in a dataclass.

@dataclass(frozen=True, slots=True)
class Settings:
    doc_stride: int = setting(128, "How far a window moves.", minimum=1)

@click.command()
@settings_options(Settings)
def command(**settings: Any) -> None:
    run(Settings(**settings))
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from typing import Any, TypeVar

import click

Value = TypeVar("Value")


def setting(default: Value, help: str, *, minimum: float | None = None) -> Value:  # noqa: A002
    """A field of a dataclass with what its option says and the least that it takes."""
    field: Value = dataclasses.field(default=default, metadata={"help": help, "minimum": minimum})
    return field


def settings_options(
    settings: type, *, underscores: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """An option for each field, named like it, with its default.

    underscores: in the options' names too, as `run_squad.py` has them; else dashes. Of a bool
    there is the option and its opposite with "no" before it.
    """
    between = "_" if underscores else "-"
    hints = typing.get_type_hints(settings)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for field in reversed(dataclasses.fields(settings)):
            name = field.name.replace("_", between)
            opposite = f"/--no{between}{name}" if hints[field.name] is bool else ""
            command = click.option(
                f"--{name}{opposite}",
                type=_click_type(hints[field.name], field.metadata["minimum"]),
                is_flag=hints[field.name] is bool,
                default=field.default,
                show_default=field.default is not None,
                help=field.metadata["help"],
            )(command)
        return command

    return decorate


def value_of(settings: type, name: str, given: Any) -> Any:
    """A setting's value as its option has it, by the same rule; None where it may be None.

    Raises ValueError for what is none.
    """
    hint = typing.get_type_hints(settings)[name]
    if given is None and type(None) in typing.get_args(hint):
        return None
    (field,) = (field for field in dataclasses.fields(settings) if field.name == name)
    return converted(_click_type(hint, field.metadata["minimum"]), given)


def converted(kind: Any, given: Any) -> Any:
    """As an option of this type of click's has it. Raises ValueError."""
    try:
        return click.types.convert_type(kind)(str(given))
    except click.BadParameter as error:
        raise ValueError(error.message) from error


def _click_type(hint: Any, minimum: float | None) -> Any:
    if typing.get_origin(hint) is typing.Literal:
        return click.Choice(typing.get_args(hint))
    kind = next(k for k in (typing.get_args(hint) or (hint,)) if k is not type(None))
    if minimum is None:
        return kind
    return click.IntRange(min=int(minimum)) if kind is int else click.FloatRange(min=minimum)
