"""Small bundles, what servers of them should answer, and the report."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from electra_qa.bundle import Bundle, write_bundle

from .questions import Answer, expected
from .report import Figures, write

REPORT = Path(__file__).parents[2] / "build" / "chaos"


@pytest.fixture(scope="session")
def tiny_bundle(
    tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """Random weights: compiled and warm in a moment."""
    from rich.console import Console

    from electra_qa.build_engine.build import BuildData, BuildSettings, build_bundle

    settings = BuildSettings(max_seq_length=64, doc_stride=16, max_query_length=16)
    output = tmp_path_factory.mktemp("tiny-bundle")
    quiet = Console(file=io.StringIO())
    return build_bundle(str(tiny_checkpoint()), output, settings, BuildData(), quiet)


@pytest.fixture(scope="session")
def other_tiny_bundle(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same files, but answers of one or two tokens."""
    files = {name: (tiny_bundle.path / name).read_bytes() for name in tiny_bundle.manifest.files}
    manifest = replace(tiny_bundle.manifest, max_answer_length=2)
    return write_bundle(tmp_path_factory.mktemp("other-tiny-bundle"), manifest, files)


@pytest.fixture(scope="session")
def tiny_answers(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> list[Answer]:
    """To QUESTIONS."""
    return expected(tiny_bundle, tmp_path_factory.mktemp("tiny-answers"))


@pytest.fixture(scope="session")
def _report() -> Iterator[list[Figures]]:
    figures: list[Figures] = []
    yield figures
    write(figures, REPORT)


@pytest.fixture
def figures(_report: list[Figures], request: pytest.FixtureRequest) -> Figures:
    """Those of one test, for the report."""
    made = Figures(request.node.name)
    _report.append(made)
    return made
