"""Promise 7, `audit_detects_tampering`: change any stored cell or byte, and the audit names it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pytest

from refine_dagster.hashing import content_id
from refine_dagster.home import Home
from refine_dagster.lineage.audit import verify
from refine_dagster.lineage.audit_report import AuditReport
from refine_dagster.lineage.export import export_live_dataset
from refine_dagster.warehouse.ledger import Record
from refine_dagster.warehouse.tables import TABLES
from refine_dagster.warehouse.warehouse import Warehouse

# The tables that have rows.
# Of the first policy round; the default config has neither a start nor pairs.
MADE = [
    name
    for name, table in TABLES.items()
    if table.rounds_from != 2 and table.asset != "policy_start" and not table.sparse
]


class Copy:
    """A copy of the built home that can be spoilt and put right again."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.warehouse = Warehouse(home.warehouse)
        self.pristine = home.warehouse.read_bytes()

    def spoil(self, sql: str) -> None:
        with duckdb.connect(str(self.home.warehouse)) as connection:
            connection.execute(sql)

    def one(self, sql: str) -> str:
        return str(self.warehouse.query(sql).item())

    def audit(self, *, deep: bool = False) -> AuditReport:
        return verify(self.warehouse, self.home.checkpoints, deep)

    def first(self, *, deep: bool = False) -> str:
        """The place that the audit names first."""
        report = self.audit(deep=deep)
        assert not report.whole
        return report.findings[0].place

    def mend(self) -> None:
        self.home.warehouse.write_bytes(self.pristine)


@pytest.fixture(scope="module")
def made(built_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """The copy, with its dataset exported, so that every table has a row."""
    folder = tmp_path_factory.mktemp("tampering")
    home = Home(folder / "home")
    shutil.copytree(built_home.checkpoints, home.checkpoints)
    shutil.copy(built_home.warehouse, home.warehouse)
    export_live_dataset(Warehouse(home.warehouse), "alpaca", folder / "dataset.json")
    return Copy(home)


@pytest.fixture
def copy(made: Copy) -> Iterator[Copy]:
    """The copy, put right again afterwards."""
    yield made
    made.mend()


def test_untouched(copy: Copy) -> None:
    report = copy.audit(deep=True)
    assert report.findings == []
    assert report.warnings == []
    for what in ("materializations", "rows", "completions", "edges", "checkpoint files"):
        assert report.checked[what] > 0
    assert report.checked["past states"] >= len({TABLES[name].asset for name in MADE})
    assert report.checked["exports"] == 1


@pytest.mark.parametrize("table", MADE)
def test_audit_detects_tampering(copy: Copy, table: str) -> None:
    """One cell of one row, in every table."""
    column, (kind, _) = list(TABLES[table].columns.items())[-1]
    other = {
        "VARCHAR": f"coalesce({column}, '') || ' '",
        "BOOLEAN": f"NOT coalesce({column}, false)",
        "VARCHAR[]": f"list_append({column}, '')",
    }.get(kind, f"coalesce({column}, 0) + 1")
    row_id = copy.one(f"SELECT min(row_id) FROM history.{table}")
    copy.spoil(f"UPDATE history.{table} SET {column} = {other} WHERE row_id = '{row_id}'")
    assert copy.first() == f"{table} row {row_id}"


A_SEED = "(SELECT min(row_id) FROM history.seed_tasks)"
A_JUDGED = "(SELECT min(row_id) FROM history.reward_scored_instructions)"
A_USED_KEY = "(SELECT min(key) FROM lineage.uses)"
AN_EDGE = "rowid = (SELECT min(rowid) FROM lineage.parents)"
# What is spoilt, and SQL for the place that must be named first.
CASES: dict[str, tuple[str, str]] = {
    "row_hash": (
        f"UPDATE history.seed_tasks SET row_hash = sha256('x') WHERE row_id = {A_SEED}",
        f"SELECT 'seed_tasks row ' || {A_SEED}",
    ),
    "row_id": (
        f"UPDATE history.seed_tasks SET row_id = 'no id' WHERE row_id = {A_SEED}",
        "SELECT 'seed_tasks row no id'",
    ),
    "parents of a row": (
        "UPDATE history.reward_scored_instructions SET parents = parents[2:] "
        f"WHERE row_id = {A_JUDGED}",
        f"SELECT 'reward_scored_instructions row ' || {A_JUDGED}",
    ),
    "a cell together with its row_hash": (
        f"UPDATE history.seed_tasks SET name = 'x' WHERE row_id = {A_SEED}; "
        "UPDATE history.seed_tasks SET row_hash = sha256(CAST(to_json(struct_pack("
        "row_id := row_id, seed_id := seed_id, name := name, instruction := instruction, "
        "input := input, output := output, instances := instances, "
        "is_classification := is_classification, parents := parents)) AS VARCHAR)) "
        f"WHERE row_id = {A_SEED}",
        "SELECT 'table seed_tasks'",
    ),
    "added_in": (
        f"UPDATE history.seed_tasks SET added_in = 2 WHERE row_id = {A_SEED}",
        f"SELECT 'seed_tasks row ' || {A_SEED}",
    ),
    "removed_in": (
        f"UPDATE history.seed_tasks SET removed_in = 2 WHERE row_id = {A_SEED}",
        "SELECT 'table seed_tasks'",
    ),
    "a row deleted": (
        f"DELETE FROM history.seed_tasks WHERE row_id = {A_SEED}",
        "SELECT 'table seed_tasks'",
    ),
    "a row inserted": (
        "INSERT INTO history.base_model_steps SELECT * REPLACE (md5('x') AS row_id) "
        "FROM history.base_model_steps LIMIT 1",
        "SELECT 'base_model_steps row ' || md5('x')",
    ),
    "a removed row inserted": (
        "INSERT INTO history.seed_tasks SELECT * REPLACE (9 AS removed_in) "
        f"FROM history.seed_tasks WHERE row_id = {A_SEED}",
        "SELECT 'table seed_tasks'",
    ),
    "an edge's parent": (
        f"UPDATE lineage.parents SET parent_id = uuid() WHERE {AN_EDGE}",
        "SELECT 'lineage.parents of ' || table_name || ' row ' || replace(row_id::VARCHAR, '-', '')"
        f" FROM lineage.parents WHERE {AN_EDGE}",
    ),
    "an edge's role": (
        f"UPDATE lineage.parents SET role = 'x' WHERE {AN_EDGE}",
        "SELECT 'lineage.parents of ' || table_name || ' row ' || replace(row_id::VARCHAR, '-', '')"
        f" FROM lineage.parents WHERE {AN_EDGE}",
    ),
    "an edge deleted": (
        "DELETE FROM lineage.parents "
        f"WHERE table_name = 'base_model' AND parent_id = {A_SEED}::UUID",
        "SELECT 'lineage.parents of base_model row ' || row_id FROM main.base_model",
    ),
    "an edge twice": (
        f"INSERT INTO lineage.parents SELECT * FROM lineage.parents WHERE {AN_EDGE}",
        "SELECT 'lineage.parents of ' || table_name || ' row ' || replace(row_id::VARCHAR, '-', '')"
        f" FROM lineage.parents WHERE {AN_EDGE}",
    ),
    "an edge of no table": (
        "INSERT INTO lineage.parents VALUES ('x', 1, uuid(), 'seed_tasks', 1, uuid(), 'x')",
        "SELECT 'lineage.parents of x'",
    ),
    "an input": (
        "UPDATE lineage.inputs SET data_version = 'x' WHERE sequence = 2",
        "SELECT 'materialization 2 (base_model)'",
    ),
    "an input inserted": (
        "INSERT INTO lineage.inputs VALUES (1, 'base_model', 'x')",
        "SELECT 'materialization 1 (seed_tasks)'",
    ),
    "requests by role": (
        "UPDATE lineage.requests SET sent = sent + 1 WHERE role = 'propose'",
        "SELECT 'materialization ' || min(sequence) || ' (raw_instructions)' "
        "FROM lineage.requests WHERE role = 'propose'",
    ),
    "requests of no materialization": (
        "INSERT INTO lineage.requests VALUES (999, 'propose', 0, 0, 0, 0, 0, 0)",
        "SELECT 'lineage.requests of sequence 999'",
    ),
    "a config": (
        "UPDATE lineage.configs SET config = replace(config, '{', '{ ') "
        "WHERE config_hash = (SELECT min(config_hash) FROM lineage.configs)",
        "SELECT 'lineage.configs ' || min(config_hash) FROM lineage.configs",
    ),
    "a config deleted": (
        "DELETE FROM lineage.configs "
        "WHERE config_hash = (SELECT min(config_hash) FROM lineage.materializations)",
        "SELECT 'lineage.configs ' || min(config_hash) FROM lineage.materializations",
    ),
    "a checkpoint's hash": (
        "UPDATE lineage.checkpoints SET content_hash = sha256('x') WHERE asset = 'base_model'",
        "SELECT 'materialization 2 (base_model)'",
    ),
    "a checkpoint's manifest": (
        "UPDATE lineage.checkpoints SET manifest = '{}' WHERE asset = 'base_model'",
        "SELECT 'lineage.checkpoints ' || path FROM lineage.checkpoints WHERE asset = 'base_model'",
    ),
    "a checkpoint's files": (
        "UPDATE lineage.checkpoints SET files = files[2:] WHERE asset = 'base_model'",
        "SELECT 'lineage.checkpoints ' || path FROM lineage.checkpoints WHERE asset = 'base_model'",
    ),
    "a checkpoint's path": (
        "UPDATE lineage.checkpoints SET path = 'elsewhere' WHERE asset = 'base_model'",
        "SELECT 'lineage.checkpoints base_model/' || left(content_hash, 16) "
        "FROM lineage.checkpoints WHERE asset = 'base_model'",
    ),
    "whether it was sent": (
        f"UPDATE lineage.uses SET sent = NOT sent WHERE key = {A_USED_KEY}",
        "SELECT 'lineage.uses of materialization ' || min(sequence) || ', key ' || min(key) "
        f"FROM lineage.uses WHERE key = {A_USED_KEY}",
    ),
    "the digest of a use": (
        f"UPDATE lineage.uses SET digest = sha256('x') WHERE key = {A_USED_KEY}",
        "SELECT 'lineage.uses of materialization ' || sequence || ' (' || asset || ')' "
        f"FROM lineage.materializations WHERE sequence = (SELECT min(sequence) FROM lineage.uses "
        f"WHERE key = {A_USED_KEY})",
    ),
    "a use deleted": (
        f"DELETE FROM lineage.uses WHERE key = {A_USED_KEY}",
        "SELECT 'lineage.uses of materialization ' || sequence || ' (' || asset || ')' "
        f"FROM lineage.materializations WHERE sequence = (SELECT min(sequence) FROM lineage.uses "
        f"WHERE key = {A_USED_KEY})",
    ),
    "a completion deleted": (
        f"DELETE FROM store.completions WHERE key = {A_USED_KEY}",
        f"SELECT 'store.completions ' || {A_USED_KEY}",
    ),
    "a completion under a wrong key": (
        "INSERT INTO store.completions "
        "SELECT * REPLACE ('0' AS key) FROM store.completions LIMIT 1",
        "SELECT 'store.completions 0'",
    ),
    "a mart's cell": (
        "UPDATE marts.yield_funnel SET rows = rows + 1 WHERE outcome = 'in'",
        "SELECT 'marts.yield_funnel'",
    ),
    "a row in a mart": (
        "INSERT INTO marts.dataset_lineage SELECT * FROM marts.dataset_lineage LIMIT 1",
        "SELECT 'marts.dataset_lineage'",
    ),
    "a mart dropped": ("DROP TABLE marts.funnel_balance", "SELECT 'marts.funnel_balance'"),
    "a mart beside the models": ("CREATE TABLE marts.x AS SELECT 1", "SELECT 'marts.x'"),
    "a staging view": (
        "CREATE OR REPLACE VIEW staging.stg_seed_tasks AS SELECT 1 AS row_id",
        "SELECT 'staging.stg_seed_tasks'",
    ),
    "a live view": (
        "CREATE OR REPLACE VIEW main.exports AS SELECT * EXCLUDE (row_hash, added_in, removed_in) "
        "FROM history.exports WHERE false",
        "SELECT 'view main.exports'",
    ),
    "a table of the ledger dropped": (
        "DROP TABLE lineage.requests",
        "SELECT 'table lineage.requests'",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_everything_else_that_is_stored(copy: Copy, case: str) -> None:
    sql, expected = CASES[case]
    place = copy.one(expected)
    copy.spoil(sql)
    assert copy.first() == place


IN_THE_LEDGER = (
    "run_id",
    "data_version",
    "rows_total",
    "requests_sent",
    "tables",
    "metrics",
    "started_at",
    "previous_digest",
    "digest",
)


@pytest.mark.parametrize("column", IN_THE_LEDGER)
def test_cells_of_the_ledger(copy: Copy, column: str) -> None:
    number = column.startswith(("rows", "requests"))
    other = f"{column} + 1" if number else f"sha256({column})"
    copy.spoil(f"UPDATE lineage.materializations SET {column} = {other} WHERE sequence = 5")
    assert copy.first().startswith("materialization 5 (")


@pytest.mark.parametrize("column", ["text", "prompt", "model", "seed", "seconds", "run_id"])
def test_cells_of_a_completion(copy: Copy, column: str) -> None:
    other = f"{column} + 1" if column in ("seed", "seconds") else f"{column} || '.'"
    key = copy.one(f"SELECT {A_USED_KEY}")
    copy.spoil(f"UPDATE store.completions SET {column} = {other} WHERE key = '{key}'")
    assert copy.first() == f"store.completions {key}"


def test_a_link_cut_out(copy: Copy) -> None:
    copy.spoil("DELETE FROM lineage.materializations WHERE sequence = 5")
    assert copy.first() == "materialization 5"


def test_a_past_that_was_moved(copy: Copy) -> None:
    """A row said to have come later, with a materialization that its asset has: `deep` can tell."""
    record = Record("base_model", "run", "1", content_id("config", {}))
    later = copy.warehouse.commit(record, None).sequence
    steps = "(SELECT min(row_id) FROM history.base_model_steps)"
    copy.spoil(f"UPDATE history.base_model_steps SET added_in = {later} WHERE row_id = {steps}")
    assert copy.audit().whole
    assert copy.first(deep=True) == "table base_model_steps as of 2"


def _flip_a_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def _add_beside(file: Path) -> None:
    (file.parent / "more.json").write_text("{}", encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "named", "what"),
    [
        (_flip_a_byte, "model.safetensors", "its bytes are not those"),
        (Path.unlink, "model.safetensors", "the file is gone"),
        (_add_beside, "more.json", "the file was not there"),
        (lambda file: shutil.rmtree(file.parent), "", "the folder is gone"),
    ],
)
def test_files_of_a_checkpoint(
    copy: Copy, spoil: Callable[[Path], object], named: str, what: str
) -> None:
    relative = copy.one("SELECT path FROM lineage.checkpoints WHERE asset = 'base_model'")
    folder = copy.home.checkpoints / relative
    kept = copy.home.root / "kept"
    shutil.copytree(folder, kept)
    try:
        spoil(folder / "model.safetensors")
        finding = copy.audit().findings[0]
        assert finding.place == f"checkpoints/{relative}" + (f"/{named}" if named else "")
        assert what in finding.what
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        kept.rename(folder)


def test_a_manifest_that_names_another_checkpoint(copy: Copy) -> None:
    (note,) = (copy.home.checkpoints / "base_model" / "manifests").iterdir()
    told = note.read_text(encoding="utf-8")
    try:
        note.write_text(told.replace('"content_hash":"', '"content_hash":"0'), encoding="utf-8")
        assert copy.first() == f"checkpoints/base_model/manifests/{note.name}"
    finally:
        note.write_text(told, encoding="utf-8")


def test_an_export_edited_afterwards_is_a_warning(copy: Copy) -> None:
    file = copy.home.root.parent / "dataset.json"
    told = file.read_bytes()
    try:
        file.write_bytes(told + b"\n")
        report = copy.audit(deep=True)
        assert report.whole
        assert [warning.place for warning in report.warnings] == [str(file)]
    finally:
        file.write_bytes(told)
