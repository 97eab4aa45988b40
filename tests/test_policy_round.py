"""Policy rounds: their names, and the graph that each number of them unrolls to."""

from __future__ import annotations

import dagster as dg
import pytest

from assets.automation import automated
from assets.versions import REVISIONS, code_version
from refine_dagster.config.policy_round import (
    FIRST_ROUND,
    MOST_ROUNDS,
    PolicyRound,
    base_name,
    later_rounds,
    round_of,
    rounds_until,
)
from refine_dagster.config.problems import ProfileError
from refine_dagster.config.profile import load_profile
from refine_dagster.definitions import build_definitions
from refine_dagster.warehouse.round_views import round_views
from refine_dagster.warehouse.tables import ROUND_TABLES, TABLES, assets_beyond, graph_assets
from resources.profile import ProfileResource


@pytest.fixture(scope="module", params=[2, 3])
def rounds(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def test_names_go_there_and_back() -> None:
    assert [one.name("x") for one in rounds_until(3)] == ["x", "x_round_2", "x_round_3"]
    assert [base_name(one.name("x")) for one in rounds_until(3)] == ["x", "x", "x"]
    assert [round_of(one.name("x")) for one in rounds_until(3)] == list(rounds_until(3))
    assert later_rounds(1) == ()
    assert PolicyRound(3).before == PolicyRound(2)
    with pytest.raises(ValueError, match="before the first"):
        _ = FIRST_ROUND.before


def test_salts_and_slots_differ_from_round_to_round() -> None:
    assert FIRST_ROUND.run_seed("refine") == "refine"
    assert FIRST_ROUND.slot("0000/0001/000") == "0000/0001/000"
    assert len({one.run_seed("refine") for one in rounds_until(3)}) == 3
    slots = [one.slot(slot) for one in rounds_until(3) for slot in ("0000/0001/000", "0039/0047/9")]
    assert sorted(slots) == slots
    assert len(set(slots)) == len(slots)


def test_tables_of_a_later_round_are_those_of_the_first() -> None:
    for one in later_rounds():
        for base, first in ROUND_TABLES.items():
            table = TABLES[one.name(base)]
            further = set(table.columns) - set(TABLES[first].columns)
            assert further == ({"accepted_in"} if base == "filtered_instructions" else set())
            assert table.asset == one.name(TABLES[first].asset)
    told = TABLES["instruction_decisions_round_2"].columns["candidate_id"][1]
    assert told == "Row of `raw_instructions_round_2`."


def test_assets_of_the_graph_and_beyond_are_all() -> None:
    for rounds in range(1, MOST_ROUNDS + 1):
        within, beyond = set(graph_assets(rounds)), set(assets_beyond(rounds))
        assert not within & beyond
        assert within | beyond == {*graph_assets(MOST_ROUNDS)}
    assert set(graph_assets()) == set(REVISIONS)
    assert assets_beyond(MOST_ROUNDS) == ()


def test_the_graph_is_unrolled(rounds: int) -> None:
    definitions = build_definitions("offline", {"rounds": rounds})
    specs = {spec.key.to_user_string(): spec for spec in definitions.resolve_all_asset_specs()}
    made = {name for name, spec in specs.items() if spec.group_name != "marts"}
    assert made == set(graph_assets(rounds))
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
    for name in made:
        assert specs[name].code_version == code_version(name, profile)


def test_jobs_divide_the_graph_of_several_rounds(rounds: int) -> None:
    definitions = build_definitions("offline", {"rounds": rounds})

    def selected(job: str) -> set[str]:
        layer = definitions.resolve_job_def(job).asset_layer
        return {key.to_user_string() for key in layer.selected_asset_keys}

    dataset, training = selected("dataset_only"), selected("train_only")
    assert dataset | training == set(graph_assets(rounds))
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
    for asset in REVISIONS:
        assert code_version(asset, one) == code_version(asset, two)


def test_the_knob_has_a_range() -> None:
    assert load_profile("offline", None, {}).rounds == 1
    assert load_profile("offline", None, {"REFINE_ROUNDS": "3"}).rounds == 3
    for value in (0, MOST_ROUNDS + 1):
        with pytest.raises(ProfileError, match=f"rounds = {value}"):
            load_profile("offline", {"rounds": value}, {})


def test_a_run_cannot_have_another_number_than_the_graph() -> None:
    with pytest.raises(ProfileError, match=r"rounds = 1, .* loaded has 2") as caught:
        ProfileResource(name="offline", overrides={"rounds": 1}, rounds=2).load()
    assert "REFINE_ROUNDS=1" in str(caught.value)
    assert ProfileResource(name="offline", overrides={"rounds": 2}, rounds=2).load().rounds == 2


def test_views_show_every_round() -> None:
    by_name = {view.name: view for view in round_views()}
    assert by_name.keys() == ROUND_TABLES.keys()
    scored = by_name["base_scored_instructions"].tables
    assert scored[FIRST_ROUND] == "reward_scored_instructions"
    assert scored[PolicyRound(2)] == "base_scored_instructions_round_2"
    assert "CAST(1 AS BIGINT) AS accepted_in" in by_name["filtered_instructions"].sql
