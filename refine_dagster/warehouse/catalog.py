"""What a database's catalog holds, in a form in which two databases can be compared."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import duckdb

from refine_dagster.warehouse.sql import literal, literals

# The schemas of SQL models: their views and tables are recorded one by one, and not declared.
MODEL_SCHEMAS = ("staging", "marts")
# Their columns may stand in any order: homes that were migrated have others than new ones.
_UNORDERED = "history"
_NAME = re.compile(r'"(?:[^"]|"")*"|[^\s(]+')
_CONSTRAINTS = ("CHECK(", "FOREIGN KEY", "PRIMARY KEY", "UNIQUE(")


@dataclass(frozen=True)
class Entry:
    """A thing in the catalog.

    Attributes:
        definition: what makes two things of one name the same; SQL where DuckDB keeps some.
        of: the place of the table, view or schema that it belongs to; "" where it stands alone.
    """

    definition: str
    of: str = ""


def read_catalog(connection: duckdb.DuckDBPyConnection, database: str) -> dict[str, Entry]:
    """Place, such as `view main.exports` or `column store.completions.text` -> what is there.

    Of the schemas of SQL models it has what no model makes: macros, types, indexes and the like.

    Args:
        connection: one on which built-in functions cannot be hidden (`database.built_ins_only`).
    """
    here = f"database_name = {literal(database)}"
    declared = f"{here} AND schema_name NOT IN ({literals(MODEL_SCHEMAS)})"
    entries: dict[str, Entry] = {}
    for schema, sql, comment in connection.execute(
        f"SELECT schema_name, sql, comment FROM duckdb_schemas() WHERE {here} AND NOT internal"
    ).fetchall():
        if schema not in MODEL_SCHEMAS or comment is not None:
            _add(entries, f"schema {schema}", sql or "", comment)
    for schema, name, sql, comment in connection.execute(
        "SELECT schema_name, table_name, sql, comment FROM duckdb_tables() "
        f"WHERE {declared} AND NOT internal AND NOT temporary"
    ).fetchall():
        parts = list(_parts(sql))
        columns = [] if schema == _UNORDERED else [part for part, _ in parts]
        place = f"table {schema}.{name}"
        _add(entries, place, ", ".join(columns), comment)
        for part, definition in parts:
            entries[f"column {schema}.{name}.{part}"] = Entry(definition, place)
    for schema, name, sql, comment in connection.execute(
        "SELECT schema_name, view_name, sql, comment FROM duckdb_views() "
        f"WHERE {declared} AND NOT internal AND NOT temporary"
    ).fetchall():
        _add(entries, f"view {schema}.{name}", sql, comment)
    for schema, table, column, comment in connection.execute(
        "SELECT schema_name, table_name, column_name, comment FROM duckdb_columns() "
        f"WHERE {declared} AND NOT internal AND comment IS NOT NULL"
    ).fetchall():
        owner = next(
            (
                f"{kind} {schema}.{table}"
                for kind in ("table", "view")
                if f"{kind} {schema}.{table}" in entries
            ),
            "",
        )
        entries[f"comment on column {schema}.{table}.{column}"] = Entry(comment, owner)
    # A macro has a line for each number of arguments that it takes.
    for schema, name, definitions, comments in connection.execute(
        "SELECT schema_name, function_name, list(concat_ws(' ', function_type, "
        "CAST(parameters AS VARCHAR), CAST(parameter_types AS VARCHAR), macro_definition)), "
        "list(comment) FILTER (comment IS NOT NULL) FROM duckdb_functions() "
        f"WHERE {here} AND NOT internal GROUP BY schema_name, function_name"
    ).fetchall():
        comment = "; ".join(sorted(comments)) if comments else None
        _add(entries, f"macro {schema}.{name}", "; ".join(sorted(definitions)), comment)
    for kind, query in _OTHERS.items():
        for schema, name, definition in connection.execute(query.format(here=here)).fetchall():
            entries[f"{kind} {schema}.{name}"] = Entry(definition or "")
    return entries


_OTHERS = {
    "index": "SELECT schema_name, index_name, sql FROM duckdb_indexes() WHERE {here}",
    "sequence": "SELECT schema_name, sequence_name, sql FROM duckdb_sequences() "
    "WHERE {here} AND NOT temporary",
    "type": "SELECT schema_name, type_name, logical_type FROM duckdb_types() "
    "WHERE {here} AND NOT internal",
    "trigger": "SELECT schema_name, trigger_name, sql FROM duckdb_triggers() "
    "WHERE {here} AND NOT temporary",
}


def _add(entries: dict[str, Entry], place: str, definition: str, comment: str | None) -> None:
    entries[place] = Entry(definition)
    if comment is not None:
        entries[f"comment on {place}"] = Entry(comment, place)


def _parts(sql: str) -> Iterator[tuple[str, str]]:
    """Name and definition of each column and constraint of a CREATE TABLE that DuckDB wrote.

    >>> list(_parts('CREATE TABLE a.t(x INTEGER DEFAULT(f(1, 2)), "a,b" VARCHAR NOT NULL);'))
    [('x', 'INTEGER DEFAULT(f(1, 2))'), ('a,b', 'VARCHAR NOT NULL')]
    """
    depth = start = 0
    quote = ""
    for at, letter in enumerate(sql):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter == "(":
            depth += 1
            start = at + 1 if depth == 1 else start
        elif letter == ")":
            depth -= 1
        if not quote and ((letter == "," and depth == 1) or (letter == ")" and depth == 0)):
            part, start = sql[start:at].strip(), at + 1
            found = None if part.startswith(_CONSTRAINTS) else _NAME.match(part)
            if found is None:
                yield "constraint", part
            else:
                name = found[0].removeprefix('"').removesuffix('"').replace('""', '"')
                yield name, part[found.end() :].strip()
