"""`docs/lineage.md` says what is so: its tables are the warehouse's, its answers the story's.

Every SQL block and every command of the document is run, from top to bottom, on a copy of the home
that `tests/builders/lineage_story.py` makes, and must give the text that stands below it. After a
change that is meant, write the answers anew and read what changed:

    python -m tests.docs.test_lineage --write

Ids inside SQL and commands are the author's: a new id is copied there by hand.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import polars as pl
import pytest
from rich.console import Console
from typer.testing import CliRunner

from refine_dagster.cli import app
from refine_dagster.commands import changes, output, tables, trace, upkeep
from refine_dagster.commands import output as door
from refine_dagster.home import HOME_VARIABLE, Home
from refine_dagster.warehouse.tables import TABLES
from refine_dagster.warehouse.warehouse import Warehouse
from tests.builders.lineage_story import tell
from tests.builders.warehouse import new_warehouse

DOCUMENT = Path(__file__).parents[2] / "docs" / "lineage.md"
COMMANDS = (changes, output, tables, trace, upkeep)
LONGEST = 250  # lines of the document, answers not counted
_ANSWERED = re.compile(
    r"^```sql\n(?P<sql>.*?)^```\n```text\n(?P<rows>.*?)^```$"
    r"|^```console\n\$ refine-dagster (?P<command>[^\n]*)\n(?P<printed>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Answer:
    """A question of the document, the place of the answer in it, and the answer found now."""

    question: str
    start: int
    end: int
    found: str


def answers(document: str, home: Home) -> Iterator[Answer]:
    """Ask everything that the document asks, in its order."""
    for block in _ANSWERED.finditer(document):
        if block["sql"] is not None:
            found = _queried(Warehouse(home.warehouse), block["sql"])
            yield Answer(block["sql"], *block.span("rows"), found)
        else:
            yield Answer(block["command"], *block.span("printed"), _printed(block["command"], home))


def _queried(warehouse: Warehouse, sql: str) -> str:
    with warehouse.connect() as connection:
        return as_text(connection.sql(sql).pl()) if _reads(sql) else _done(connection, sql)


def _reads(sql: str) -> bool:
    return sql.lstrip().startswith(("SELECT", "WITH", "FROM"))


def _done(connection: Any, sql: str) -> str:
    return f"{connection.execute(sql).fetchall()[0][0]} row changed\n"


def as_text(rows: pl.DataFrame) -> str:
    """A frame as a Markdown table: line breaks as ⏎, nothing for null."""
    cells = [rows.columns, *([_cell(value) for value in row] for row in rows.rows())]
    widths = [max(len(row[place]) for row in cells) for place in range(rows.width)]
    right = [kind.is_numeric() for kind in rows.dtypes]
    rule = [
        "-" * (width - 1) + ":" if to_right else "-" * width
        for width, to_right in zip(widths, right, strict=True)
    ]
    lines = [
        [
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(row, widths, right, strict=True)
        ]
        for row in (cells[0], rule, *cells[1:])
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(_cell(one) for one in value)
    return str(value).replace("\n", "⏎")


def _printed(command: str, home: Home) -> str:
    """What a command prints in the home; ` | head -9` keeps some lines, ` ; echo $?` the code."""
    asked, _, kept = command.partition(" | head -")
    asked, coded, _ = asked.partition("; echo $?")
    console = Console(width=door.LOG_WIDTH, color_system=None, force_terminal=False)
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.chdir(home.root))
        stack.enter_context(mock.patch.dict(os.environ, {HOME_VARIABLE: str(home.root)}))
        for module in COMMANDS:
            if hasattr(module, "console"):
                stack.enter_context(mock.patch.object(module, "console", console))
        told = CliRunner().invoke(app, asked.split())
    if told.exception is not None and not isinstance(told.exception, SystemExit):
        raise told.exception
    lines = [line.rstrip() for line in told.output.splitlines()]
    lines = lines[: int(kept)] if kept else lines
    lines += [str(told.exit_code)] if coded else []
    return "".join(f"{line}\n" for line in lines)


def write() -> None:
    """Put the answers found now into the document."""
    document = DOCUMENT.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        tell(home)
        for answer in reversed(list(answers(document, home))):
            document = document[: answer.start] + answer.found + document[answer.end :]
    DOCUMENT.write_text(document, encoding="utf-8")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("story"))
    tell(home)
    return home


@pytest.fixture(scope="module")
def document() -> str:
    return DOCUMENT.read_text(encoding="utf-8")


def test_every_answer_is_the_real_one(told: Home, document: str, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    shutil.copytree(told.root, home.root)
    asked = list(answers(document, home))
    assert len(asked) == document.count("\n```sql\n") + document.count("\n```console\n")
    for answer in asked:
        assert document[answer.start : answer.end] == answer.found, answer.question


def test_ten_questions_are_answered(document: str) -> None:
    questions = document.split("\n### ")[1:]
    assert [one.partition(".")[0] for one in questions] == [str(n) for n in range(1, 11)]
    assert all(_ANSWERED.search(one) for one in questions)
    answered = sum(
        len((one["rows"] or one["printed"]).splitlines()) for one in _ANSWERED.finditer(document)
    )
    assert len(document.splitlines()) - answered <= LONGEST


def test_the_story_is_the_same_each_time(told: Home, tmp_path: Path) -> None:
    again = Home(tmp_path)
    sql = "SELECT * FROM lineage.{} ORDER BY ALL"
    first, second = Warehouse(told.warehouse), tell(again)
    for relation in ("rows", "edges", "checkpoints", "inputs"):
        assert first.query(sql.format(relation)).equals(second.query(sql.format(relation)))


def test_documented_relations_are_those_of_a_new_warehouse(document: str, tmp_path: Path) -> None:
    documented = {
        name: set(re.findall(r"`(\w+)`", columns))
        for name, columns in re.findall(
            r"^\| `((?:lineage|store|main)\.\w+)\S*` \| (.*?) \|", document, re.MULTILINE
        )
    }
    warehouse = new_warehouse(tmp_path / "w.duckdb")
    with warehouse.connect() as connection:
        found = connection.execute(
            "SELECT schema_name || '.' || table_name, list(column_name) FROM duckdb_columns() "
            "WHERE NOT internal AND schema_name <> 'history' GROUP BY ALL"
        ).fetchall()
        macros = connection.execute(
            "SELECT schema_name || '.' || function_name FROM duckdb_functions() WHERE NOT internal"
        ).fetchall()
    real = {name: set(columns) for name, columns in found}
    for (name,) in macros:
        view = name.removesuffix("_of")
        real[name] = real[view] - {"table_name", "row_id"}
    live = {f"main.{name}" for name in TABLES}
    assert documented.keys() == real.keys() - live
    for name, columns in documented.items():
        assert columns, name
        assert columns <= real[name], name


def test_documented_data_tables_are_the_declared_ones(document: str) -> None:
    listed = document.partition("each of these data tables;")[2].partition("Those with")[0]
    documented = re.findall(r"`(\w+)`[;,.]", listed)
    assert documented == list(dict.fromkeys(documented))
    assert set(documented) == set(TABLES)
    with_rounds = document.partition("Those with")[2].partition(": ")[2].partition(". ")[0]
    assert set(re.findall(r"`(\w+)`", with_rounds)) == {
        name for name, table in TABLES.items() if table.rounds_from
    }


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python -m tests.docs.test_lineage --write")
    write()
