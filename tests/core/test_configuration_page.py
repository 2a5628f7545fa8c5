"""docs/configuration.md has every setting of the server, as it is."""

from __future__ import annotations

import runpy

from ..conftest import REPOSITORY


def test_the_table_is_that_of_the_options() -> None:
    script = REPOSITORY / "docs" / "scripts" / "settings_table.py"
    module = runpy.run_path(str(script))
    assert module["table"]().count("\n") > 20
    assert module["PAGE"].read_text(encoding="utf-8") == module["page"](), (
        f"run: python {script.relative_to(REPOSITORY)}"
    )
