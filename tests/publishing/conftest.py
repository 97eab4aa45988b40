"""A home with the small warehouse, and how its exports are checked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from refine_dagster.home import Home
from tests.builders.small_warehouse import small_warehouse


@pytest.fixture
def small_home(tmp_path: Path) -> Home:
    """A home whose dataset has two rows and one pair of a better and a worse instance."""
    home = Home(tmp_path / "home")
    small_warehouse(home.warehouse)
    return home


def verified(folder: Path, *options: str) -> list[str]:
    """What the folder's own program prints; an error if its exit code does not fit."""
    command = [sys.executable, "-I", str(folder / "verify.py"), *options]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    assert child.stderr == ""
    lines = child.stdout.splitlines()
    assert child.returncode == (0 if len(lines) == 1 else 1)
    return lines
