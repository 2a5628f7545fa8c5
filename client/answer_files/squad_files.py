"""SQuAD 1.1 and 2.0 files, with gold answers or without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from electra_qa.squad import read_json

from .rows import FileError, Names, Row, Source, check_columns, row_of


def read_squad_rows(path: Path, names: Names) -> Source:
    """Reads it whole. Raises FileError, and SquadError where it can't be read."""
    columns = dict.fromkeys(("id", "title", names.question, names.context), str)
    check_columns(columns, names, path.name)
    rows: list[Row] = []
    try:
        for article in read_json(path)["data"]:
            title = _text(article.get("title"))
            for paragraph in article["paragraphs"]:
                context = paragraph.get("context")
                for qa in paragraph["qas"]:
                    question = qa.get("question")
                    values = {
                        "id": _text(qa.get("id")),
                        "title": title,
                        names.question: _text(question),
                        names.context: _text(context),
                    }
                    rows.append(row_of(values, question, context, names, len(rows) + 1))
    except (KeyError, TypeError, AttributeError) as error:
        told = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise FileError(
            f"{path.name} is not a SQuAD file: {told} (for JSON lines: --input-format jsonl)"
        ) from error
    return Source(iter(rows), columns, len(rows))


def _text(value: Any) -> str | None:
    """A lone surrogate, which is the row's error, as a question mark."""
    return None if value is None else str(value).encode(errors="replace").decode()
