"""`docs/library.md` is run as a notebook; and importing the package costs nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import refine_dagster

PAGE = Path(__file__).parents[2] / "docs" / "library.md"
# Sections from here on train.
TRAINING = "## Training a policy"


def _blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def _run(blocks: Sequence[str], names: dict[str, Any]) -> int:
    """Run the blocks as cells of one notebook and count the results that they promise."""
    checked = 0
    for block in blocks:
        code, promises = [], []
        for line in block.splitlines():
            promise = re.fullmatch(r"(\S.*?)  # -> (.*)", line)
            if promise:
                promises.append(promise.groups())
                code.append(f"_results.append({promise[1]})")
            else:
                code.append(line)
        names["_results"] = []
        exec(compile("\n".join(code), str(PAGE), "exec"), names)
        assert [repr(result) for result in names["_results"]] == [given for _, given in promises]
        checked += len(promises)
    return checked


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return PAGE.read_text(encoding="utf-8")


def test_blocks_that_train_nothing_do_as_the_page_says(page: str) -> None:
    blocks = _blocks(page.partition(TRAINING)[0])
    names: dict[str, Any] = {"__name__": "library"}
    assert _run(blocks, names) == sum(block.count("# ->") for block in blocks) > 5
    assert "torch" not in _modules_after("from refine_dagster import Reward, CompletionsStore")


@pytest.mark.slow
def test_the_whole_page_runs_in_order(page: str, tiny_model_folder: Path) -> None:
    shutil.copytree(tiny_model_folder, "model")
    blocks = _blocks(page)
    used = {name for name in refine_dagster.__all__ if f"rd.{name}(" in page}
    assert used == set(refine_dagster.__all__)
    assert _run(blocks, {"__name__": "library"}) == sum(block.count("# ->") for block in blocks)


def test_importing_the_package_imports_no_library_and_takes_no_time() -> None:
    loaded = _modules_after("import refine_dagster")
    assert loaded.isdisjoint({"torch", "polars", "duckdb", "dagster", "pydantic", "numpy"})
    code = "import time; start = time.process_time(); import refine_dagster; "
    code += "print(time.process_time() - start)"
    assert float(_printed(code)) < 0.2


def test_names_are_listed_and_others_are_not_there() -> None:
    assert set(refine_dagster.__all__) <= set(dir(refine_dagster))
    assert all(callable(getattr(refine_dagster, name)) for name in refine_dagster.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'NoveltyFiltr'"):
        refine_dagster.NoveltyFiltr  # noqa: B018


def _modules_after(code: str) -> set[str]:
    return set(_printed(f"{code}; import sys; print(*sys.modules)").split())


def _printed(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout
