"""One real run of the small profile, shared by the tests that look at what it made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from refine_dagster.home import Home
from refine_dagster.lineage.warehouse import Warehouse
from refine_dagster.pipeline import run_pipeline

SMALL = str(Path(__file__).parent / "small.yaml")


@pytest.fixture(scope="session")
def built_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home in which the whole graph was materialised. Not to be changed by tests."""
    home = Home(tmp_path_factory.mktemp("built"))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("REFINE_PROFILE", raising=False)
        patch.setenv("DAGSTER_HOME", str(home.dagster))
        run_pipeline(home, SMALL)
        yield home


@pytest.fixture
def built(built_home: Home) -> Warehouse:
    """The warehouse of the built home, for reading."""
    return Warehouse(built_home.warehouse)
