"""Automation: what an edit of the seed file starts, and what it never starts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.automation_tick_evaluation_context import build_run_requests

from assets.automation import automated, condition_sensors
from assets.seeds import seed_file_changed
from refine_dagster.definitions import build_definitions
from refine_dagster.home import Home
from refine_dagster.seeds.readers import read_seeds
from refine_dagster.warehouse.ledger import Record
from refine_dagster.warehouse.rows import frame
from refine_dagster.warehouse.warehouse import Warehouse
from resources.profile import ProfileResource
from resources.warehouse import WarehouseResource

BY_HAND = {
    "seed_tasks",
    "base_model",
    "feedback_judge",
    "instructor_policy",
    "policy_start",
    "rl_policy_checkpoint",
    "fine_tuned_model",
    "baseline_model",
    "evaluation_report",
    "privacy_report",
    "run_report",
}
DATASET, MARTS = "dataset_kept_fresh", "marts_kept_fresh"
PACKAGED = (files("refine_dagster.seeds") / "packaged.jsonl").read_text(encoding="utf-8")


class Daemon:
    """What Dagster's daemon would do: ticks, and the materializations between them."""

    def __init__(
        self,
        definitions: dg.Definitions,
        instance: dg.DagsterInstance,
        *sensors: str,
        rounds: int = 1,
        cursors: Mapping[str, Any] | None = None,
    ) -> None:
        self.sensors = [one for one in condition_sensors(rounds) if one.name in sensors]
        self.definitions = definitions
        self.instance = instance
        self.graph = definitions.resolve_asset_graph()
        self.order = [key.to_user_string() for key in self.graph.toposorted_asset_keys]
        self.cursors: dict[str, Any] = dict(cursors or {})
        self.runs: list[dg.RunRequest] = []
        if cursors is None:
            self.tick()

    def made(self, asset: str, version: str, *, passed: bool = True) -> None:
        """The asset was materialised with this content; its checks passed, or did not."""
        key = dg.AssetKey(asset)
        tags = {"dagster/data_version": version}
        self.instance.report_runless_asset_event(dg.AssetMaterialization(key, tags=tags))
        for check in self.graph.get_check_keys_for_assets({key}):
            told = dg.AssetCheckEvaluation(
                asset_key=key, check_name=check.name, passed=passed, metadata={}
            )
            self.instance.report_runless_asset_event(told)

    def tick(self) -> list[str]:
        """The assets requested, in the order of the graph; the runs for them are in `runs`."""
        asked: set[str] = set()
        self.runs = []
        for sensor in self.sensors:
            result = dg.evaluate_automation_conditions(
                self.definitions,
                self.instance,
                sensor.asset_selection,
                cursor=self.cursors.get(sensor.name),
            )
            self.cursors[sensor.name] = result.cursor
            asked |= {name for name in self.order if result.get_num_requested(dg.AssetKey(name))}
            self.runs += build_run_requests(
                entity_subsets=list(result._requested_subsets),
                asset_graph=self.graph,
                run_tags=None,
                emit_backfills=False,
            )
        return [name for name in self.order if name in asked]


@pytest.fixture(scope="module")
def definitions(tmp_path_factory: pytest.TempPathFactory) -> dg.Definitions:
    return build_definitions("offline", home=Home(tmp_path_factory.mktemp("automation")))


@dataclass(frozen=True)
class AllMade:
    """A folder of Dagster's in which everything was made once, and what the sensors remember."""

    folder: Path
    cursors: Mapping[str, Any]


@pytest.fixture(scope="module")
def everything(definitions: dg.Definitions, tmp_path_factory: pytest.TempPathFactory) -> AllMade:
    folder = tmp_path_factory.mktemp("everything_made")
    with dg.DagsterInstance.local_temp(str(folder)) as instance:
        return AllMade(folder, all_made(Daemon(definitions, instance, DATASET, MARTS)).cursors)


@contextmanager
def _copied(
    everything: AllMade, definitions: dg.Definitions, folder: Path, *sensors: str
) -> Iterator[Daemon]:
    copy = shutil.copytree(everything.folder, folder / "dagster")
    with dg.DagsterInstance.local_temp(str(copy)) as instance:
        yield Daemon(definitions, instance, *sensors, cursors=everything.cursors)


@pytest.fixture
def daemon(everything: AllMade, definitions: dg.Definitions, tmp_path: Path) -> Iterator[Daemon]:
    """A project in which everything was made once; the dataset is kept fresh, the marts not."""
    with _copied(everything, definitions, tmp_path, DATASET) as daemon:
        yield daemon


@pytest.fixture
def daemon_of_all(
    everything: AllMade, definitions: dg.Definitions, tmp_path: Path
) -> Iterator[Daemon]:
    """A project in which everything was made once and is kept fresh."""
    with _copied(everything, definitions, tmp_path, DATASET, MARTS) as daemon:
        yield daemon


def all_made(daemon: Daemon) -> Daemon:
    for asset in daemon.order:
        daemon.made(asset, "1")
    assert daemon.tick() == []
    return daemon


def test_conditions_leave_training_out(daemon: Daemon) -> None:
    found = {
        spec.key.to_user_string()
        for spec in daemon.definitions.resolve_all_asset_specs()
        if spec.automation_condition is not None
    }
    marts = {
        spec.key.to_user_string()
        for spec in daemon.definitions.resolve_all_asset_specs()
        if spec.group_name == "marts"
    }
    assert marts
    assert found == {*automated(), *marts}
    assert not found & BY_HAND


def test_sensors_are_off_until_switched_on(daemon: Daemon) -> None:
    sensors = daemon.definitions.get_repository_def().sensor_defs
    assert {sensor.name: sensor.default_status for sensor in sensors} == {
        "seed_file_changed": dg.DefaultSensorStatus.STOPPED,
        DATASET: dg.DefaultSensorStatus.STOPPED,
        MARTS: dg.DefaultSensorStatus.STOPPED,
    }


def test_a_cosmetic_edit_stops_at_the_seeds(daemon: Daemon) -> None:
    daemon.made("seed_tasks", "1")
    assert daemon.tick() == []


@pytest.mark.slow
def test_an_edit_makes_each_asset_once_and_marts_last(daemon_of_all: Daemon) -> None:
    daemon_of_all.made("seed_tasks", "2")
    requested: list[str] = []
    while asked := daemon_of_all.tick():
        requested += asked
        for asset in asked:
            daemon_of_all.made(asset, "2")
    assert [asset for asset in requested if asset in automated()] == list(automated())
    assert not set(requested) & BY_HAND
    assert len(requested) == len(set(requested))
    assert {"stg_seed_tasks", "stg_instruction_dataset", "yield_funnel"} <= set(requested)
    made_of_all = requested.index("dataset_lineage")
    assert {*automated(), "stg_parents"} <= set(requested[:made_of_all])


@pytest.mark.slow
def test_an_edit_goes_through_every_policy_round_once(tmp_path: Path) -> None:
    definitions = build_definitions("offline", {"rounds": 2}, Home(tmp_path / "home"))
    with dg.DagsterInstance.ephemeral() as instance:
        daemon = all_made(Daemon(definitions, instance, DATASET, rounds=2))
        daemon.made("seed_tasks", "2")
        requested: list[str] = []
        while asked := daemon.tick():
            requested += asked
            for asset in asked:
                daemon.made(asset, "2")
    assert sorted(requested) == sorted(automated(2))
    assert requested[-1] == "instruction_dataset"
    assert requested.index("filtered_instructions") < requested.index("raw_instructions_round_2")


def test_checks_are_run_with_what_is_made(daemon_of_all: Daemon) -> None:
    """Without its blocking checks an asset is followed by nothing."""
    daemon_of_all.made("raw_instructions", "2")
    assert {"instruction_decisions", "stg_raw_instructions"} <= set(daemon_of_all.tick())
    checked = {
        key.to_user_string(): run.asset_check_keys
        for run in daemon_of_all.runs
        for key in run.asset_selection or ()
    }
    # None stands for all.
    assert checked["instruction_decisions"] is None
    own = daemon_of_all.graph.get_check_keys_for_assets({dg.AssetKey("stg_raw_instructions")})
    assert own
    assert own <= set(checked["stg_raw_instructions"] or ())


def test_it_goes_no_further_than_content_changes(daemon: Daemon) -> None:
    """Seeds change, the same candidates come of them: nothing after the decisions is made."""
    daemon.made("seed_tasks", "2")
    assert {"raw_instructions", "evolved_instructions"} <= set(daemon.tick())
    daemon.made("raw_instructions", "1")
    assert daemon.tick() == []
    daemon.made("evolved_instructions", "1")
    assert "instruction_decisions" in daemon.tick()
    daemon.made("instruction_decisions", "1")
    assert "filtered_instructions" not in daemon.tick()


def test_training_by_hand_is_followed(daemon: Daemon) -> None:
    daemon.made("rl_policy_checkpoint", "2")
    assert [asset for asset in daemon.tick() if asset in automated()] == ["instruction_dataset"]


def test_an_instructor_trained_by_hand_is_followed(daemon: Daemon) -> None:
    daemon.made("instructor_policy", "2")
    assert [asset for asset in daemon.tick() if asset in automated()] == ["evolved_instructions"]


def test_nothing_follows_a_failed_blocking_check(daemon: Daemon) -> None:
    daemon.made("seed_tasks", "2", passed=False)
    assert daemon.tick() == []
    daemon.made("seed_tasks", "3")
    assert "raw_instructions" in daemon.tick()


def test_nothing_is_made_from_what_is_missing(definitions: dg.Definitions) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        daemon = Daemon(definitions, instance, DATASET, MARTS)
        daemon.made("seed_tasks", "1")
        assert daemon.tick() == ["stg_seed_tasks"]
        daemon.made("base_model", "1")
        assert "raw_instructions" in daemon.tick()


def test_another_knob_starts_what_reads_it(daemon: Daemon, tmp_path: Path) -> None:
    knob = {"self_instruct.max_rounds": 41}
    daemon.definitions = build_definitions("offline", knob, Home(tmp_path / "home"))
    assert "raw_instructions" in daemon.tick()
    daemon.made("raw_instructions", "1")
    assert daemon.tick() == ["instruction_decisions"]


class Sensor:
    """The sensor on one seed file and one warehouse."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "seeds.jsonl"
        self.file.write_text(PACKAGED, encoding="utf-8")
        self.warehouse = Warehouse(folder / "home" / "warehouse.duckdb")
        self.cursor: str | None = None

    def tick(self) -> dg.SensorResult:
        """One evaluation; its cursor is kept for the next."""
        config = {"seeds.path": str(self.file)}
        with dg.build_sensor_context(
            cursor=self.cursor,
            resources={
                "profile": ProfileResource(name="offline", overrides=config),
                "warehouse": WarehouseResource(database=str(self.warehouse.path)),
            },
        ) as context:
            result = seed_file_changed(context)
        assert isinstance(result, dg.SensorResult)
        self.cursor = result.cursor or self.cursor
        return result

    def asks(self) -> bool:
        """Whether a run was requested; one or none ever is."""
        requests = self.tick().run_requests or []
        assert len(requests) <= 1
        return bool(requests)

    def edit(self, old: str, new: str) -> None:
        text = self.file.read_text(encoding="utf-8")
        assert old in text
        self.file.write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.fixture
def sensor(tmp_path: Path) -> Sensor:
    return Sensor(tmp_path)


def test_the_first_tick_asks_where_nothing_was_made(sensor: Sensor) -> None:
    assert sensor.asks()
    assert not sensor.asks()
    assert not sensor.warehouse.path.exists()


def test_the_first_tick_knows_what_the_seeds_were_made_from(sensor: Sensor) -> None:
    record = Record(
        asset="seed_tasks",
        run_id="run",
        code_version="1",
        config_hash="c",
        inputs={"file:seeds": read_seeds(str(sensor.file)).content_hash},
    )
    sensor.warehouse.commit(record, {"seed_tasks": frame("seed_tasks", [])})
    assert not sensor.asks()
    sensor.edit('"instruction": "', '"instruction": "Please: ')
    assert sensor.asks()


def test_only_content_counts_and_an_edit_may_be_taken_back(sensor: Sensor) -> None:
    assert sensor.asks()
    sensor.edit('"instruction": "', '"instruction":   "  ')
    lines = sensor.file.read_text(encoding="utf-8").splitlines()
    sensor.file.write_text("\r\n".join(reversed(lines)), encoding="utf-8")
    assert not sensor.asks()
    sensor.edit('"instruction":   "  ', '"instruction": "Please: ')
    assert sensor.asks()
    assert not sensor.asks()
    sensor.edit('"instruction": "Please: ', '"instruction": "')
    result = sensor.tick()
    assert result.run_requests
    # A key would have Dagster pass over the content that it has seen before.
    assert result.run_requests[0].run_key is None


def test_a_bad_file_is_waited_for(sensor: Sensor) -> None:
    assert sensor.asks()
    before = sensor.cursor
    sensor.file.write_text(PACKAGED + '{"instruction": \n', encoding="utf-8")
    result = sensor.tick()
    assert not result.run_requests
    assert f"{PACKAGED.count(chr(10)) + 1}" in str(result.skip_reason)
    sensor.file.unlink()
    assert "no such file" in str(sensor.tick().skip_reason)
    assert sensor.cursor == before
    sensor.file.write_text(PACKAGED, encoding="utf-8")
    assert not sensor.asks()
