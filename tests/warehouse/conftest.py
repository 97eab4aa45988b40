"""A version of this project with other tables."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import pytest

from refine_dagster.warehouse import schema, tables
from refine_dagster.warehouse.tables import Table

Declare = Callable[[Mapping[str, Table]], None]


@pytest.fixture
def declare(monkeypatch: pytest.MonkeyPatch) -> Iterator[Declare]:
    """Lets a test play a version of this project with other tables."""
    original = tables.TABLES

    def declare(changed: Mapping[str, Table]) -> None:
        newer = MappingProxyType({**original, **changed})
        for name, module in list(sys.modules.items()):
            if name.startswith("refine_dagster") and vars(module).get("TABLES") is original:
                monkeypatch.setattr(module, "TABLES", newer)
        schema.declarations_fingerprint.cache_clear()

    yield declare
    monkeypatch.undo()
    schema.declarations_fingerprint.cache_clear()
