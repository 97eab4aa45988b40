"""Reads a folder of SQL models: their dependencies, their order, and everything that is wrong."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from sqlglot import exp
from sqlglot.errors import SqlglotError

from refine_dagster.errors import first_line
from refine_dagster.sql_models.catalog import Catalog, Relation, stored_relations
from refine_dagster.sql_models.draft import Draft, read_draft, stored_tables
from refine_dagster.sql_models.model import (
    DIALECT,
    LAYERS,
    Layer,
    SqlModel,
    SqlModelError,
    SqlProblem,
)
from refine_dagster.sql_models.origins import with_columns
from refine_dagster.warehouse.tables import TABLES, tables_of

MODELS_FOLDER = Path(__file__).resolve().parents[2] / "dbt_like_sql"

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_ROW_MAKERS = (exp.GenerateSeries, exp.Unnest)


def read_models(folder: Path = MODELS_FOLDER, rounds: int = 1) -> list[SqlModel]:
    """The models of a folder, each after the models that it reads.

    Args:
        rounds: policy rounds of the graph: a model that reads a table with rounds comes after the
            assets of so many.

    Raises:
        SqlModelError: with every problem found in any file.
    """
    # The packaged files are those of the running code: they are read once.
    return list(_packaged(rounds) if folder == MODELS_FOLDER else _read(folder, rounds))


@cache
def _packaged(rounds: int) -> tuple[SqlModel, ...]:
    return tuple(_read(MODELS_FOLDER, rounds))


def _read(folder: Path, rounds: int) -> list[SqlModel]:
    problems: list[SqlProblem] = []
    drafts = [
        draft for path in _model_files(folder, problems) for draft in read_draft(path, problems)
    ]
    by_relation = {draft.model.relation: draft for draft in drafts}
    _check_names(drafts, problems)
    for draft in drafts:
        _find_reads(draft, by_relation, problems)
    order = _dependency_order(drafts, by_relation, problems)
    if problems:
        raise SqlModelError(problems, where=str(folder))
    catalog = Catalog(stored_relations(rounds))
    models = []
    for draft in order:
        model = with_columns(draft, catalog, problems)
        columns = {column.name: ("UNKNOWN", column.description) for column in model.columns}
        catalog.add(model.relation, Relation(columns, (model.name,), (model.name,)))
        models.append(model)
    if problems:
        raise SqlModelError(problems, where=str(folder))
    return models


def _model_files(folder: Path, problems: list[SqlProblem]) -> list[tuple[Layer, Path, str]]:
    found: list[tuple[Layer, Path, str]] = []
    paths = sorted(folder.rglob("*.sql"))
    if not paths:
        raise SqlModelError([SqlProblem(".", 1, "there is no model here")], where=str(folder))
    for path in paths:
        file = path.relative_to(folder).as_posix()
        layer = next((layer for layer in LAYERS if file == f"{layer}/{path.name}"), None)
        if layer is None:
            problems.append(SqlProblem(file, 1, "a model lives in staging/ or in marts/"))
        elif not _NAME.fullmatch(path.stem):
            problems.append(SqlProblem(file, 1, "a file name is lower case letters, digits and _"))
        else:
            found.append((layer, path, file))
    return found


def _check_names(drafts: Sequence[Draft], problems: list[SqlProblem]) -> None:
    taken = {table.name: "a warehouse table" for table in TABLES.values()}
    for draft in drafts:
        name = draft.model.name
        if tables_of(name):
            taken.setdefault(name, "an asset")
        if name in taken:
            problems.append(draft.problem(1, f"the name {name!r} belongs to {taken[name]} already"))
        else:
            taken[name] = draft.model.file


def _find_reads(draft: Draft, models: Mapping[str, Draft], problems: list[SqlProblem]) -> None:
    """Fill `draft.reads` with the tables that are no common table expressions."""
    known = {*stored_relations(), *models}
    if any(union.args.get("by_name") for union in draft.query.find_all(exp.SetOperation)):
        problems.append(
            draft.problem(
                draft.first_line, "UNION BY NAME hides where columns come from: order them"
            )
        )
    try:
        tables = stored_tables(draft.query)
    except SqlglotError as error:
        problems.append(draft.problem(draft.first_line, first_line(error)))
        return
    for table in tables:
        line = _line(table, draft.first_line)
        if not isinstance(table.this, exp.Identifier):
            if not isinstance(table.this, _ROW_MAKERS):
                problems.append(
                    draft.problem(line, f"{table.sql(dialect=DIALECT)} reads what no asset makes")
                )
            continue
        written = ".".join(part.name for part in table.parts)
        relation = f"{table.db or 'main'}.{table.name}".lower()
        if table.catalog or relation not in known:
            meant = _meant(table.name.lower(), known)
            hint = f": did you mean {meant}?" if meant else ""
            problems.append(draft.problem(line, f"unknown table {written}{hint}"))
        else:
            draft.reads.setdefault(relation, line)


def _meant(name: str, known: Collection[str]) -> str | None:
    """The relation that an author who writes `name` is likely to mean."""
    likely = (f"{schema}.{name}" for schema in ("main", *LAYERS, "store", "lineage", "history"))
    return next((relation for relation in likely if relation in known), None)


def _line(node: exp.Expression, default: int) -> int:
    lines = [
        identifier.meta["line"]
        for identifier in node.find_all(exp.Identifier)
        if "line" in identifier.meta
    ]
    return int(lines[0]) if lines else default


def _dependency_order(
    drafts: Sequence[Draft], models: Mapping[str, Draft], problems: list[SqlProblem]
) -> list[Draft]:
    """Each draft after those that it reads; cycles become problems."""
    graph = {
        draft.model.relation: sorted(read for read in draft.reads if read in models)
        for draft in sorted(drafts, key=lambda draft: draft.model.relation)
    }
    while True:
        try:
            return [models[relation] for relation in TopologicalSorter(graph).static_order()]
        except CycleError as error:
            circle: list[str] = error.args[1][::-1]
            first = models[circle[0]]
            problems.append(
                first.problem(first.reads[circle[1]], f"reads itself: {' -> '.join(circle)}")
            )
            graph = {
                relation: [read for read in reads if read not in circle]
                for relation, reads in graph.items()
                if relation not in circle
            }
