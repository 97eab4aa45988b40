"""A policy that starts from the seeds, run for real on top of a home without a start, and back."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from refine_dagster.home import Home
from refine_dagster.lineage.audit import verify
from refine_dagster.lineage.impact import impact
from refine_dagster.lineage.trace import trace
from refine_dagster.warehouse.tables import graph_assets
from refine_dagster.warehouse.warehouse import Warehouse
from tests.pipeline.children import run_command
from tests.pipeline.conftest import TINY_SEEDS
from tests.pipeline.home_content import assert_sound, base_model_folder, content
from tests.pipeline.project import Project, packaged_seeds

VERSIONS = "SELECT asset, arg_max(data_version, sequence) FROM lineage.materializations GROUP BY 1"
WITH_A_START = "instances.start_steps=30"
UP_TO_THE_DATASET = "+instruction_dataset"
INSTANCES = ("reward_scored_instructions", "instance_decisions")


def _run(home: Home, log: Path, seeds: str, *config: str, select: str = "*") -> None:
    options = [part for field in config for part in ("--set", field)]
    child = run_command(home, log, "--seeds", seeds, "--select", select, *options)
    assert child.end() == 0, log.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def home(tiny_home: Home, folder: Path, seeds: str) -> Home:
    """A copy of the tiny home in which the graph was materialised with a start."""
    copied = Home(folder / "home")
    shutil.copytree(tiny_home.root, copied.root)
    _run(copied, folder / "start.log", seeds, WITH_A_START)
    return copied


@pytest.fixture
def warehouse(home: Home) -> Warehouse:
    return Warehouse(home.warehouse)


def test_only_what_writes_instances_is_another(tiny_home: Home, warehouse: Warehouse) -> None:
    before = dict(Warehouse(tiny_home.warehouse).query(VERSIONS).rows())
    after = dict(warehouse.query(VERSIONS).rows())
    changed = {asset for asset in graph_assets() if before[asset] != after[asset]}
    unlike = {"policy_start", *INSTANCES[:1], "rl_policy_checkpoint", "instruction_dataset"}
    tuned = {"baseline_model", "fine_tuned_model", "evaluation_report", "privacy_report"}
    assert unlike <= changed <= unlike | tuned


def test_instances_are_by_the_started_policies_and_show_no_seed(warehouse: Warehouse) -> None:
    [start] = warehouse.read("policy_start").to_dicts()
    [policy] = warehouse.read("rl_policy_checkpoint").to_dicts()
    assert start["steps"] == 30
    assert start["loss_last"] < start["loss_first"]
    named = [tuple(parent.values()) for parent in policy["parents"]]
    assert [name for name in named if name[2] in ("base", "demonstration")] == [
        ("policy_start", start["row_id"], "base")
    ]
    writers = (start["fingerprint"], policy["policy"])
    for table, writer in zip(INSTANCES, writers, strict=True):
        rows = warehouse.read(table)
        assert set(rows["policy"]) == {writer}
        roles = {parent["role"] for parents in rows["parents"] for parent in parents}
        assert roles == {"instruction", "policy", "judge"}
    assert set(warehouse.read("raw_instructions")["policy"]) == set(
        warehouse.read("base_model")["fingerprint"]
    )


def test_rows_and_seeds_reach_each_other_through_the_start(
    home: Home, warehouse: Warehouse
) -> None:
    row_id = warehouse.read("instruction_dataset")["row_id"][0]
    assert {"policy_start", "seed_tasks"} <= set(trace(warehouse, row_id).rows["table"])
    for seed in warehouse.read("policy_start")["parents"][0]:
        if seed["asset"] == "seed_tasks":
            touched = set(trace(warehouse, seed["row_id"], down=True).rows["table"])
            assert {"policy_start", "instruction_dataset"} <= touched
            assert "policy_start" in set(impact(warehouse, seed["row_id"]).rows["table"])
    assert verify(warehouse, home.checkpoints, deep=True).findings == []
    assert_sound(home)


def test_a_removed_seed_is_unlearnt(home: Home, folder: Path) -> None:
    less = Home(folder / "less")
    shutil.copytree(home.root, less.root)
    warehouse = Warehouse(less.warehouse)
    [(seed_id, row_id)] = warehouse.query(
        "SELECT seed_id, row_id FROM seed_tasks ORDER BY seed_id LIMIT 1"
    ).rows()
    remaining = [seed for seed in packaged_seeds(TINY_SEEDS) if seed["id"] != seed_id]
    path = str(Project(folder / "fewer.jsonl", remaining).write()["seeds.path"])
    # The base model as it is, and a judge that learns little: what is tested is what is made again.
    given = f"base_model.id={base_model_folder(less)}"
    _run(
        less,
        folder / "less.log",
        path,
        WITH_A_START,
        given,
        "judge.steps=5",
        select=UP_TO_THE_DATASET,
    )
    live = warehouse.query(
        "SELECT r.asset FROM lineage.descendants_of(?) AS d "
        "JOIN lineage.rows AS r ON r.row_id = d.descendant_id WHERE r.removed_in IS NULL",
        [row_id],
    )
    assert not {"policy_start", "rl_policy_checkpoint", "instruction_dataset"} & set(live["asset"])
    assert warehouse.read("policy_start").height == 1


def test_without_a_start_everything_is_as_before(
    home: Home, tiny_home: Home, folder: Path, seeds: str
) -> None:
    back = Home(folder / "back")
    shutil.copytree(home.root, back.root)
    _run(back, folder / "back.log", seeds, select=UP_TO_THE_DATASET)
    assert Warehouse(back.warehouse).read("policy_start").is_empty()
    ours, before = content(back)["tables"], content(tiny_home)["tables"]
    for table in (*INSTANCES, "rl_policy_checkpoint", "instruction_dataset"):
        assert ours[table] == before[table], table
