"""The files of `electra-qa ask`: one text, or many."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import click

from .documents import Document

STANDARD_INPUT = "-"


class ContextFiles:
    """paths: of files, of folders, and - for standard input.

    files: the paths themselves, and for a folder the files in it, in order, all the way down;
        hidden ones are left out.

    Raises ClickException where a folder has none.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._named = paths
        self.files: list[str] = []
        for path in paths:
            if path != STANDARD_INPUT and Path(path).is_dir():
                self.files += _files_in(Path(path))
            else:
                self.files.append(path)

    @property
    def is_one_file(self) -> bool:
        return self.files == list(self._named) and len(self.files) == 1

    @cached_property
    def _standard_input(self) -> bytes:
        """It is asked, and shown afterwards."""
        return sys.stdin.buffer.read()

    def text(self, file: str) -> str:
        """Every byte of it: answers say where they are in the file, whatever ends its lines.

        Raises ClickException where it can't be read.
        """
        name = "standard input" if file == STANDARD_INPUT else file
        try:
            content = self._standard_input if file == STANDARD_INPUT else Path(file).read_bytes()
            return content.decode()
        except UnicodeDecodeError as error:
            raise click.ClickException(f"{name} is not UTF-8 (byte {error.start})") from error
        except OSError as error:
            raise click.ClickException(f"{name} can't be read: {error.strerror}") from error

    def documents(self, skipped: Callable[[str], None]) -> Iterator[Document]:
        """Each file as a document that has its path as its id, read as it is wanted.

        One that can't be read is an error where it was named, and else told to `skipped`.
        """
        for file in self.files:
            try:
                text = self.text(file)
            except click.ClickException as error:
                if file in self._named:
                    raise
                skipped(error.message)
                continue
            yield Document(text, file)


def _files_in(folder: Path) -> list[str]:
    """Raises ClickException where there is none."""
    found = [
        str(file)
        for file in folder.rglob("*")
        if file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]
    if not found:
        raise click.ClickException(f"{folder} has no files in it")
    return sorted(found)
