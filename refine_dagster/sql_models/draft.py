"""One SQL file: its query, its description, the comments on its columns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlglot import Dialect, Token, TokenType, exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.scope import traverse_scope

from refine_dagster.hashing import text_hash
from refine_dagster.sql_models.model import (
    DIALECT,
    LAYERS,
    Check,
    Layer,
    Materialized,
    SqlModel,
    SqlProblem,
)

_DIRECTIVE = re.compile(r"([a-z_]+):\s*([a-z_]+)")
_TAG = re.compile(r"#([A-Za-z_]\w*)(?:\{([^}]*)\})?")
_BRACKETS = {
    TokenType.L_PAREN: 1,
    TokenType.L_BRACKET: 1,
    TokenType.L_BRACE: 1,
    TokenType.R_PAREN: -1,
    TokenType.R_BRACKET: -1,
    TokenType.R_BRACE: -1,
}
_AFTER_COLUMNS = {
    TokenType.FROM,
    TokenType.WHERE,
    TokenType.GROUP_BY,
    TokenType.HAVING,
    TokenType.QUALIFY,
    TokenType.WINDOW,
    TokenType.ORDER_BY,
    TokenType.LIMIT,
    TokenType.UNION,
    TokenType.EXCEPT,
    TokenType.INTERSECT,
    TokenType.SEMICOLON,
}
_NAMED = (exp.Alias, exp.Column, exp.Dot)


@dataclass
class Draft:
    """A model that is being read: the parsed query, and what is known so far."""

    model: SqlModel
    query: exp.Query
    comments: list[ColumnComment]
    first_line: int  # of the query in its file, from 1
    reads: dict[str, int]  # relation -> line

    def problem(self, line: int, message: str) -> SqlProblem:
        return SqlProblem(self.model.file, line, message)


@dataclass(frozen=True)
class ColumnComment:
    """The comment after a column of the SELECT, and the line it ends on."""

    text: str
    line: int


def read_draft(place: tuple[Layer, Path, str], problems: list[SqlProblem]) -> list[Draft]:
    """The draft of one file; none where it cannot be read."""
    layer, path, file = place
    try:
        text = path.read_text(encoding="utf-8-sig")
        dialect = Dialect.get_or_raise(DIALECT)
        tokens = dialect.tokenize(text)
        statements = [
            statement for statement in dialect.parser().parse(tokens, text) if statement is not None
        ]
    except UnicodeDecodeError as error:
        problems.append(SqlProblem(file, 1, f"not UTF-8 at byte {error.start}"))
        return []
    except SqlglotError as error:
        line, message = _parse_error(error)
        problems.append(SqlProblem(file, line, message))
        return []
    description, materialized = _header(layer, text, file, problems)
    statements = [statement for statement in statements if not isinstance(statement, exp.Semicolon)]
    if len(statements) != 1 or not isinstance(statements[0], (exp.Select, exp.SetOperation)):
        line = tokens[0].line if tokens else 1
        problems.append(SqlProblem(file, line, "a model is one SELECT, no more and nothing else"))
        return []
    query = statements[0]
    tokens = [token for token in tokens if token.token_type != TokenType.SEMICOLON]
    model = SqlModel(
        name=path.stem,
        layer=layer,
        materialized=materialized,
        file=file,
        description=description,
        query=text[tokens[0].start : tokens[-1].end + 1],
        version=_version(query),
        reads=(),
        depends_on=(),
        columns=(),
    )
    draft = Draft(model, query, _column_comments(text, tokens), tokens[0].line, {})
    _check_columns(draft, problems)
    return [draft]


def _parse_error(error: SqlglotError) -> tuple[int, str]:
    first: dict[str, Any] = next(iter(getattr(error, "errors", ())), {})
    message = str(first.get("description") or error).splitlines()[0]
    return int(first.get("line") or 1), f"not readable as SQL: {re.sub('<Token.*?>', '', message)}"


def _version(query: exp.Query) -> str:
    return text_hash(query.sql(dialect=DIALECT, comments=False))


def _header(
    layer: Layer, text: str, file: str, problems: list[SqlProblem]
) -> tuple[str, Materialized]:
    """The description and how to materialize, from the comment lines at the top."""
    materialized = LAYERS[layer]
    paragraphs: list[list[str]] = [[]]
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        if not line.lstrip().startswith("--"):
            break
        content = line.strip().lstrip("-").strip()
        directive = _DIRECTIVE.fullmatch(content)
        if directive is None:
            if content:
                paragraphs[-1].append(content)
            elif paragraphs[-1]:
                paragraphs.append([])
        elif directive[1] != "materialized":
            problems.append(SqlProblem(file, number, f"unknown directive {directive[1]!r}"))
        elif directive[2] == "view" or directive[2] == "table":
            materialized = "view" if directive[2] == "view" else "table"
        else:
            problems.append(
                SqlProblem(file, number, f"materialized is view or table, not {directive[2]!r}")
            )
    description = "\n\n".join(" ".join(lines) for lines in paragraphs if lines)
    if not description:
        problems.append(SqlProblem(file, 1, "no description: begin the file with a -- comment"))
    return description, materialized


def _column_comments(text: str, tokens: Sequence[Token]) -> list[ColumnComment]:
    """The comment behind each column of the outermost SELECT (the first one of a UNION).

    A comment belongs to the column that ends on its line; lines of nothing but comment below it
    go on with it.
    """
    depth, ends, last = 0, [], None
    inside = False
    for token in tokens:
        depth += _BRACKETS.get(token.token_type, 0)
        if depth == 0 and token.token_type == TokenType.SELECT:
            inside, last = True, None
            continue
        if not inside:
            continue
        if depth == 0 and token.token_type in _AFTER_COLUMNS:
            break
        if depth == 0 and token.token_type == TokenType.COMMA and last is not None:
            ends.append((last, token))
            last = None
        else:
            last = token
    if last is not None:
        ends.append((last, last))
    return [
        ColumnComment(_behind(text, after.end) or _behind(text, end.end), end.line)
        for end, after in ends
    ]


def _behind(text: str, end: int) -> str:
    first, *below = text[end + 1 :].split("\n")
    if not first.strip().startswith("--"):
        return ""
    lines = [first]
    for line in below:
        if not line.strip().startswith("--"):
            break
        lines.append(line)
    return " ".join(line.strip().lstrip("-").strip() for line in lines).strip()


def _check_columns(draft: Draft, problems: list[SqlProblem]) -> None:
    """Every column has a name of its own, and only known tags."""
    seen: set[str] = set()
    for place, select in enumerate(draft.query.selects):
        comment = comment_of(draft, place)
        if select.is_star:
            if _TAG.search(comment.text):
                problems.append(draft.problem(comment.line, "a tag needs a column, not a *"))
            continue
        name = select.alias_or_name if isinstance(select, _NAMED) else ""
        if not name:
            problems.append(draft.problem(comment.line, "a column without a name: add AS name"))
        elif name.lower() in seen:
            problems.append(draft.problem(comment.line, f"column {name!r} occurs twice"))
        seen.add(name.lower())
        for message in read_comment(name, comment.text)[2]:
            problems.append(draft.problem(comment.line, message))


def stored_tables(query: exp.Query) -> list[exp.Table]:
    """The tables and table functions that a query reads, without its common table expressions.

    Raises:
        SqlglotError: two sources have the same name.
    """
    tables = {
        id(source): source
        for scope in traverse_scope(query)
        for source in scope.sources.values()
        if isinstance(source, exp.Table)
    }
    return list(tables.values())


def comment_of(draft: Draft, place: int) -> ColumnComment:
    if place < len(draft.comments):
        return draft.comments[place]
    return ColumnComment("", draft.first_line)


def read_comment(column: str, text: str) -> tuple[str, tuple[Check, ...], list[str]]:
    """A column comment's description, checks and problems."""
    checks: list[Check] = []
    problems: list[str] = []
    for tag, values in _TAG.findall(text):
        accepted = tuple(value.strip() for value in values.split(",") if value.strip())
        if tag not in ("unique", "not_null", "accepted"):
            problems.append(f"unknown tag #{tag}: it is #unique, #not_null or #accepted{{a,b}}")
        elif (tag == "accepted") != bool(accepted):
            wrong = "names no value: #accepted{a,b}" if tag == "accepted" else "takes no values"
            problems.append(f"#{tag} {wrong}")
        elif any(check.kind == tag for check in checks):
            problems.append(f"#{tag} occurs twice")
        else:
            checks.append(Check(tag, column, accepted))
    description = " ".join(_TAG.sub("", text).split())
    return description, tuple(checks), problems
