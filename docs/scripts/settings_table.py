"""Write the table of the server's settings into docs/configuration.md.

    python docs/scripts/settings_table.py

It comes from the options of `electra-qa serve`, whose defaults and limits are in the dataclasses.
"""

from __future__ import annotations

import re
from pathlib import Path

import click

from electra_qa.cli import main
from electra_qa.configuration import settings_of

PAGE = Path(__file__).parents[1] / "configuration.md"
BEGIN, END = "<!-- settings: begin -->\n", "<!-- settings: end -->\n"
DEFAULT_IN_HELP = re.compile(r"\s*\[default: (.*)\]$", re.DOTALL)


def table() -> str:
    """Markdown, a row a setting."""
    rows = ["| setting | value | default | what it is |", "| --- | --- | --- | --- |"]
    with click.Context(main) as root:
        command = main.get_command(root, "serve")
        assert command is not None
        for name, option in settings_of(command).items():
            text = option.help or ""
            default = DEFAULT_IN_HELP.search(text)
            cells = [
                f"`{name}`",
                _kind(option),
                default[1] if default else _default(option),
                DEFAULT_IN_HELP.sub("", text),
            ]
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def page() -> str:
    """The page with the table that it should have."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + table() + END + after


def _kind(option: click.Option) -> str:
    kind = option.type
    if isinstance(kind, click.Choice):
        return ", ".join(f"`{choice}`" for choice in kind.choices)
    if isinstance(kind, click.IntRange | click.FloatRange):
        noun = "integer" if isinstance(kind, click.IntRange) else "number"
        return noun if kind.min is None else f"{noun}, {kind.min:g} or more"
    return {"boolean": "`true`, `false`", "integer": "integer", "float": "number"}.get(
        kind.name, "path" if isinstance(kind, click.Path) else "text"
    )


def _default(option: click.Option) -> str:
    value = option.default
    if option.is_flag:
        return "`true`" if value is True else "`false`"
    return f"`{value}`" if isinstance(value, str | int | float) else "not set"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
