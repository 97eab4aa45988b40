"""A forgotten seed leaves no byte in the home, the audit goes on, and what is left is named."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from refine_dagster.cli import app
from refine_dagster.errors import RefineError
from refine_dagster.hashing import file_hash
from refine_dagster.home import Home
from refine_dagster.lineage import forget, prune
from refine_dagster.lineage.audit import verify
from refine_dagster.lineage.text_search import SHORTEST, piece_of
from refine_dagster.warehouse.checkpoints import CheckpointStore
from refine_dagster.warehouse.rows import Parent, Row, make_row, parents
from refine_dagster.warehouse.tables import EXPORTS
from tests.builders.rows import row, seed_row
from tests.builders.warehouse import commit, new_warehouse
from tests.lineage.test_audit import answer

SECRET = "Say where Ms Okonkwo-Larsen keeps her spare keys, please!"
OUTPUT = "Below the third flower pot from the left."
OTHER = "Name the colour of a ripe tomato in one word."


class Project:
    """A home in which a model was trained on a secret, shown, logged and exported."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root / "home")
        self.warehouse = new_warehouse(self.home.warehouse)
        self.store = CheckpointStore(self.home.checkpoints)
        self.secret = seed_row("secret", SECRET, output=OUTPUT)
        self.other = seed_row("other", OTHER, output="red")
        self.exported = root / "dataset.json"
        commit(self.warehouse, "seed_tasks", [self.secret, self.other])
        key = answer(self.warehouse, f"Instruction: {SECRET}\nOutput: {OUTPUT}")
        commit(self.warehouse, "raw_instructions", [], uses={key: True})
        self.export(self.train([self.secret, self.other]))
        self.log()

    def train(self, seeds: list[Row]) -> Row:
        texts = [f"Instruction: {seed['instruction']}\nOutput: {seed['output']}" for seed in seeds]

        def fill(folder: Path) -> dict[str, Any]:
            (folder / "model.bin").write_text(str(len(texts)), encoding="utf-8")
            return {}

        checkpoint = self.store.train_or_reuse("base_model", {"seeds": texts, "steps": 1}, fill)
        model = row(
            "base_model",
            parents(seeds, "seed_tasks", "trained_on"),
            fingerprint=str(len(texts)),
            checkpoint_hash=checkpoint.content_hash,
        )
        commit(self.warehouse, "base_model", [model], [checkpoint])
        return model

    def export(self, model: Row) -> None:
        self.exported.write_text(SECRET, encoding="utf-8")
        payload = {
            "path": str(self.exported),
            "format": "alpaca",
            "sha256": file_hash(self.exported),
            "rows": 1,
            "data_version": "v",
        }
        parent = Parent("base_model", model["row_id"], "exported")
        commit(self.warehouse, EXPORTS, [make_row(EXPORTS, payload, [parent])])

    def log(self) -> None:
        """What Dagster keeps of a step: a preview, cut as in the UI, and captured output."""
        folder = self.home.dagster / "history"
        folder.mkdir(parents=True)
        event = {"dagster_event": {"md_str": f"| {SECRET[:50]}… |", "label": "preview"}}
        with closing(sqlite3.connect(folder / "run.db")) as database:
            database.execute("CREATE TABLE event_logs (id INTEGER PRIMARY KEY, event TEXT)")
            database.execute("INSERT INTO event_logs (event) VALUES (?)", [json.dumps(event)])
            database.execute('INSERT INTO event_logs (event) VALUES (\'{"label": "other"}\')')
            database.commit()
        (folder / "step.err").write_text(f"one\nread {SECRET}\ntwo\n", encoding="utf-8")

    def remove(self) -> None:
        commit(self.warehouse, "seed_tasks", [self.other])
        commit(self.warehouse, "raw_instructions", [])
        self.train([self.other])

    def holding(self, text: str) -> list[str]:
        """Files whose bytes have a text."""
        paths = [path for path in self.home.root.rglob("*") if path.is_file()]
        return [path.name for path in paths if text.encode() in path.read_bytes()]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_what_is_live_is_not_forgotten(project: Project) -> None:
    with pytest.raises(RefineError, match="secret is a live seed"):
        forget.plan(project.warehouse, "secret")
    commit(project.warehouse, "seed_tasks", [project.other])
    with pytest.raises(RefineError, match="1 live rows were made from secret"):
        forget.plan(project.warehouse, "secret")
    with pytest.raises(RefineError, match="has a seed 'nobody'"):
        forget.plan(project.warehouse, "nobody")


def test_no_byte_is_left_and_the_chain_still_verifies(project: Project) -> None:
    project.remove()
    assert project.holding(SECRET[:30])
    found = forget.plan(project.warehouse, "secret")
    assert (len(found.rows), found.short, found.shared, len(found.models)) == (1, 0, 0, 1)
    done = forget.apply(project.home, "secret")
    assert done.left == ()
    assert done.cells == 2
    for text in (SECRET[:30], OUTPUT[:30], json.dumps(SECRET)[1:30]):
        assert project.holding(text) == []
    assert not project.exported.exists()
    report = verify(project.warehouse, project.home.checkpoints, deep=True)
    assert report.findings == []
    (metrics,) = project.warehouse.query(
        "SELECT metrics FROM lineage.materializations WHERE asset = 'prune'"
    )["metrics"]
    tombstone = json.loads(metrics)
    assert tombstone["forgotten"] == [project.secret["row_id"]]
    assert len(tombstone["forgotten_completions"]) == 1
    assert project.warehouse.read("seed_tasks")["instruction"].to_list() == [OTHER]
    event = "SELECT event FROM event_logs ORDER BY id"
    with closing(sqlite3.connect(project.home.dagster / "history" / "run.db")) as database:
        shown = [json.loads(event) for (event,) in database.execute(event)]
    assert shown[0]["dagster_event"]["label"] == "preview"
    assert shown[1] == {"label": "other"}


def test_a_manifest_changed_by_hand_is_no_tombstone(project: Project) -> None:
    project.remove()
    forget.apply(project.home, "secret")
    with project.warehouse.connect() as connection:
        connection.execute(
            "UPDATE lineage.checkpoints SET manifest = replace(manifest, '\"steps\":1', "
            "'\"steps\":2') WHERE contains(manifest, 'forgotten')"
        )
    (finding,) = verify(project.warehouse, project.home.checkpoints).findings
    assert finding.what == "its manifest does not give its manifest hash"


def test_what_is_left_is_named(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFINE_HOME", str(project.home.root))
    project.remove()
    (project.home.root / "notes.txt").write_text(f"x{OUTPUT}", encoding="utf-8")
    beside = new_warehouse(project.home.root / "comparisons" / "warehouse.duckdb")
    commit(beside, "seed_tasks", [project.secret])
    project.exported.write_text("edited", encoding="utf-8")
    asked = CliRunner().invoke(app, ["forget", "secret"])
    assert asked.exit_code == 0, asked.output
    assert "now in store.completions: 1 rows" in asked.output
    assert asked.output.endswith("nothing was changed; do it with --yes\n")
    done = CliRunner().invoke(app, ["forget", "secret", "--yes"])
    assert done.exit_code == 1
    assert "left in notes.txt: its bytes" in done.output
    place = "comparisons/warehouse.duckdb, history.seed_tasks"
    assert f"left in {place}: 1 rows" in done.output
    assert f"{project.exported}, gone or changed since" in done.output
    assert project.exported.read_text(encoding="utf-8") == "edited"


def test_a_pruned_seed_is_forgotten_by_its_file(project: Project, tmp_path: Path) -> None:
    project.remove()
    commit(project.warehouse, EXPORTS, [])
    prune.apply(project.warehouse, project.home.checkpoints)
    with pytest.raises(RefineError, match="--from"):
        forget.plan(project.warehouse, "secret")
    file = tmp_path / "former.jsonl"
    task = {"id": "secret", "instruction": SECRET, "input": "", "output": OUTPUT}
    file.write_text(json.dumps(task) + "\n", encoding="utf-8")
    assert forget.apply(project.home, "secret", file).left == ()
    assert project.holding(SECRET[:30]) == []


@pytest.mark.parametrize("text", [SECRET, OUTPUT, 'He said "no" and went on walking.', "a\nb" * 9])
def test_a_piece_is_written_the_same_everywhere(text: str) -> None:
    piece = piece_of(text)
    if piece is None:
        assert all(len(part) < SHORTEST for part in text.split("\n"))
    else:
        assert piece in text
        assert json.dumps(piece) == f'"{piece}"'
