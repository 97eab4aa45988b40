"""`refine-dagster show`: the rows of a table, now or as they were."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from refine_dagster.commands.output import (
    MOST_ROWS,
    cell,
    console,
    existing_home,
    open_warehouse,
    plain,
    rich_table,
    titled,
)
from refine_dagster.errors import RefineError

if TYPE_CHECKING:
    import polars as pl

    from refine_dagster.warehouse.warehouse import Warehouse

# Columns a table cell needs, its border included, before words are broken up.
NARROWEST = 14


def show(
    table: Annotated[str, typer.Argument(help="A table, a staging view or a mart.")],
    limit: Annotated[int, typer.Option(min=1, max=MOST_ROWS, help="Rows shown.")] = 20,
    as_of: Annotated[
        int | None, typer.Option(help="Rows as they were after this materialization.")
    ] = None,
) -> None:
    """Show the rows of a table: the live ones, or those of any past materialization.

    Example: refine-dagster show instruction_dataset --limit 5 --as-of 12
    """
    warehouse = open_warehouse(existing_home())
    relations = warehouse.relations()
    if table not in relations:
        raise RefineError(f"there is no table {table!r}", fix=f"one of {', '.join(relations)}")
    source, when = relations[table], ""
    if as_of is not None:
        source, when = _past(warehouse, table, as_of), f" as of materialization {as_of}"
    total = warehouse.query(f"SELECT count(*) FROM {source}").item()
    rows = warehouse.query(f"SELECT COLUMNS(lambda c: c <> 'parents') FROM {source} LIMIT {limit}")
    title = f"{table}{when}: {rows.height} of {total} rows"
    if rows.width * NARROWEST <= console.width:
        console.print(rich_table(title, rows.columns, rows.rows()))
    else:
        console.print(_records(title, rows))


def _records(title: str, rows: pl.DataFrame) -> Table:
    """Rows with too many columns for the terminal: a line for each column, hashes whole."""
    records = titled(title, show_header=False)
    records.add_column("column", no_wrap=True)
    records.add_column("value", overflow="fold")
    for row in rows.rows():
        for name, value in zip(rows.columns, row, strict=True):
            records.add_row(plain(name), plain(cell(value, whole=True)))
        records.add_section()
    return records


def _past(warehouse: Warehouse, table: str, sequence: int) -> str:
    """A subquery for the rows of a table as they were after a materialization."""
    from refine_dagster.warehouse.tables import TABLES
    from refine_dagster.warehouse.warehouse import require_as_of

    if table not in TABLES:
        raise RefineError(
            f"{table} has no history: it is a view of live tables",
            where="--as-of",
            fix=f"leave --as-of out, or name a table that keeps past rows: {', '.join(TABLES)}",
        )
    with warehouse.connect() as connection:
        require_as_of(connection, sequence)
    columns = ", ".join(TABLES[table].stored)
    return (
        f"(SELECT {columns} FROM history.{table} WHERE added_in <= {sequence} "
        f"AND (removed_in IS NULL OR removed_in > {sequence}) ORDER BY row_id)"
    )
