"""Where a command's options come from: flags, over variables, over a file, over defaults.

`configured` gives a command `--config FILE`, and each of its options a variable. Click does the
rest: it takes the first of a flag, a variable and the file's value, and remembers which it was. A
name that is no option's is an error in either place, with the nearest that is.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

PREFIX = "ELECTRA_QA_"
FILE_VARIABLE = f"{PREFIX}CONFIG"

# Kubernetes tells every pod of every service in its namespace by variables like these: those of a
# service named electra-qa are no settings.
_SERVICE_LINK = re.compile(
    r".*_SERVICE_(HOST|PORT(_\w+)?)=.*|.*_PORT_\d+_(TCP|UDP|SCTP)(_\w+)?=.*|.*_PORT=\w+://.*"
)

_FILE = "electra_qa.configuration.file"


@dataclass(frozen=True, slots=True)
class Effective:
    """A setting in force. source: "default", "flag", the variable's name or the file's path."""

    name: str
    value: Any
    source: str


def configured(command: click.Command, name: str, commands: Collection[str]) -> click.Command:
    """Let the options of a command be set by a file and by variables as well.

    commands: the names of all commands, which are those of the file's tables. A group has no
    settings.
    """
    if isinstance(command, click.Group) or any(p.name == "config" for p in command.params):
        return command
    for key, option in settings_of(command).items():
        option.envvar = variable(name, key)

    def load(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
        _check_variables(ctx, name, commands)
        if path is not None:
            ctx.default_map = _read(ctx, path, name, commands)
            ctx.meta[_FILE] = path

    command.params.append(
        click.Option(
            ["--config"],
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            envvar=FILE_VARIABLE,
            show_envvar=True,
            is_eager=True,
            expose_value=False,
            callback=load,
            help=f"A TOML file, whose table [{name}] sets what neither a flag nor a variable "
            f"({variable(name, '…')}) does.",
        )
    )
    return command


def settings_of(command: click.Command) -> dict[str, click.Option]:
    """The options that may be set elsewhere, by their names in a file: max_windows."""
    return {
        max(option.opts, key=len).lstrip("-").replace("-", "_"): option
        for option in command.params
        if isinstance(option, click.Option) and not option.hidden and option.name != "config"
    }


def variable(command: str, key: str) -> str:
    """The variable of a setting: ELECTRA_QA_SERVE_MAX_WINDOWS."""
    return f"{PREFIX}{command}_{key}".upper()


def effective(ctx: click.Context) -> list[Effective]:
    """What is in force of a command's settings, and where each comes from."""
    found = []
    for key, option in settings_of(ctx.command).items():
        assert option.name is not None
        source = ctx.get_parameter_source(option.name)
        origin = "default"
        if source is ParameterSource.COMMANDLINE:
            origin = "flag"
        elif source is ParameterSource.ENVIRONMENT:
            origin = str(option.envvar)
        elif source is ParameterSource.DEFAULT_MAP:
            origin = str(ctx.meta[_FILE])
        found.append(Effective(key, ctx.params[option.name], origin))
    return found


def effective_elsewhere(ctx: click.Context, name: str) -> list[Effective]:
    """The same of another command, if it were started now, with this one's file and no flags."""
    root = ctx.find_root()
    assert isinstance(root.command, click.Group)
    command = root.command.get_command(root, name)
    assert command is not None
    path = ctx.meta.get(_FILE)
    arguments = [] if path is None else ["--config", str(path)]
    with command.make_context(name, arguments, parent=root) as other:
        return effective(other)


def _check_variables(ctx: click.Context, name: str, commands: Collection[str]) -> None:
    """Those of other commands are looked at when those run."""
    own = {variable(name, key): option for key, option in settings_of(ctx.command).items()}
    others = tuple(variable(other, "") for other in commands if other != name)
    for one, value in sorted(os.environ.items()):
        if one in own:
            option = own[one]
            _check(ctx, option, option.value_from_envvar(ctx), one)
        elif (
            one.startswith(PREFIX)
            and one != FILE_VARIABLE
            and not one.startswith(others)
            and not _SERVICE_LINK.fullmatch(f"{one}={value}")
        ):
            near = _nearest(one, [*own, FILE_VARIABLE])
            raise click.UsageError(f"{one} is no setting's variable{near}", ctx)


def _read(ctx: click.Context, path: Path, name: str, commands: Collection[str]) -> dict[str, Any]:
    """A command's table, by the names that click has for its options."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise click.UsageError(f"{path} can't be read: {error.strerror}", ctx) from error
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{path} is not UTF-8", ctx) from error
    except tomllib.TOMLDecodeError as error:
        raise click.UsageError(f"{path} is not TOML: {error}", ctx) from error
    for title, table in tables.items():
        if title not in commands:
            near = _nearest(title, commands)
            raise click.UsageError(
                f"{path}: {title} is no command's table{near or f', like [{name}]'}", ctx
            )
        if not isinstance(table, dict):
            raise click.UsageError(f"{path}: {title} must be a table, [{title}]", ctx)
    settings = settings_of(ctx.command)
    values = {}
    for key, value in tables.get(name, {}).items():
        option = settings.get(key)
        if option is None:
            raise click.UsageError(
                f"{path}: {key} is no setting of [{name}]{_nearest(key, settings)}", ctx
            )
        assert option.name is not None
        values[option.name] = _as_flag(ctx, option, value, f"{key} in [{name}] of {path}")
    return values


def _as_flag(ctx: click.Context, option: click.Option, value: Any, where: str) -> Any:
    """A value as the text of a flag would be, so that both are checked alike."""
    if option.multiple != isinstance(value, list) or isinstance(value, dict):
        kind = "a list" if option.multiple else "one value"
        raise click.BadParameter(f"it must be {kind}.", ctx, option, param_hint=where)
    text = [str(one) for one in value] if option.multiple else str(value)
    _check(ctx, option, text, where)
    return text


def _check(ctx: click.Context, option: click.Option, value: Any, where: str) -> None:
    """Click would do so later, but say that it was a flag."""
    try:
        option.type_cast_value(ctx, value)
    except click.BadParameter as error:
        raise click.BadParameter(error.message, ctx, option, param_hint=where) from error


def _nearest(name: str, names: Collection[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]}?" if near else ""
