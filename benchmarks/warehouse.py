"""What the warehouse costs by the number of rows: commit, as-of read, trace, content hash.

Run it from the repository's root:

    python benchmarks/warehouse.py
    python benchmarks/warehouse.py --sizes 10000 100000

A table of candidates is committed through `Warehouse.commit`, each row with nine parents (the
model, six seeds, two earlier candidates); then committed again unchanged, with 1,000 rows changed,
and with all of them changed. Beside it stands what DuckDB takes to replace a table of the same
rows, which keeps no history, no parents and no hashes. Rows are laid out in bulk; what it costs to
make them one by one, as assets do, is measured apart.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import duckdb
import polars as pl
from rich.console import Console
from rich.table import Table

from refine_dagster.lineage.trace import trace
from refine_dagster.warehouse.content import content_hash
from refine_dagster.warehouse.ledger import Record
from refine_dagster.warehouse.rows import Parent, frame, make_row, schema_of
from refine_dagster.warehouse.tables import TABLES, slice_of
from refine_dagster.warehouse.warehouse import Warehouse

TABLE = "raw_instructions"
SEEDS = 200
CHANGED = 1000
# So many rows are made one by one.
ONE_BY_ONE = 20_000

console = Console(highlight=False, soft_wrap=True)


def rows(count: int, changed: int = 0, edition: int = 0) -> pl.DataFrame:
    """`count` candidates, the last `changed` of them in another edition than the others."""
    numbers = pl.DataFrame({"i": pl.int_range(count, eager=True)}).with_columns(
        edition=pl.when(pl.col("i") >= count - changed).then(edition).otherwise(0)
    )
    with duckdb.connect() as connection:
        connection.register("numbers", numbers.to_arrow())
        made = connection.sql(
            f"""
            SELECT md5(i || '/' || edition) AS row_id, 'self_instruct' AS method,
                   printf('%06d/%02d/00', i // 24, i % 24) AS slot, i // 24 AS round,
                   i % 24 AS request, 0 AS position,
                   'Write a few words about thing number ' || i || ' and say in edition '
                   || edition || ' why it matters to anybody.' AS instruction,
                   true AS parsed, NULL AS parse_problem,
                   sha256(i || '/' || edition) AS completion_key, sha256('model') AS policy,
                   [{{'asset': 'base_model', 'row_id': md5('model'), 'role': 'generator'}}] ||
                   list_transform(range(6), lambda n: {{'asset': 'seed_tasks',
                       'row_id': md5('seed' || (hash(i, n) % {SEEDS})), 'role': 'demonstration'}})
                   || list_transform(range(2), lambda n: {{'asset': '{TABLE}',
                       'row_id': md5((hash(i, n) % greatest(i // 2, 1))::BIGINT || '/0'),
                       'role': 'demonstration'}}) AS parents
            FROM numbers
            """
        ).pl()
    return made.cast(schema_of(TABLES[TABLE]))


@contextmanager
def timed(found: dict[str, tuple[float, float]], name: str) -> Iterator[None]:
    """Keep CPU seconds and seconds on the clock of what is done inside."""
    clock, cpu = time.perf_counter(), time.process_time()
    yield
    found[name] = time.process_time() - cpu, time.perf_counter() - clock


def commit(warehouse: Warehouse, made: pl.DataFrame) -> None:
    """Commit rows as a run would."""
    record = Record(asset=TABLE, run_id="benchmark", code_version="1", config_hash="")
    warehouse.commit(record, {TABLE: made})


def measure(folder: Path, count: int) -> dict[str, tuple[float, float]]:
    """Measure one size: what was done -> (CPU seconds, seconds on the clock)."""
    found: dict[str, tuple[float, float]] = {}
    first, second = rows(count), rows(count, CHANGED, 1)
    warehouse = Warehouse(folder / f"{count}.duckdb")
    warehouse.query("SELECT 1")
    with timed(found, "first commit"):
        commit(warehouse, first)
    with timed(found, "commit, nothing changed"):
        commit(warehouse, first)
    with timed(found, f"commit, {CHANGED:,} rows changed"):
        commit(warehouse, second)
    with timed(found, "read live"):
        assert warehouse.read(TABLE).equals(second.sort("row_id"))
    with timed(found, "read as of the first"):
        assert warehouse.read(TABLE, as_of=1).equals(first.sort("row_id"))
    with timed(found, "content hash"), warehouse.connect() as connection:
        content_hash(connection, slice_of(TABLE))
    newest = second["row_id"][-1]
    with timed(found, "trace of one row"):
        ancestors = trace(warehouse, newest).rows.height
    with warehouse.held(), timed(found, "the same, the file open"):
        trace(warehouse, newest)
    console.print(
        f"{count:,} rows: {warehouse.path.stat().st_size / 1e6:.0f} MB, {ancestors} traced"
    )
    with duckdb.connect(str(folder / f"plain{count}.duckdb")) as plain:
        plain.execute("CREATE TABLE candidates AS SELECT * FROM first")
        with timed(found, "DuckDB: replace the table"):
            plain.execute("CREATE OR REPLACE TABLE candidates AS SELECT * FROM second")
            plain.execute("CHECKPOINT")
    return found


def one_by_one() -> None:
    """Print what it costs to make rows as assets do, and to lay them out."""
    made = rows(ONE_BY_ONE)
    payloads = made.drop("row_id", "parents").to_dicts()
    parents = [[Parent(**one) for one in given] for given in made["parents"].to_list()]
    named = [0.0, 0.0]
    begun = time.process_time()
    done = [make_row(TABLE, *given) for given in zip(payloads, parents, strict=True)]
    named[0] = time.process_time() - begun
    begun = time.process_time()
    frame(TABLE, done)
    named[1] = time.process_time() - begun
    console.print(
        f"make_row {named[0] / ONE_BY_ONE * 1e6:.0f} us a row, "
        f"frame {named[1] / ONE_BY_ONE * 1e6:.0f} us a row"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    given = parser.parse_args()
    console.print(
        f"Python {platform.python_version()}, DuckDB {version('duckdb')}, "
        f"polars {version('polars')}; CPU seconds (seconds on the clock)"
    )
    with tempfile.TemporaryDirectory() as folder:
        columns = {count: measure(Path(folder), count) for count in given.sizes}
    table = Table()
    table.add_column("")
    for count in columns:
        table.add_column(f"{count:,} rows", justify="right")
    shown: Callable[[tuple[float, float]], str] = lambda one: f"{one[0]:.2f} ({one[1]:.2f})"  # noqa: E731
    for name in next(iter(columns.values())):
        table.add_row(name, *(shown(column[name]) for column in columns.values()))
    console.print(table)
    one_by_one()


if __name__ == "__main__":
    main()
