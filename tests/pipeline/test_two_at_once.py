"""Two runs started together: one works, the other stops or waits, and no row is lost or doubled."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest

from refine_dagster.definitions import build_definitions
from refine_dagster.home import Home
from refine_dagster.run import prepare_dagster_home, run_pipeline
from refine_dagster.warehouse.ledger import GENESIS
from refine_dagster.warehouse.run_lock import LOCK_FILE, RunLockedError, holding_run_lock
from refine_dagster.warehouse.tables import tables_of
from refine_dagster.warehouse.warehouse import Warehouse
from tests.pipeline.conftest import SMALL
from tests.pipeline.home_content import base_model_folder

ENDS_WITHIN_S = 150.0
STAGES = (
    "seed_tasks",
    "base_model",
    "instructor_policy",
    "evolved_instructions",
    "raw_instructions",
    "instruction_decisions",
    "filtered_instructions",
)


class Runs:
    """Real runs of the first stage, each a process of its own."""

    def __init__(self, home: Home, base_model: str) -> None:
        self.home = home
        self.base_model = base_model

    def start(self, *options: str) -> subprocess.Popen[str]:
        kept = {name: text for name, text in os.environ.items() if not name.startswith("REFINE_")}
        kept.pop("DAGSTER_HOME", None)
        command = [sys.executable, "-m", "refine_dagster.cli", "run", "--profile", SMALL]
        command += ["--select", "+filtered_instructions", *options]
        return subprocess.Popen(
            command,
            env={
                **kept,
                "REFINE_HOME": str(self.home.root),
                "REFINE_BASE_MODEL": self.base_model,
                "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and what was printed."""
    try:
        told, _ = process.communicate(timeout=ENDS_WITHIN_S)
    finally:
        process.kill()
    return process.returncode, told


@pytest.fixture(scope="module")
def runs(built_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    home = Home(tmp_path_factory.mktemp("two_at_once") / "home")
    return Runs(home, base_model_folder(built_home))


@pytest.mark.timeout(400)
def test_two_at_once(runs: Runs) -> None:
    """In a new home one of the two stops; with `--wait` both end, the second with nothing to do."""
    pair = [runs.start(), runs.start()]
    results = [ended(process) for process in pair]
    assert sorted(code for code, _ in results) == [0, 1], results
    (winner, loser) = sorted(range(2), key=lambda index: results[index][0])
    told = results[loser][1]
    assert told.startswith("error: "), told
    found = re.search(
        r"run \S+ \(process (\d+), since [-\d]+ [:\d]+ UTC\) works in this home", told
    )
    assert found, told
    assert int(found[1]) == pair[winner].pid
    assert "refine-dagster run --wait 600" in told
    assert "Traceback" not in told
    warehouse = Warehouse(runs.home.warehouse)
    one_run_each(warehouse, 1)
    tables = contents(warehouse)

    waiting = [runs.start("--wait", "120"), runs.start("--wait", "120")]
    results = [ended(process) for process in waiting]
    assert [code for code, _ in results] == [0, 0], results
    assert sum("waiting up to 120 s for run " in told for _, told in results) == 1, results
    one_run_each(warehouse, 3)
    sent = warehouse.query(
        "SELECT run_id, sum(requests_sent) AS sent FROM lineage.materializations "
        "GROUP BY run_id ORDER BY min(sequence)"
    )["sent"].to_list()
    assert sent[0] > 0
    assert sent[1:] == [0, 0]
    assert contents(warehouse) == tables
    assert (runs.home.root / LOCK_FILE).read_bytes() == b""


def one_run_each(warehouse: Warehouse, count: int) -> None:
    """The ledger holds `count` whole runs, one after the other, in one chain."""
    rows = warehouse.query(
        "SELECT sequence, run_id, asset, previous_digest, digest FROM lineage.materializations "
        "ORDER BY sequence"
    ).rows()
    assert [row[0] for row in rows] == list(range(1, count * len(STAGES) + 1))
    for start in range(0, len(rows), len(STAGES)):
        block = rows[start : start + len(STAGES)]
        assert len({row[1] for row in block}) == 1
        assert {row[2] for row in block} == set(STAGES)
    assert [row[3] for row in rows] == [GENESIS, *(row[4] for row in rows[:-1])]
    once = warehouse.query("SELECT count(*) = count(DISTINCT key) FROM store.completions")
    assert once.item() is True
    for table in (one.table.name for asset in STAGES for one in tables_of(asset)):
        found = warehouse.query(
            f"SELECT count(*), count(DISTINCT row_id), count(*) FILTER (removed_in IS NULL) "
            f"FROM history.{table}"
        ).row(0)
        assert len(set(found)) == 1, (table, found)


def contents(warehouse: Warehouse) -> dict[str, list[str]]:
    """The row ids of every table."""
    return {one.name: warehouse.read(one.name)["row_id"].to_list() for one in warehouse.slices()}


@pytest.mark.slow
def test_a_run_of_the_ui_holds_its_home_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not pass through the command line: the warehouse resource holds the home for it."""
    home = Home(tmp_path / "home")
    monkeypatch.setenv("DAGSTER_HOME", str(home.dagster))
    prepare_dagster_home(home)
    job = build_definitions(SMALL, home=home).resolve_job_def("everything")
    keys = [dg.AssetKey("seed_tasks")]
    warehouse = {"database": str(home.warehouse), "run_wait_s": 0.5}
    config = {"resources": {"warehouse": {"config": warehouse}}}
    with dg.DagsterInstance.get() as instance:
        with holding_run_lock(home.root, "another"):
            result = job.execute_in_process(
                config, instance, asset_selection=keys, raise_on_error=False
            )
            assert not result.success
            with pytest.raises(RunLockedError, match="run another"):
                run_pipeline(home, SMALL, None, "seed_tasks")
        assert not home.warehouse.exists()
        assert job.execute_in_process(config, instance, asset_selection=keys).success
    assert (home.root / LOCK_FILE).read_bytes() == b""


@pytest.mark.timeout(200)
def test_a_killed_run_is_over_for_dagster_too(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run reports it: otherwise it would be shown as running for ever."""
    home = Home(tmp_path / "home")
    process = Runs(home, runs.base_model).start()
    deadline = time.monotonic() + 300
    while not home.warehouse.is_file() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=300)
    monkeypatch.setenv("DAGSTER_HOME", str(home.dagster))
    with dg.DagsterInstance.get() as instance:
        (killed,) = instance.get_runs()
        assert killed.status == dg.DagsterRunStatus.STARTED
        run_pipeline(home, SMALL, None, "seed_tasks")
        found = instance.get_run_by_id(killed.run_id)
    assert found is not None
    assert found.status == dg.DagsterRunStatus.FAILURE
