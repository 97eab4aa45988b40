"""Policy rounds: their names, and the graph that each number of them unrolls to."""

from __future__ import annotations

import dagster as dg
import duckdb
import pytest

from assets.automation import automated
from assets.graph import facts, pipeline
from refine_dagster.config.policy_round import (
    FIRST_ROUND,
    MOST_ROUNDS,
    PolicyRound,
    later_rounds,
    name_sql,
    rounds_until,
    split_name,
    split_sql,
)
from refine_dagster.config.profile import load_profile
from refine_dagster.config.section import ProfileError
from refine_dagster.definitions import build_definitions
from refine_dagster.warehouse.tables import (
    TABLES,
    base_instances,
    graph_assets,
    is_beyond,
    slice_of,
    tables_of,
)
from resources.profile import ProfileResource

# The asset that shows what the others made, and makes no table.
RUN_REPORT = "run_report"


@pytest.fixture(scope="module", params=[2, 3])
def rounds(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def test_names_go_there_and_back() -> None:
    assert [one.name("x") for one in rounds_until(3)] == ["x", "x_round_2", "x_round_3"]
    assert [split_name(one.name("x")) for one in rounds_until(3)] == [
        ("x", one) for one in rounds_until(3)
    ]
    assert later_rounds(1) == ()
    assert PolicyRound(3).before == PolicyRound(2)
    with pytest.raises(ValueError, match="before the first"):
        _ = FIRST_ROUND.before


def test_names_are_the_same_in_sql() -> None:
    parts = ", ".join(split_sql("name"))
    for one in rounds_until(MOST_ROUNDS):
        found = duckdb.execute(f"SELECT {parts} FROM (SELECT ? AS name)", [one.name("x_y")])
        assert found.fetchall() == [("x_y", one.number)]
        found = duckdb.execute(f"SELECT {name_sql('base', 'n')} FROM (SELECT 'x' AS base, ? AS n)",
                               [one.number])  # fmt: skip
        assert found.fetchall() == [(one.name("x"),)]


def test_salts_and_slots_differ_from_round_to_round() -> None:
    assert FIRST_ROUND.run_seed("refine") == "refine"
    assert FIRST_ROUND.slot("0000/0001/000") == "0000/0001/000"
    assert len({one.run_seed("refine") for one in rounds_until(3)}) == 3
    slots = [
        one.slot(slot)
        for one in rounds_until(MOST_ROUNDS)
        for slot in ("0000/0001/000", "0039/0047/9")
    ]
    assert sorted(slots) == slots
    assert len(set(slots)) == len(slots)


def test_an_asset_of_a_later_round_owns_its_slice_of_the_tables() -> None:
    with_rounds = {name for name, table in TABLES.items() if table.rounds_from}
    for one in later_rounds(MOST_ROUNDS):
        owned = [part for name in graph_assets() for part in tables_of(one.name(name))]
        assert {part.table.name for part in owned} == with_rounds
        for part in owned:
            assert part.policy_round == one
            assert part.name == one.name(part.table.name)
            assert part.condition == f"policy_round = {one.number}"
            assert slice_of(part.name).asset == part.asset == one.name(part.table.asset)
        assert base_instances(one).name == one.name("base_scored_instructions")
    assert base_instances(FIRST_ROUND).name == "reward_scored_instructions"
    assert [part.name for part in tables_of("seed_tasks")] == ["seed_tasks"]
    assert slice_of("seed_tasks").condition == "true"
    for name in ("base_scored_instructions", "seed_tasks_round_2", "nonsense"):
        assert tables_of(name) == []
        with pytest.raises(KeyError):
            slice_of(name)


def test_assets_of_the_graph_and_beyond_are_all() -> None:
    every = set(graph_assets(MOST_ROUNDS))
    for rounds in range(1, MOST_ROUNDS + 1):
        within = set(graph_assets(rounds))
        assert {one for one in every if is_beyond(one, rounds)} == every - within
    assert set(graph_assets()) == set(facts())
    assert not is_beyond("a_mart_round_2", 1)


def test_the_graph_is_unrolled(rounds: int) -> None:
    definitions = build_definitions("offline", {"rounds": rounds})
    specs = {spec.key.to_user_string(): spec for spec in definitions.resolve_all_asset_specs()}
    made = {name for name, spec in specs.items() if spec.group_name != "marts"}
    assert made == {*graph_assets(rounds), RUN_REPORT}
    assert {name for name in made if specs[name].automation_condition} == set(automated(rounds))

    def deps(name: str) -> set[str]:
        return {dep.asset_key.to_user_string() for dep in specs[name].deps}

    for one in later_rounds(rounds):
        former = one.before.name("rl_policy_checkpoint")
        pool = one.name("filtered_instructions")
        assert {"seed_tasks", former, one.before.name("filtered_instructions")} <= deps(
            one.name("raw_instructions")
        )
        assert {former, pool} <= deps(one.name("rl_policy_checkpoint"))
        assert {former, pool} <= deps(one.name("reward_scored_instructions"))
    last = PolicyRound(rounds)
    assert {last.name("rl_policy_checkpoint"), last.name("filtered_instructions")} <= deps(
        "instruction_dataset"
    )
    assert last.name("reward_scored_instructions") in deps("baseline_model")
    every = {one.name("raw_instructions") for one in rounds_until(rounds)}
    assert deps("stg_raw_instructions") == every
    profile = load_profile("offline", {"rounds": rounds}, {})
    for asset in pipeline(rounds):
        assert specs[asset.facts.key].code_version == asset.facts.code_version(profile)


def test_jobs_divide_the_graph_of_several_rounds(rounds: int) -> None:
    definitions = build_definitions("offline", {"rounds": rounds})

    def selected(job: str) -> set[str]:
        layer = definitions.resolve_job_def(job).asset_layer
        return {key.to_user_string() for key in layer.selected_asset_keys}

    dataset, training = selected("dataset_only"), selected("train_only")
    assert dataset | training == {*graph_assets(rounds), RUN_REPORT}
    assert not dataset & training


def test_checks_of_every_round(rounds: int) -> None:
    definitions = build_definitions("offline", {"rounds": rounds})
    keys = {
        (spec.asset_key.to_user_string(), spec.name)
        for check in definitions.asset_checks or ()
        if isinstance(check, dg.AssetsDefinition)
        for spec in check.check_specs
    }
    for one in later_rounds(rounds):
        assert (one.name("instruction_decisions"), "funnel_reconciles") in keys
        assert (one.name("rl_policy_checkpoint"), "reward_not_fallen") in keys
        assert (one.name("rl_policy_checkpoint"), "kl_within_bound") in keys
        assert (one.name("filtered_instructions"), "not_empty") in keys


def test_code_versions_do_not_depend_on_the_number_of_rounds() -> None:
    one, two = (load_profile("offline", {"rounds": n}, {}) for n in (1, 2))
    for known in facts().values():
        assert known.code_version(one) == known.code_version(two)


def test_the_knob_has_a_range() -> None:
    assert load_profile("offline", None, {}).rounds == 1
    assert load_profile("offline", None, {"REFINE_ROUNDS": "3"}).rounds == 3
    for value in (0, MOST_ROUNDS + 1):
        with pytest.raises(ProfileError, match=f"rounds = {value}"):
            load_profile("offline", {"rounds": value}, {})


def test_a_run_cannot_have_another_number_than_the_graph() -> None:
    with pytest.raises(ProfileError, match="rounds = 1, the loaded graph 2") as caught:
        ProfileResource(name="offline", overrides={"rounds": 1}, rounds=2).load()
    assert "REFINE_ROUNDS=1" in str(caught.value)
    assert ProfileResource(name="offline", overrides={"rounds": 2}, rounds=2).load().rounds == 2
