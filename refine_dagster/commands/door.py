"""What every command needs: the console, the home, and the warehouse in it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.console import Console

from refine_dagster.errors import RefineError
from refine_dagster.home import Home, find_home

if TYPE_CHECKING:
    from refine_dagster.lineage.warehouse import Warehouse

# A log file has no width of its own; tables need some.
LOG_WIDTH = 120
console = Console() if sys.stdout.isatty() else Console(width=LOG_WIDTH)


def existing_home() -> Home:
    """The home that the environment names.

    Raises:
        RefineError: nothing was ever materialised in it.
    """
    home = find_home()
    if not home.warehouse.is_file():
        raise RefineError(
            "there is no warehouse here yet",
            where=str(home.warehouse),
            fix="run `refine-dagster run` first, or set REFINE_HOME",
        )
    return home


def open_warehouse(home: Home) -> Warehouse:
    """The warehouse of a home; DuckDB is imported here, so that `--help` stays quick."""
    from refine_dagster.lineage.warehouse import Warehouse

    return Warehouse(home.warehouse)
