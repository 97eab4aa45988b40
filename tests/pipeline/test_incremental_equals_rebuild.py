"""Promise 1 with real models: after edits, the live tables are those of a build from nothing.

`test_generated_histories.py` has hundreds of histories, with models of the fake kind.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from refine_dagster.home import Home
from tests.pipeline.children import run_command
from tests.pipeline.conftest import Edited
from tests.pipeline.home_content import completion_keys, content


@pytest.mark.slow
def test_incremental_equals_rebuild(tiny_home: Home, edited: Edited, tmp_path: Path) -> None:
    """Models are trained again where they must be, and the same from nothing."""
    rebuilt = Home(tmp_path / "rebuilt")
    child = run_command(rebuilt, tmp_path / "run.log", *edited.options)
    assert child.end() == 0, child.log.read_text(encoding="utf-8")
    found, expected = content(edited.home), content(rebuilt)
    # All live tables, ids and parents included, and the version of every asset.
    for part in ("tables", "versions"):
        assert found[part] == expected[part], part
    # Nothing was asked but what the build from nothing asks, too.
    asked = completion_keys(edited.home) - completion_keys(tiny_home)
    assert asked <= completion_keys(rebuilt) <= completion_keys(edited.home)
