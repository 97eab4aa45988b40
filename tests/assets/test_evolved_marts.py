"""Marts over both methods: evolved candidates are counted, balanced and traced like the others."""

from __future__ import annotations

from operator import methodcaller
from pathlib import Path

import pytest

from refine_dagster.config.dataset import SelfInstructConfig, TeamsRLConfig
from refine_dagster.self_instruct.decisions import (
    Demonstration,
    InstructionDecider,
    filtered_rows,
)
from refine_dagster.sql_models.execution import materialize, run_checks
from refine_dagster.sql_models.reading import read_models
from refine_dagster.teams_rl.chain import Evolver
from refine_dagster.teams_rl.evolution import (
    Origin,
    as_seeds,
    evolve,
    evolved_rows,
    instructor_payload,
)
from refine_dagster.teams_rl.policies import FixedPolicy
from refine_dagster.warehouse.rows import Parent, make_row
from refine_dagster.warehouse.warehouse import Warehouse
from template_executor import RuleReviewer, TemplateExecutor
from tests.builders.small_warehouse import BASE, small_warehouse
from tests.builders.warehouse import commit

SEED = "s2"


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """The small warehouse, and the second seed evolved by constraints, decided on and answered."""
    warehouse = small_warehouse(tmp_path_factory.mktemp("both") / "w.duckdb")
    config = TeamsRLConfig(algorithm="fixed", fixed_operation="constraints")
    policy = FixedPolicy("constraints")
    instructor = make_row("instructor_policy", instructor_payload(config, policy.version))
    commit(
        warehouse,
        "instructor_policy",
        {"instructor_policy": [instructor], "instructor_policy_steps": []},
    )
    every = warehouse.read("seed_tasks").to_dicts()
    seeds = [row for row in every if row["seed_id"] == SEED]
    base = Parent("base_model", warehouse.read("base_model")["row_id"].item(), "generator")
    steps = evolve(as_seeds(seeds), policy, Evolver(TemplateExecutor("salt"), RuleReviewer()))
    key_of = methodcaller("key", "backend")
    rows = evolved_rows(steps, Origin(seeds, instructor, base, BASE, key_of), config)
    # Templates ask no model; a row of the warehouse names the completion behind it.
    commit(warehouse, "evolved_instructions", {"evolved_instructions": rows})
    pool = [
        Demonstration("seed_tasks", row["row_id"], row["seed_id"], row["instruction"])
        for row in every
    ]
    decided = InstructionDecider(pool, SelfInstructConfig()).decide_evolved(rows)
    accepted = filtered_rows([], decided, evolved=rows)
    for asset, added in (("instruction_decisions", decided), ("filtered_instructions", accepted)):
        commit(warehouse, asset, {asset: [*warehouse.read(asset).to_dicts(), *added]})
    answered = warehouse.read("instruction_dataset").to_dicts()
    instance = {name: value for name, value in answered[0].items() if name != "row_id"}
    parents = [Parent(**one) for one in instance.pop("parents")]
    one = accepted[-1]
    instance |= {"instruction_id": one["row_id"], "instruction": one["instruction"]}
    row = make_row("instruction_dataset", {**instance, "method": "teams_rl"}, parents)
    decisions = warehouse.read("instance_decisions").to_dicts()
    commit(
        warehouse,
        "instruction_dataset",
        {"instruction_dataset": [*answered, row], "instance_decisions": decisions},
    )
    for model in read_models():
        materialize(warehouse, model)
    return warehouse


def test_the_funnel_counts_each_method_for_itself(both: Warehouse) -> None:
    found = both.query(
        "SELECT method, sum(rows_in)::BIGINT, sum(kept)::BIGINT, sum(rejected)::BIGINT, "
        "sum(failed)::BIGINT, max(unaccounted) FROM marts.funnel_balance "
        "WHERE stage = 'instructions' GROUP BY method ORDER BY method"
    ).rows()
    kept = both.query("SELECT count(*) FROM filtered_instructions WHERE method = 'teams_rl'")
    number = kept.item()
    assert 0 < number < 6
    assert found == [("self_instruct", 6, 3, 2, 1, 0), ("teams_rl", 6, number, 6 - number, 0, 0)]
    places = both.query(
        "SELECT round FROM marts.funnel_balance WHERE method = 'teams_rl' "
        "AND stage = 'instructions' ORDER BY 1"
    )
    assert places["round"].to_list() == [1, 2, 3, 4, 5, 6]


def test_a_row_leads_back_to_its_operation_and_its_seed(both: Warehouse) -> None:
    (found,) = both.query(
        "SELECT candidate_id, operation, slot, seeds_shown, machine_shown, proposed_by, round "
        "FROM marts.dataset_lineage WHERE method = 'teams_rl'"
    ).to_dicts()
    rows = {row["row_id"]: row for row in both.read("evolved_instructions").to_dicts()}
    row = rows[found["candidate_id"]]
    assert (found["operation"], found["seeds_shown"]) == ("constraints", [SEED])
    assert (found["slot"], found["round"]) == (row["slot"], row["round"])
    assert found["proposed_by"] == BASE
    before = [one for one in row["parents"] if one["asset"] == "evolved_instructions"]
    assert found["machine_shown"] == [one["row_id"] for one in before]
    assert row["parent_instruction"] == rows[found["machine_shown"][0]]["instruction"]
    operations = both.query(
        "SELECT count(*) FROM marts.dataset_lineage WHERE operation IS NOT NULL"
    )
    assert operations.item() == 1


def test_the_query_ledger_counts_calls_by_role(both: Warehouse) -> None:
    """One evolved instruction is in the dataset; a fixed policy has no training."""
    found = both.query(
        "SELECT role, training_calls, calls, kept_rows, calls_per_kept_row, "
        "calls_per_kept_row_with_training FROM marts.query_ledger"
    ).rows()
    assert found == [("execute", 0, 6, 1, 6.0, 6.0), ("review", 0, 0, 1, 0.0, 0.0)]


def test_a_funnel_that_loses_an_evolved_row_is_not_balanced(
    both: Warehouse, tmp_path: Path
) -> None:
    path = tmp_path / "w.duckdb"
    path.write_bytes(both.path.read_bytes())
    warehouse = Warehouse(path)
    rows = warehouse.read("instruction_decisions").to_dicts()
    lost = next(row for row in rows if row["method"] == "teams_rl")
    commit(
        warehouse,
        "instruction_decisions",
        {"instruction_decisions": [row for row in rows if row != lost]},
    )
    models = {model.relation: model for model in read_models()}
    for relation in ("staging.stg_instruction_decisions", "marts.yield_funnel"):
        materialize(warehouse, models[relation])
    balance = models["marts.funnel_balance"]
    materialize(warehouse, balance)
    failed = [one for one in run_checks(warehouse, balance) if not one.passed]
    assert [one.check.name for one in failed] == ["accepted_unaccounted"]
