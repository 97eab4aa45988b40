"""The whole graph, run for real: every asset, every promise about its rows, and a second run."""

from __future__ import annotations

import json
from typing import Any

import dagster as dg

from refine_dagster.config.profile import load_profile
from refine_dagster.definitions import build_definitions
from refine_dagster.home import Home
from refine_dagster.privacy.attacks import ATTACKS
from refine_dagster.privacy.audit import is_member
from refine_dagster.run import run_pipeline
from refine_dagster.self_instruct.decisions import Demonstration, InstructionDecider
from refine_dagster.teams_rl.evolution import evolution_calls
from refine_dagster.teams_rl.operations import NAMES
from refine_dagster.warehouse.checkpoints import CheckpointStore
from refine_dagster.warehouse.ledger import GENESIS
from refine_dagster.warehouse.tables import graph_assets, tables_of
from refine_dagster.warehouse.warehouse import Warehouse
from tests.pipeline.conftest import SMALL

ARMS_TRAINED = ("seeds_only", "self_instruct", "refine_af")
# Tables without rows: by default the policy has no start.
WITHOUT_ROWS = ["policy_start", "policy_start_steps", "rl_policy_checkpoint_pairs"]


def test_every_asset_is_materialised(built_home: Home, built: Warehouse) -> None:
    recorded = set(built.query("SELECT DISTINCT asset FROM lineage.materializations")["asset"])
    assert set(graph_assets()) <= recorded
    for asset in graph_assets():
        assert built.read(asset).is_empty() == (asset in WITHOUT_ROWS), asset
    definitions = build_definitions(SMALL, home=built_home)
    keys = definitions.resolve_asset_graph().get_all_asset_keys()
    with dg.DagsterInstance.get() as instance:
        for key in keys:
            assert instance.get_latest_materialization_event(key) is not None, key


def test_sessions_are_recorded_beside_their_materializations(
    built_home: Home, built: Warehouse
) -> None:
    found = dict(
        built.query("SELECT asset, device FROM lineage.materializations ORDER BY sequence").rows()
    )
    trained = {"rl_policy_checkpoint": "reinforcement", "fine_tuned_model": "fine-tuning"}
    with dg.DagsterInstance.get() as instance:
        for asset, work in trained.items():
            told = json.loads(found[asset])
            assert told["hardware"]
            assert told["driver"] is None
            assert told["seconds"] > 0
            event = instance.get_latest_materialization_event(dg.AssetKey(asset))
            assert event is not None
            assert event.asset_materialization is not None
            metadata = event.asset_materialization.metadata
            assert metadata["device"].value == told
            assert f"**{work}**" in str(metadata["memory_budget"].value)
    assert json.loads(found["seed_tasks"]) == {}


def test_every_table_has_rows(built: Warehouse) -> None:
    made = [one.name for asset in graph_assets() for one in tables_of(asset)]
    empty = [name for name in made if built.read(name).is_empty()]
    assert empty == WITHOUT_ROWS


def test_funnel_reconciles(built: Warehouse) -> None:
    """Promise 5: in = kept + rejected(reason) + failed(reason), per stage."""
    candidates, evolved = built.read("raw_instructions"), built.read("evolved_instructions")
    decisions = built.read("instruction_decisions")
    proposed = decisions.filter(decisions["method"] == "self_instruct")
    assert sorted(candidates["row_id"]) == sorted(proposed["candidate_id"])
    of_evolved = decisions.filter(decisions["method"] == "teams_rl")
    assert sorted(evolved["row_id"]) == sorted(of_evolved["candidate_id"])
    assert proposed.height + of_evolved.height == decisions.height
    kept = decisions.filter(decisions["kept"])
    assert set(kept["rule"]) == {"kept"}
    assert kept.height == built.read("filtered_instructions").height
    unparsed = candidates.filter(~candidates["parsed"])
    assert unparsed.height == decisions.filter(decisions["rule"] == "unparsed").height
    assert unparsed["parse_problem"].null_count() == 0
    pool = set(built.read("filtered_instructions")["row_id"])
    for table in ("reward_scored_instructions", "instance_decisions"):
        rows = built.read(table)
        assert set(rows["instruction_id"]) == pool
        assert rows.height == len(pool)
        assert (rows["kept"] == (rows["rule"] == "kept")).all()
    refined = built.read("instance_decisions")
    assert built.read("instruction_dataset").height == refined["kept"].sum()


def test_trace_closes(built: Warehouse) -> None:
    """Promise 6: every dataset row reaches a seed, and every ancestor id exists."""
    parents: dict[str, list[str]] = {}
    for name in (one.name for one in built.slices()):
        for row in built.read(name).iter_rows(named=True):
            parents[row["row_id"]] = [parent["row_id"] for parent in row["parents"]]
    missing = [p for listed in parents.values() for p in listed if p not in parents]
    assert missing == []
    seeds = set(built.read("seed_tasks")["row_id"])
    for row_id in built.read("instruction_dataset")["row_id"]:
        reached, waiting = set(), [row_id]
        while waiting:
            one = waiting.pop()
            if one not in reached:
                reached.add(one)
                waiting += parents[one]
        assert reached & seeds


def test_every_row_names_the_policy_that_made_it(built: Warehouse) -> None:
    base = built.read("base_model")["fingerprint"].item()
    refined = built.read("rl_policy_checkpoint")["policy"].item()
    assert base != refined
    assert set(built.read("raw_instructions")["policy"]) == {base}
    assert set(built.read("evolved_instructions")["policy"]) == {base}
    assert set(built.read("reward_scored_instructions")["policy"]) == {base}
    assert set(built.read("instruction_dataset")["policy"]) == {refined}
    keys = set(built.query("SELECT key FROM store.completions")["key"])
    written = ("raw_instructions", "evolved_instructions", "reward_scored_instructions",
               "instruction_dataset")  # fmt: skip
    for table in written:
        assert set(built.read(table)["completion_key"]) <= keys
    assert {key for row in built.read("evolved_instructions")["review_keys"] for key in row} <= keys


def test_evolved_rows_tell_how_they_came_about(built: Warehouse) -> None:
    rows = built.read("evolved_instructions").to_dicts()
    (instructor,) = built.read("instructor_policy").to_dicts()
    base = built.read("base_model")["row_id"].item()
    seeds = {row["row_id"]: row for row in built.read("seed_tasks").to_dicts()}
    taught = {one["row_id"] for one in instructor["parents"] if one["role"] == "trained_on"}
    assert len(taught) == instructor["seeds"] > 0
    assert any(row["valid"] for row in rows)
    by_seed: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda one: one["slot"]):
        assert row["operation"] in NAMES
        assert (row["rule"] == "kept") == row["valid"]
        assert row["instructor"] == instructor["version"]
        parents = {one["role"]: (one["asset"], one["row_id"]) for one in row["parents"]}
        assert parents.keys() == {"evolved", "generator", "instructor"}
        assert parents["generator"] == ("base_model", base)
        assert parents["instructor"] == ("instructor_policy", instructor["row_id"])
        # It was made from its seed, or from the last row of that seed that was kept.
        before = [one for one in by_seed.setdefault(row["seed_id"], []) if one["valid"]]
        if before:
            assert parents["evolved"] == ("evolved_instructions", before[-1]["row_id"])
            assert row["parent_instruction"] == before[-1]["instruction"]
        else:
            asset, row_id = parents["evolved"]
            assert (asset, seeds[row_id]["seed_id"]) == ("seed_tasks", row["seed_id"])
            assert row_id not in taught
        by_seed[row["seed_id"]].append(row)
    assert all([row["round"] for row in chain] == [*range(1, 7)] for chain in by_seed.values())


def test_evolved_instructions_go_through_the_graph_like_any_other(built: Warehouse) -> None:
    decisions = built.read("instruction_decisions").to_dicts()
    evolved = {row["row_id"]: row for row in built.read("evolved_instructions").to_dicts()}
    kept = 0
    for decision in decisions:
        if decision["method"] == "teams_rl":
            row = evolved[decision["candidate_id"]]
            kept += decision["kept"]
            # What eliminated a rewrite is the reason; what was kept may still be too near.
            assert row["valid"] or (decision["rule"], decision["value"]) == (
                row["rule"],
                row["value"],
            )
    assert kept > 0
    keys = {}
    for table in ("filtered_instructions", "reward_scored_instructions", "instance_decisions"):
        rows = built.read(table)
        of_evolved = rows.filter(rows["method"] == "teams_rl")
        assert of_evolved.height == kept, table
        if "completion_key" in rows.columns:
            keys[table] = dict(of_evolved.select("instruction", "completion_key").rows())
    # Each is answered for itself: its own text stands in the prompt.
    prompts = dict(built.query("SELECT key, prompt FROM store.completions").rows())
    for answered in keys.values():
        for instruction, key in answered.items():
            assert f"Instruction: {instruction}\n" in prompts[key]
    shown = built.query(
        "SELECT seeds_shown, operation FROM marts.dataset_lineage WHERE method = 'teams_rl'"
    ).rows()
    assert shown
    assert all(len(seeds) == 1 and operation in NAMES for seeds, operation in shown)


def test_the_self_instruct_loop_is_decided_on_as_if_nothing_were_evolved(built: Warehouse) -> None:
    seeds = [
        Demonstration("seed_tasks", row["row_id"], row["seed_id"], row["instruction"])
        for row in built.read("seed_tasks").to_dicts()
    ]
    candidates = sorted(built.read("raw_instructions").to_dicts(), key=lambda row: row["slot"])
    alone = InstructionDecider(seeds, load_profile(SMALL).self_instruct).decide(candidates)
    decided = built.read("instruction_decisions")
    proposed = decided.filter(decided["method"] == "self_instruct")
    assert sorted(row["row_id"] for row in alone) == sorted(proposed["row_id"])


def test_calls_are_those_of_the_store(built: Warehouse) -> None:
    """By role: the ledger mart, the ledger and the rows' own counts all say what the store has."""
    store = dict(built.query("SELECT role, count(*) FROM store.completions GROUP BY role").rows())
    mart = built.query(
        "SELECT role, sum(requests)::BIGINT, sum(scored)::BIGINT FROM marts.request_ledger "
        "GROUP BY role"
    ).rows()
    assert {role: requests for role, requests, _ in mart} == store
    assert {role: scored for role, _, scored in mart if scored} == {"review": store["review"]}
    asked = dict(
        built.query(
            "SELECT asset || ' ' || role, sum(asked)::BIGINT FROM lineage.requests "
            "JOIN lineage.materializations USING (sequence) "
            "WHERE role IN ('rewrite', 'review') GROUP BY ALL"
        ).rows()
    )
    sent = built.query(
        "SELECT role, sum(sent)::BIGINT FROM lineage.requests "
        "WHERE role IN ('rewrite', 'review') GROUP BY role"
    )
    (instructor,) = built.read("instructor_policy").to_dicts()
    calls = evolution_calls(built.read("evolved_instructions").to_dicts(), instructor)
    for asset, counted in (
        ("instructor_policy", calls.training),
        ("evolved_instructions", calls.generation),
    ):
        assert {role: asked.get(f"{asset} {role}", 0) for role in counted} == dict(counted)
    assert dict(sent.rows()) == {role: store[role] for role in ("rewrite", "review")}
    last = built.read("instructor_policy_steps").sort("step")["calls"].to_list()[-1]
    assert last == sum(calls.training.values())
    ledger = built.query("SELECT * FROM marts.query_ledger").to_dicts()
    told = {row["role"]: (row["training_calls"], row["calls"]) for row in ledger}
    answered = built.query(
        "SELECT (SELECT count(*) FROM reward_scored_instructions WHERE method = 'teams_rl') "
        "+ (SELECT count(*) FROM instance_decisions WHERE method = 'teams_rl')"
    ).item()
    assert told == {
        "execute": (calls.training["rewrite"], calls.generation["rewrite"]),
        "review": (calls.training["review"], calls.generation["review"]),
    } | ({"respond": (0, answered)} if answered else {})
    assert [row["not_stored"] for row in ledger] == [0] * len(ledger)


def test_arms_differ_only_in_their_instances(built: Warehouse) -> None:
    tuned = built.read("fine_tuned_model").to_dicts() + built.read("baseline_model").to_dicts()
    assert sorted(row["arm"] for row in tuned) == ["refine_af", "seeds_only", "self_instruct"]
    assert len({row["steps"] for row in tuned}) == 1
    assert len({row["fingerprint"] for row in tuned}) == 3
    report = built.read("evaluation_report")
    assert set(report["arm"]) == {"base", "seeds_only", "self_instruct", "refine_af"}
    assert report.group_by("arm").len()["len"].n_unique() == 1


def test_the_privacy_report_audits_every_arm_or_says_why_not(built: Warehouse) -> None:
    report = built.read("privacy_report").to_dicts()
    by_arm = {arm: [one for one in report if one["arm"] == arm] for arm in ARMS_TRAINED}
    assert sum(len(rows) for rows in by_arm.values()) == len(report)
    seeds = by_arm["seeds_only"]
    told = {(one["control"], one["attack"]) for one in seeds}
    assert told == (
        {(control, attack) for control in ("none", "over_fitted") for attack in ATTACKS}
        | {("base_model", attack) for attack in ATTACKS if attack != "calibrated"}
        | {("bag_of_words", "bag_of_words")}
    )
    assert all(one["auc_low"] <= one["auc"] <= one["auc_high"] for one in seeds)
    # So few instances of a small pool are too few to tell anything of them.
    for arm in ("self_instruct", "refine_af"):
        assert [one["auc"] for one in by_arm[arm]] == [None] * len(ATTACKS)
        assert all("are needed" in one["refusal"] for one in by_arm[arm])


def test_the_audited_model_saw_the_members_and_nothing_else(built: Warehouse) -> None:
    """Sides follow from the run seed and the instruction, and lineage names who was trained on."""
    seeds = {row["row_id"]: row for row in built.read("seed_tasks").to_dicts()}
    audits = {
        row["control"]: row
        for row in built.read("privacy_audits").to_dicts()
        if row["arm"] == "seeds_only"
    }
    for control, audit in audits.items():
        for parent in audit["parents"]:
            if parent["asset"] == "seed_tasks":
                member = is_member(
                    seeds[parent["row_id"]]["instruction"], load_profile(SMALL).run_seed
                )
                assert parent["role"] == ("trained_on" if member else "held_out")
        roles = [parent["role"] for parent in audit["parents"]]
        assert roles.count("trained_on") == audit["members"] > 0
        assert roles.count("held_out") == audit["others"] > 0, control
    scores = built.read("privacy_scores")
    assert scores.height == audits["none"]["members"] + audits["none"]["others"]
    assert scores["member"].sum() == audits["none"]["members"]


def test_the_ledger_chains_and_checkpoints_are_whole(built_home: Home, built: Warehouse) -> None:
    rows = built.query(
        "SELECT previous_digest, digest FROM lineage.materializations ORDER BY sequence"
    ).rows()
    previous = GENESIS
    for linked, digest in rows:
        assert linked == previous
        previous = digest
    store = CheckpointStore(built_home.checkpoints)
    checkpoints = built.query("SELECT asset, content_hash FROM lineage.checkpoints").rows()
    assert len(checkpoints) == 7
    assert all(store.is_whole(asset, content_hash) for asset, content_hash in checkpoints)


def test_nothing_asked_twice(copied_home: Home) -> None:
    """Promise 4: a second run with nothing changed asks, trains and changes nothing."""
    built = Warehouse(copied_home.warehouse)
    before, shown = _versions(copied_home), _shown(copied_home)
    assert {"training", "comparisons", "calibration"} <= {name for _, name in shown}
    completions = built.query("SELECT count(*) FROM store.completions").item()
    last = built.query("SELECT max(sequence) FROM lineage.materializations").item()
    run_pipeline(copied_home, SMALL)
    assert _versions(copied_home) == before
    assert _shown(copied_home) == shown
    assert built.query("SELECT count(*) FROM store.completions").item() == completions
    fresh = built.query(
        "SELECT coalesce(sum(requests_sent), 0)::BIGINT, sum(rows_added)::BIGINT, count(*) "
        "FROM lineage.materializations WHERE sequence > ?",
        [last],
    ).row(0)
    assert fresh[:2] == (0, 0)
    assert fresh[2] >= len(graph_assets())


def _latest(home: Home) -> dict[str, dg.AssetMaterialization]:
    definitions = build_definitions(SMALL, home=home)
    latest = {}
    with dg.DagsterInstance.get() as instance:
        for key in definitions.resolve_asset_graph().get_all_asset_keys():
            event = instance.get_latest_materialization_event(key)
            assert event is not None
            assert event.asset_materialization is not None
            latest[key.to_user_string()] = event.asset_materialization
    return latest


def _versions(home: Home) -> dict[str, str | None]:
    return {
        asset: (made.tags or {}).get("dagster/data_version")
        for asset, made in _latest(home).items()
    }


def _shown(home: Home) -> dict[tuple[str, str], str | None]:
    """What the UI shows of each asset's content, by asset and name, besides its first rows."""
    return {
        (asset, name): value.md_str
        for asset, made in _latest(home).items()
        for name, value in made.metadata.items()
        if asset in graph_assets()
        and isinstance(value, dg.MarkdownMetadataValue)
        and name != "preview"
    }
