"""The columns of a SQL model: their meaning, and the stored columns they are computed from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.lineage import Node, lineage
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import build_scope

from refine_dagster.errors import first_line
from refine_dagster.sql_models.catalog import Catalog, Relation
from refine_dagster.sql_models.draft import (
    ColumnComment,
    Draft,
    comment_of,
    read_comment,
    stored_tables,
)
from refine_dagster.sql_models.model import DIALECT, Column, Origin, SqlModel, SqlProblem


def with_columns(draft: Draft, catalog: Catalog, problems: list[SqlProblem]) -> SqlModel:
    """The finished model: stars spelt out, each column described and traced to stored columns."""
    try:
        columns = _columns(draft, catalog, problems)
    except SqlglotError as error:
        problems.append(_column_problem(draft, error))
        columns = []
    assets = {asset for relation in draft.reads for asset in catalog.relations[relation].assets}
    return replace(
        draft.model,
        reads=tuple(sorted(draft.reads)),
        depends_on=tuple(sorted(assets)),
        columns=tuple(columns),
    )


def _columns(draft: Draft, catalog: Catalog, problems: list[SqlProblem]) -> list[Column]:
    relations, schema = catalog.relations, catalog.schema
    query = draft.query.copy()
    for table in stored_tables(query):
        if not table.db and isinstance(table.this, exp.Identifier):
            table.set("db", exp.to_identifier("main"))
    query = qualify(
        query, schema=schema, dialect=DIALECT, validate_qualify_columns=False, identify=False
    )
    scope = build_scope(query)
    comments: dict[str, ColumnComment] = {
        select.alias_or_name.lower(): comment_of(draft, place)
        for place, select in enumerate(draft.query.selects)
        if not select.is_star
    }
    columns = []
    for name in query.named_selects:
        comment = comments.get(name.lower(), ColumnComment("", draft.first_line))
        node = lineage(
            name, query, schema, scope=scope, dialect=DIALECT, trim_selects=False, copy=False
        )
        origins = _origins(node, relations)
        for origin in origins:
            if origin.column not in relations[origin.relation].columns:
                problems.append(
                    draft.problem(comment.line, f"{origin.relation} has no {origin.column!r}")
                )
        description, checks, _ = read_comment(name, comment.text)
        if not description and _is_passed_on(node):
            description = _meaning(node, relations)
        columns.append(Column(name, description, checks, origins))
    return columns


def _column_problem(draft: Draft, error: SqlglotError) -> SqlProblem:
    message = first_line(error)
    named = re.search(r"column:? '?\"?(\w+)", message)
    lines = [
        column.this.meta.get("line", draft.first_line)
        for column in draft.query.find_all(exp.Column)
        if named and column.name.lower() == named[1].lower()
    ]
    return draft.problem(lines[0] if lines else draft.first_line, message)


def _origins(node: Node, catalog: Mapping[str, Relation]) -> tuple[Origin, ...]:
    found: set[Origin] = set()
    for leaf in node.walk():
        table = leaf.expression
        if isinstance(table, exp.Table):
            relation = f"{table.db or 'main'}.{table.name}".lower()
            if relation not in catalog:
                continue
            column = leaf.name.rsplit(".", 1)[-1].strip('"')
            found |= {Origin(relation, column, maker) for maker in catalog[relation].makers}
    return tuple(
        sorted(found, key=lambda origin: (origin.relation, origin.column, origin.asset or ""))
    )


def _meaning(node: Node, catalog: Mapping[str, Relation]) -> str:
    """The meaning of the stored columns that it is computed from; empty where these differ."""
    read = {
        (f"{leaf.expression.db or 'main'}.{leaf.expression.name}".lower(), leaf.name)
        for leaf in node.walk()
        if isinstance(leaf.expression, exp.Table)
    }
    meanings = {
        catalog[relation].columns.get(name.rsplit(".", 1)[-1].strip('"'), ("", ""))[1]
        if relation in catalog
        else ""
        for relation, name in read
    }
    return meanings.pop() if len(meanings) == 1 else ""


def _is_passed_on(node: Node) -> bool:
    """Whether the column is a stored column as it is, under whatever name."""
    return all(
        isinstance(step.expression, exp.Table) or isinstance(step.expression.unalias(), exp.Column)
        for step in node.walk()
    )
