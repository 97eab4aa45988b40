"""Two policy rounds, run for real on top of a home that was made with one, and taken back again.

The home's base model, judge and first round are there already, so what runs here is the second
round: the first policy proposes, the second is trained from it, and the dataset is the second's.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest

from refine_dagster.config.policy_round import split_name
from refine_dagster.home import Home
from refine_dagster.lineage.audit import verify
from refine_dagster.lineage.impact import impact
from refine_dagster.lineage.trace import trace
from refine_dagster.lineage.why import explain
from refine_dagster.warehouse.tables import graph_assets, tables_of
from refine_dagster.warehouse.warehouse import Warehouse
from tests.pipeline.children import run_command
from tests.pipeline.conftest import TINY_SEEDS
from tests.pipeline.home_content import assert_sound, base_model_folder, content
from tests.pipeline.project import Project, packaged_seeds

VERSIONS = "SELECT asset, arg_max(data_version, sequence) FROM lineage.materializations GROUP BY 1"

NOT_BEFORE_THE_DATASET = {
    "reward_scored_instructions_round_2",
    "fine_tuned_model",
    "baseline_model",
    "evaluation_report",
    "privacy_report",
}


def _run(
    home: Home, log: Path, seeds: str, rounds: int, select: str = "*", config: Sequence[str] = ()
) -> None:
    options = [one for knob in (f"rounds={rounds}", *config) for one in ("--set", knob)]
    child = run_command(home, log, "--seeds", seeds, "--select", select, *options)
    assert child.end() == 0, log.read_text(encoding="utf-8")


def _copy(of: Home, to: Path) -> Home:
    shutil.copytree(of.root, to)
    return Home(to)


@pytest.fixture(scope="module")
def home(tiny_home: Home, folder: Path, seeds: str) -> Home:
    """A copy of the tiny home in which the graph of two rounds was materialised."""
    copied = _copy(tiny_home, folder / "home")
    _run(copied, folder / "two.log", seeds, rounds=2)
    return copied


@pytest.fixture
def warehouse(home: Home) -> Warehouse:
    return Warehouse(home.warehouse)


def test_only_what_the_second_round_reaches_is_made_anew(
    tiny_home: Home, warehouse: Warehouse
) -> None:
    before = dict(Warehouse(tiny_home.warehouse).query(VERSIONS).rows())
    after = dict(warehouse.query(VERSIONS).rows())
    changed = {one for one in graph_assets(2) if before.get(one) != after[one]}
    later = {one for one in graph_assets(2) if not split_name(one)[1].is_first}
    anew = NOT_BEFORE_THE_DATASET - later | {"instruction_dataset"}
    assert changed == later | anew


def test_every_table_of_the_second_round_has_rows(warehouse: Warehouse) -> None:
    later = set(graph_assets(2)) - set(graph_assets(1))
    second = [one.name for asset in later for one in tables_of(asset) if not one.table.sparse]
    assert [name for name in second if warehouse.read(name).is_empty()] == []
    assert {one.policy_round.number for one in warehouse.slices()} == {1, 2}


def test_rows_name_the_policy_that_made_them(warehouse: Warehouse) -> None:
    base = warehouse.read("base_model")["fingerprint"].item()
    one, two = (
        warehouse.read(name)["policy"].item()
        for name in ("rl_policy_checkpoint", "rl_policy_checkpoint_round_2")
    )
    assert len({base, one, two}) == 3
    first_policy = warehouse.read("rl_policy_checkpoint")["row_id"].item()
    for table, role in (
        ("raw_instructions_round_2", "generator"),
        ("reward_scored_instructions_round_2", "policy"),
        ("rl_policy_checkpoint_round_2", "base"),
    ):
        rows = warehouse.read(table)
        if role != "base":
            assert set(rows["policy"]) == {one}
        for parents in rows["parents"]:
            assert ("rl_policy_checkpoint", first_policy, role) in [
                (parent["asset"], parent["row_id"], parent["role"]) for parent in parents
            ]
    assert set(warehouse.read("base_scored_instructions_round_2")["policy"]) == {base}
    assert set(warehouse.read("instance_decisions")["policy"]) == {two}
    pool = warehouse.read("filtered_instructions_round_2")
    assert set(pool.select("accepted_in", "policy").rows()) == {(1, base), (2, one)}
    texts = warehouse.read("filtered_instructions")["instruction"].to_list()
    assert set(pool.filter(pool["accepted_in"] == 1)["instruction"]) == set(texts)
    assert pool["slot"].n_unique() == pool.height


def test_arms_share_the_pool_of_the_last_round(warehouse: Warehouse) -> None:
    pool = set(warehouse.read("filtered_instructions_round_2")["row_id"])
    for table in ("instance_decisions", "base_scored_instructions_round_2"):
        assert set(warehouse.read(table)["instruction_id"]) == pool
    tuned = [*warehouse.read("fine_tuned_model").to_dicts()]
    tuned += warehouse.read("baseline_model").to_dicts()
    assert len({row["steps"] for row in tuned}) == 1
    learnt = {row["arm"]: {p["row_id"] for p in row["parents"]} for row in tuned}
    base_rows = warehouse.read("base_scored_instructions_round_2")
    assert set(base_rows.filter(base_rows["kept"])["row_id"]) <= learnt["self_instruct"]
    assert set(warehouse.read("instruction_dataset")["row_id"]) <= learnt["refine_af"]


def test_novelty_is_measured_against_the_former_pool(warehouse: Warehouse) -> None:
    nearest = set(warehouse.read("instruction_decisions_round_2")["nearest_asset"].drop_nulls())
    assert nearest <= {"seed_tasks", "filtered_instructions", "raw_instructions_round_2"}
    assert "filtered_instructions" in nearest
    shown = warehouse.query(
        "SELECT DISTINCT parent_table, parent_round FROM lineage.edges "
        "WHERE table_name = 'raw_instructions' AND policy_round = 2 AND role = 'demonstration'"
    )
    assert ("filtered_instructions", 1) in shown.rows()


def test_traces_reach_the_first_policy_and_the_seeds(warehouse: Warehouse) -> None:
    found = warehouse.query(
        "SELECT d.row_id FROM instruction_dataset AS d JOIN filtered_instructions AS f "
        "ON f.row_id = d.instruction_id WHERE f.accepted_in = 2 AND f.policy_round = 2 ORDER BY 1"
    )
    assert not found.is_empty()
    reached = trace(warehouse, found["row_id"][0])
    assert {
        "rl_policy_checkpoint_round_2",
        "raw_instructions_round_2",
        "rl_policy_checkpoint",
        "filtered_instructions",
        "seed_tasks",
        "base_model",
    } <= _assets(warehouse, reached.rows)
    assert reached.rows["added_in"].null_count() == 0
    seed = reached.rows.filter(reached.rows["table"] == "seed_tasks")["row_id"][0]
    down = trace(warehouse, seed, down=True).rows
    assert {"filtered_instructions_round_2", "reward_scored_instructions_round_2"} <= _assets(
        warehouse, down
    )
    assert "base_scored_instructions" in set(down["table"])
    touched = impact(warehouse, seed)
    assert "raw_instructions_round_2" in _assets(warehouse, touched.rows)


def _assets(warehouse: Warehouse, rows: pl.DataFrame) -> set[str]:
    """The assets that rows of a trace or an impact belong to."""
    found = warehouse.query(
        "SELECT DISTINCT asset FROM lineage.rows WHERE list_contains(?, row_id)",
        [rows["row_id"].to_list()],
    )
    return set(found["asset"])


def test_every_row_can_be_explained(warehouse: Warehouse) -> None:
    for name in ("raw_instructions_round_2", "instruction_dataset"):
        assert explain(warehouse, name) is not None
        assert explain(warehouse, warehouse.read(name)["row_id"][0]) is not None


def test_funnels_reconcile_in_both_rounds(warehouse: Warehouse) -> None:
    """Promise 5, for every stage of every policy round."""
    balance = warehouse.query("SELECT * FROM marts.funnel_balance")
    assert balance["unaccounted"].to_list() == [0] * balance.height
    stages = set(balance.select("stage", "policy_round").rows())
    assert stages == {
        ("instructions", 1),
        ("instructions", 2),
        ("base policy instances", 1),
        ("base policy instances", 2),
        ("former policy instances", 2),
        ("refined policy instances", 2),
    }
    for policy_round in (1, 2):
        pool = warehouse.query(
            "SELECT count(*) FROM staging.stg_filtered_instructions "
            f"WHERE policy_round = {policy_round} AND accepted_in = {policy_round}"
        ).item()
        kept = balance.filter(
            (balance["stage"] == "instructions") & (balance["policy_round"] == policy_round)
        )["kept"]
        assert kept.sum() == pool > 0
    lineage = warehouse.query("SELECT policy_round, candidate_id FROM marts.dataset_lineage")
    assert set(lineage["policy_round"]) == {1, 2}
    assert lineage["candidate_id"].null_count() == 0


def test_the_audit_finds_nothing(home: Home) -> None:
    report = verify(Warehouse(home.warehouse), home.checkpoints, deep=True)
    assert report.findings == []
    assert report.warnings == []
    assert_sound(home)


def test_nothing_asked_twice(home: Home, folder: Path, seeds: str) -> None:
    """Promise 4 with two rounds: a second run asks nothing and trains nothing."""
    again = _copy(home, folder / "again")
    warehouse = Warehouse(again.warehouse)
    before = content(again)
    last = warehouse.query("SELECT max(sequence) FROM lineage.materializations").item()
    _run(again, folder / "again.log", seeds, rounds=2, select="+instruction_dataset")
    assert content(again) == before
    sent, added, records = warehouse.query(
        "SELECT sum(requests_sent)::BIGINT, sum(rows_added)::BIGINT, count(*) "
        "FROM lineage.materializations WHERE sequence > ? AND list_contains(?, asset)",
        [last, list(graph_assets(2))],
    ).row(0)
    made = set(graph_assets(2)) - NOT_BEFORE_THE_DATASET
    assert (sent, added, records) == (0, 0, len(made))


def test_back_to_one_round_is_as_if_there_had_been_no_second(
    tiny_home: Home, home: Home, folder: Path, seeds: str
) -> None:
    back = _copy(home, folder / "back")
    select = "+evaluation_report or +privacy_report or +funnel_balance"
    _run(back, folder / "back.log", seeds, rounds=1, select=select)
    assert content(back)["tables"] == content(tiny_home)["tables"]
    warehouse = Warehouse(back.warehouse)
    versions = dict(warehouse.query(VERSIONS).rows())
    for asset, version in Warehouse(tiny_home.warehouse).query(VERSIONS).rows():
        if asset in graph_assets(1):
            assert versions[asset] == version, asset
    # History still shows the second round, and the ledger when it was taken back.
    retired = warehouse.query(
        "SELECT DISTINCT asset FROM lineage.materializations WHERE code_version = 'retired'"
    )
    assert set(retired["asset"]) == set(graph_assets(2)) - set(graph_assets(1))
    assert set(
        warehouse.query("SELECT policy_round FROM marts.funnel_balance")["policy_round"]
    ) == {1}
    assert verify(warehouse, back.checkpoints, deep=True).findings == []
    assert_sound(back)
    assert explain(warehouse, "instruction_dataset") is not None
    assert explain(warehouse, "raw_instructions_round_2") is not None


def test_a_removed_seed_leaves_no_live_descendant(home: Home, folder: Path) -> None:
    """Promise 2, up to the dataset of the second round."""
    less = _copy(home, folder / "less")
    warehouse = Warehouse(less.warehouse)
    seed_id, row_id = warehouse.query(
        "SELECT s.seed_id, s.row_id FROM seed_tasks AS s JOIN lineage.edges AS e "
        "ON e.parent_id = s.row_id WHERE e.table_name = 'raw_instructions' AND e.policy_round = 2 "
        "GROUP BY ALL ORDER BY count(*) DESC, s.seed_id LIMIT 1"
    ).row(0)
    remaining = [one for one in packaged_seeds(TINY_SEEDS) if one["id"] != seed_id]
    project = Project(folder / "fewer.jsonl", remaining)
    path = str(project.write()["seeds.path"])
    # The base model as it is, and a judge that learns little: what is tested is what is made again.
    given = f"base_model.id={base_model_folder(less)}"
    config = (given, "judge.steps=5")
    _run(less, folder / "less.log", path, rounds=2, select="+instruction_dataset", config=config)
    made = set(graph_assets(2)) - NOT_BEFORE_THE_DATASET
    touched = warehouse.query(
        "SELECT r.asset, r.removed_in IS NULL AS alive FROM lineage.descendants_of(?) AS d "
        "JOIN lineage.rows AS r ON r.row_id = d.descendant_id",
        [row_id],
    )
    # The instructor learns from some seeds and evolves some of the others, so not always this one.
    by_chance = {"instructor_policy", "evolved_instructions"}
    # The policy has no start.
    assert made - {"seed_tasks", "policy_start"} - by_chance <= set(touched["asset"])
    assert warehouse.read("instruction_dataset").height > 0
    assert not set(touched.filter(touched["alive"])["asset"]) & made
    # The very row of a removed seed, found without the recorded edges.
    for name in (one.name for asset in made for one in tables_of(asset)):
        for parents in warehouse.read(name)["parents"]:
            assert row_id not in {parent["row_id"] for parent in parents}, name
