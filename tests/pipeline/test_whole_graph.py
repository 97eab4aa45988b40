"""The whole graph, run for real: every asset, every promise about its rows, and a second run."""

from __future__ import annotations

import dagster as dg

from assets.versions import REVISIONS
from refine_dagster.definitions import build_definitions
from refine_dagster.home import Home
from refine_dagster.lineage.checkpoints import CheckpointStore
from refine_dagster.lineage.ledger import GENESIS
from refine_dagster.lineage.tables import TABLES
from refine_dagster.lineage.warehouse import Warehouse
from refine_dagster.pipeline import run_pipeline
from tests.pipeline.conftest import SMALL


def test_every_asset_is_materialised(built_home: Home, built: Warehouse) -> None:
    recorded = set(built.query("SELECT DISTINCT asset FROM lineage.materializations")["asset"])
    assert set(REVISIONS) <= recorded
    for asset in REVISIONS:
        assert not built.read(asset).is_empty(), asset
    definitions = build_definitions(SMALL, home=built_home)
    keys = definitions.resolve_asset_graph().get_all_asset_keys()
    with dg.DagsterInstance.get() as instance:
        for key in keys:
            assert instance.get_latest_materialization_event(key) is not None, key


def test_every_table_has_rows(built: Warehouse) -> None:
    made = [name for name, table in TABLES.items() if table.asset in REVISIONS]
    empty = [name for name in made if built.read(name).is_empty()]
    assert empty == []


def test_funnel_reconciles(built: Warehouse) -> None:
    """Promise 5: in = kept + rejected(reason) + failed(reason), per stage."""
    candidates = built.read("raw_instructions")
    decisions = built.read("instruction_decisions")
    assert sorted(candidates["row_id"]) == sorted(decisions["candidate_id"])
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
    for name in TABLES:
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
    assert set(built.read("reward_scored_instructions")["policy"]) == {base}
    assert set(built.read("instruction_dataset")["policy"]) == {refined}
    keys = set(built.query("SELECT key FROM store.completions")["key"])
    for table in ("raw_instructions", "reward_scored_instructions", "instruction_dataset"):
        assert set(built.read(table)["completion_key"]) <= keys


def test_arms_differ_only_in_their_instances(built: Warehouse) -> None:
    tuned = built.read("fine_tuned_model").to_dicts() + built.read("baseline_model").to_dicts()
    assert sorted(row["arm"] for row in tuned) == ["refine_af", "seeds_only", "self_instruct"]
    assert len({row["steps"] for row in tuned}) == 1
    assert len({row["fingerprint"] for row in tuned}) == 3
    report = built.read("evaluation_report")
    assert set(report["arm"]) == {"base", "seeds_only", "self_instruct", "refine_af"}
    assert report.group_by("arm").len()["len"].n_unique() == 1


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
    assert len(checkpoints) == 6
    assert all(store.is_whole(asset, content_hash) for asset, content_hash in checkpoints)


def test_nothing_asked_twice(copied_home: Home) -> None:
    """Promise 4: a second run with nothing changed asks, trains and changes nothing."""
    built = Warehouse(copied_home.warehouse)
    before = _versions(copied_home)
    completions = built.query("SELECT count(*) FROM store.completions").item()
    last = built.query("SELECT max(sequence) FROM lineage.materializations").item()
    run_pipeline(copied_home, SMALL)
    assert _versions(copied_home) == before
    assert built.query("SELECT count(*) FROM store.completions").item() == completions
    fresh = built.query(
        "SELECT coalesce(sum(requests_sent), 0)::BIGINT, sum(rows_added)::BIGINT, count(*) "
        "FROM lineage.materializations WHERE sequence > ?",
        [last],
    ).row(0)
    assert fresh[:2] == (0, 0)
    assert fresh[2] >= len(REVISIONS)


def _versions(home: Home) -> dict[str, str | None]:
    definitions = build_definitions(SMALL, home=home)
    versions = {}
    with dg.DagsterInstance.get() as instance:
        for key in definitions.resolve_asset_graph().get_all_asset_keys():
            event = instance.get_latest_materialization_event(key)
            assert event is not None
            assert event.asset_materialization is not None
            tags = event.asset_materialization.tags or {}
            versions[key.to_user_string()] = tags.get("dagster/data_version")
    return versions
