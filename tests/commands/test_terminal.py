"""No command lets a text of a seed or a model act on the terminal, nor the UI's Markdown on a page.

Every text column of a small home holds what would act; a command that prints it as it is fails.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from assets.preview import markdown_table
from refine_dagster.cli import app
from refine_dagster.escapes import HIDDEN
from refine_dagster.lineage.trace import trace
from refine_dagster.lineage.trace_text import as_markdown
from refine_dagster.warehouse.tables import TABLES
from refine_dagster.warehouse.warehouse import Warehouse
from tests.builders.small_warehouse import small_warehouse
from tests.commands.test_cli import commands

HOSTILE = (
    "a\x1b]52;c;aGk=\x07 \x1b[2J\x9b31m \x1b]8;;http://x\x07 \u202egnp.\u2066 \u200b\r"
    "![x](http://a/b.png) <img src=x> [red] | `c`"
)
# Those that print no text of a home, and those whose tests need a model.
OTHERS = {"run", "ui", "compare", "ask", "config describe", "audit head", "forget"}
OTHERS |= {"model export", "model fetch", "model convert", "report"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hostile")
    with small_warehouse(root / "warehouse.duckdb").connect() as connection:
        for name, table in TABLES.items():
            texts = [
                column
                for column, (kind, _) in table.columns.items()
                if (kind == "VARCHAR" and not column.endswith(("_id", "_hash")))
                or column == "seed_id"
            ]
            for column in texts:
                connection.execute(f"UPDATE history.{name} SET {column} = {column} || ?", [HOSTILE])
        connection.execute("UPDATE lineage.materializations SET run_id = run_id || ?", [HOSTILE])
        connection.execute("UPDATE store.completions SET text = text || ?", [HOSTILE])
        connection.execute("UPDATE lineage.parents SET role = role || ?", [HOSTILE])
    return root


def calls(home: Path) -> Iterator[list[str]]:
    """Calls of every command that shows something, in each of its formats."""
    warehouse = Warehouse(home / "warehouse.duckdb")
    row_id, seed = (
        warehouse.query(f"SELECT row_id FROM {name}").item(0, 0)
        for name in ("instruction_dataset", "seed_tasks")
    )
    seeds = home / "seeds.jsonl"
    task = {"id": f"s{HOSTILE}", "instruction": HOSTILE, "output": HOSTILE, f"nam{HOSTILE}": 1}
    seeds.write_text(json.dumps(task) + "\n", encoding="utf-8")
    yield ["status"]
    for name in TABLES:
        yield ["show", name]
    yield ["show", f"no{HOSTILE}"]
    yield ["export", "--to", str(home.parent / f"d{home.name}.json")]
    yield ["plan", "--seeds", str(seeds)]
    yield ["prune"]
    yield ["audit", "verify", "--deep"]
    yield ["model", "list"]
    yield ["seeds", "check", str(seeds)]
    yield ["config", "show", "--set", f"base_model.id={HOSTILE}"]
    yield ["dedupe", str(seeds), "--overwrite"]
    for call in (
        ["screen"],
        ["why", "instruction_dataset"],
        ["why", row_id],
        ["impact", seed],
        ["diff", "1", "6", "--table", "raw_instructions"],
    ):
        yield call
        yield [*call, "--format", "json"]
    for format in ("tree", "json", "mermaid", "dot"):
        yield ["trace", row_id, "--format", format]
    yield ["trace", seed, "--down"]


def test_every_command_escapes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFINE_HOME", str(home))
    fed: set[str] = set()
    leaks: dict[str, list[str]] = {}
    seen = ""
    for call in calls(home):
        result = CliRunner().invoke(app, call)
        # `main` prints errors through the same function.
        fed.add(next(" ".join(words) for words, _ in commands() if call[: len(words)] == words))
        seen += result.output
        if found := HIDDEN.findall(result.output):
            leaks[" ".join(call)[:60]] = sorted(set(found))
    assert not leaks
    assert seen.count("\\x1b]52;c;aGk=\\x07") > 20
    every = {" ".join(words) for words, _ in commands()}
    assert every - fed <= OTHERS, "feed a new command to this test"


def test_the_uis_markdown_is_text(home: Path) -> None:
    warehouse = Warehouse(home / "warehouse.duckdb")
    rows = warehouse.query("SELECT * EXCLUDE (parents) FROM instruction_dataset")
    for table in (rows, rows.select("instruction", "output"), pl.DataFrame({HOSTILE: [[HOSTILE]]})):
        shown = markdown_table(table)
        lines = shown.splitlines()
        bars = {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in lines}
        assert len(bars) == 1, "a cell breaks its line"
        assert acting(shown) == []
    row_id = str(rows["row_id"][0])
    assert acting(as_markdown(trace(warehouse, row_id)).rpartition("\n\n")[0]) == []


def acting(markdown: str) -> list[str]:
    """What acts in a text besides bars, and the project's own marks."""
    unescaped = re.sub(r"\\[^\w\s]", "", markdown)
    return HIDDEN.findall(unescaped) + re.findall(r"<|!\[|\]\(|https?://", unescaped)
