"""The event log of a run: Dagster's own files and rows, written over connections that stay open."""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.event_log.sqlite import SqliteEventLogStorage
from sqlalchemy.exc import DBAPIError

from refine_dagster.errors import RefineError
from refine_dagster.home import Home
from refine_dagster.run import prepare_dagster_home
from resources.event_log import DagsterFilesError, OpenEventLog, files_error, open_instance


@dg.asset
def numbers() -> dg.MaterializeResult[None]:
    return dg.MaterializeResult(metadata={"count": 3})


@dg.asset_check(asset="numbers")
def counted() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    home = Home(tmp_path / "home")
    monkeypatch.setenv("DAGSTER_HOME", str(home.dagster))
    prepare_dagster_home(home)
    return home


def _materialise(instance: dg.DagsterInstance) -> str:
    result = dg.materialize([numbers, counted], instance=instance)
    assert result.success
    return result.run_id


def _open_files(below: Path) -> list[str]:
    names = []
    for number in os.listdir("/proc/self/fd"):
        try:
            names.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            continue
    return [name for name in names if name.startswith(str(below))]


def test_dagster_reads_every_event_of_a_run_while_it_is_written(home: Home) -> None:
    with open_instance(home) as instance:
        assert isinstance(instance.event_log_storage, OpenEventLog)
        run_id = _materialise(instance)
        told = [(one.message, one.timestamp) for one in instance.all_logs(run_id)]
        with dg.DagsterInstance.get() as other:
            assert type(other.event_log_storage) is SqliteEventLogStorage
            assert [(one.message, one.timestamp) for one in other.all_logs(run_id)] == told
    with dg.DagsterInstance.get() as later:
        assert [(one.message, one.timestamp) for one in later.all_logs(run_id)] == told
        made = later.get_latest_materialization_event(dg.AssetKey("numbers"))
        assert made is not None
        assert made.run_id == run_id
        # Another run of the kind that the UI starts, then one of ours, in the same files.
        other_run = _materialise(later)
    with open_instance(home) as instance:
        last_run = _materialise(instance)
        runs = {run.run_id for run in instance.get_runs()}
    assert runs == {run_id, other_run, last_run}


def test_its_files_stay_open_until_the_end_of_the_run(home: Home) -> None:
    with open_instance(home) as instance:
        run_id = _materialise(instance)
        held = _open_files(home.dagster)
        assert any(name.endswith(f"{run_id}.db") for name in held)
        assert any(name.endswith("index.db") for name in held)
    assert _open_files(home.dagster) == []


def test_a_storage_named_in_dagster_yaml_is_left_alone(home: Home) -> None:
    settings = home.dagster / "dagster.yaml"
    with settings.open("a", encoding="utf-8") as file:
        file.write(
            "event_log_storage:\n  module: dagster._core.storage.event_log\n"
            "  class: ConsolidatedSqliteEventLogStorage\n"
            f"  config: {{base_dir: '{home.dagster / 'mine'}'}}\n"
        )
    with open_instance(home) as instance:
        assert type(instance.event_log_storage).__name__ == "ConsolidatedSqliteEventLogStorage"
        _materialise(instance)
    assert list((home.dagster / "mine").iterdir())


@pytest.mark.parametrize(
    "content", [b"storage: [", b"telemetry: 3", b"nonsense: 1", b"\xff\xfe\x00"]
)
def test_a_broken_dagster_yaml_is_one_error(home: Home, content: bytes) -> None:
    (home.dagster / "dagster.yaml").write_bytes(content)
    with pytest.raises(DagsterFilesError, match=r"dagster\.yaml: Dagster cannot read it"):
        open_instance(home)


def test_damaged_files_are_not_called_a_full_disk(home: Home) -> None:
    index = home.dagster / "history" / "runs" / "index.db"
    with open_instance(home):
        pass
    index.write_bytes(b"garbage " * 1000)
    with pytest.raises(DBAPIError) as raised, open_instance(home) as instance:
        instance.all_asset_keys()
    told = str(files_error(home, raised.value))
    assert "are damaged" in told
    assert "make room" not in told
    assert "make room" in str(files_error(home, OSError(28, "No space left on device")))


@pytest.mark.parametrize("name", ["what?", "a%20b", "a[b]", "a*"])
def test_a_path_that_dagster_misreads_is_refused_before_anything_is_written(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(RefineError, match="Dagster cannot keep its files under a path with"):
        prepare_dagster_home(Home(tmp_path / name))
    assert list(tmp_path.iterdir()) == []
