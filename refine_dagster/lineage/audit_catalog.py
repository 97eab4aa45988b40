"""Audit of the catalog: the database has what its schema version declares, and nothing else."""

from __future__ import annotations

from collections import defaultdict
from functools import cache

import duckdb

from refine_dagster.lineage.audit_report import AuditReport
from refine_dagster.warehouse import schema
from refine_dagster.warehouse.catalog import Entry, read_catalog

# The database of `schema.new_schema`.
IN_MEMORY = "memory"


def check_fingerprint(connection: duckdb.DuckDBPyConnection, report: AuditReport) -> bool:
    """Whether the database is up to date; warn where it is not, though its migrations all ran.

    Another version of this project has other declarations; or somebody changed the fingerprint, so
    that views which differ are silently made again.
    """
    version, fingerprint = schema.read_state(connection)
    migrated = version == len(schema.migrations())
    declared = fingerprint == schema.declarations_fingerprint()
    if migrated and not declared:
        report.warned(
            "lineage.declarations",
            "had the fingerprint of another version of refine-dagster, or was changed; views and "
            "comments were made again",
        )
    return migrated and declared


def check_catalog(
    connection: duckdb.DuckDBPyConnection, report: AuditReport, database: str
) -> None:
    """Tables, columns, views, macros, comments: each is as declared, and no others are there.

    Args:
        database: what the connection calls the audited one.
    """
    fingerprint = schema.declarations_fingerprint()
    declared = _declared(fingerprint, schema.migrations())
    found = read_catalog(connection, database)
    # Before what is missing: a view that was replaced has lost its comment, too.
    for place in sorted(declared.keys() & found.keys()):
        right, here = declared[place].definition, found[place].definition
        # A database made by another DuckDB may write the same query otherwise.
        if here != right and _rewritten(place, here) != right:
            report.broken(place, "is not as declared")
    for place in sorted(declared.keys() - found.keys()):
        if declared[place].of not in declared.keys() - found.keys():
            report.broken(place, "is missing")
    undeclared: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for place in sorted(found.keys() - declared.keys()):
        if found[place].of not in found.keys() - declared.keys():
            undeclared[place.partition(" ")[0]].append((place, "is not declared"))
    for places in undeclared.values():
        report.broken_each(places)
    relations = [place for place in found if place.startswith(("table ", "view "))]
    report.looked_at("relations", len(relations))
    applied = connection.execute(
        "SELECT version, name FROM main.schema_migrations ORDER BY version"
    ).fetchall()
    if tuple(applied) != schema.migrations():
        report.broken("main.schema_migrations", "are not the migrations of this version")
    fingerprints = connection.execute("SELECT fingerprint FROM lineage.declarations").fetchall()
    if fingerprints != [(fingerprint,)]:
        report.broken("lineage.declarations", "does not hold the one fingerprint of this version")


@cache
def _declared(fingerprint: str, migrations: tuple[tuple[int, str], ...]) -> dict[str, Entry]:
    """The catalog of a new warehouse; cached for these arguments."""
    with schema.new_schema() as fresh:
        return read_catalog(fresh, IN_MEMORY)


def _rewritten(place: str, definition: str) -> str:
    """A view's query as this version of DuckDB writes it."""
    kind, _, name = place.partition(" ")
    if kind != "view" or not definition.startswith("CREATE VIEW"):
        return definition
    with schema.new_schema() as fresh:
        fresh.execute(f"DROP VIEW {name}")
        try:
            fresh.execute(definition)
        except duckdb.Error:
            return definition
        return read_catalog(fresh, IN_MEMORY)[place].definition
