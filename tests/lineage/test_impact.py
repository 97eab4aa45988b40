"""What a seed touched: by which way, at which time, and which checkpoints hold it still."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from refine_dagster.lineage.impact import Impact, impact
from refine_dagster.lineage.trace import RowError
from refine_dagster.warehouse.checkpoints import Checkpoint
from refine_dagster.warehouse.rows import Parent, Row, make_row, parents
from refine_dagster.warehouse.schema import WarehouseError
from refine_dagster.warehouse.warehouse import Warehouse
from tests.builders.rows import row, seed_row
from tests.builders.small_warehouse import small_warehouse
from tests.builders.warehouse import commit, new_warehouse


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    return small_warehouse(tmp_path_factory.mktemp("impact") / "w.duckdb")


def counts(found: Impact) -> dict[str, tuple[int, int, int]]:
    return {one.table: (one.shown, one.trained, one.compared) for one in found.tables}


def how(found: Impact) -> dict[str, str]:
    return dict(found.rows.select("row_id", "how").rows())


# A graph by hand: s1 stands in the prompt of c1, the base learnt from s1 and s2, c1 and c2 are
# written by it, and c2's decision found s2 nearest.


def base(seeds: Sequence[Row], checkpoint: str | None = "hash of the base") -> Row:
    learnt = parents(seeds, "seed_tasks", "trained_on")
    return row("base_model", learnt, model="offline", checkpoint_hash=checkpoint)


def candidate(slot: str, shown: Sequence[Row], model: Row | None) -> Row:
    written = parents([model], "base_model", "generator") if model else []
    prompt = [*written, *parents(shown, "seed_tasks", "demonstration")]
    return row("raw_instructions", prompt, slot=slot, instruction=slot, completion_key=slot)


def decision(of: Row, nearest: Row | None = None) -> Row:
    near = parents([nearest], "seed_tasks", "nearest") if nearest else []
    return row(
        "instruction_decisions",
        [*parents([of], "raw_instructions", "candidate"), *near],
        candidate_id=of["row_id"],
        slot=of["slot"],
        instruction=of["instruction"],
    )


def policy(measured_on: Sequence[Row], shown: Sequence[Row] = ()) -> Row:
    return row(
        "rl_policy_checkpoint",
        [
            *parents(measured_on, "raw_instructions", "measured_on"),
            *parents(shown, "seed_tasks", "demonstration"),
        ],
        checkpoint_hash="hash of the policy",
    )


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return new_warehouse(tmp_path / "w.duckdb")


def test_shown_trained_and_compared_are_told_apart(warehouse: Warehouse) -> None:
    s1, s2 = seed_row("s1"), seed_row("s2")
    model = base([s1])
    c1, c2 = candidate("c1", [s1], model), candidate("c2", [s2], model)
    d1, d2 = decision(c1, nearest=s2), decision(c2, nearest=s2)
    commit(warehouse, "seed_tasks", [s1, s2])
    commit(warehouse, "base_model", [model])
    commit(warehouse, "raw_instructions", [c1, c2])
    commit(warehouse, "instruction_decisions", [d1, d2])
    of_s1 = impact(warehouse, "s1")
    # c2 was written by a model that learnt from s1; c1 was, and had it in its prompt as well.
    assert how(of_s1) == {
        model["row_id"]: "trained",
        c1["row_id"]: "shown",
        c2["row_id"]: "trained",
        d1["row_id"]: "shown",
        d2["row_id"]: "trained",
    }
    assert counts(of_s1)["raw_instructions"] == (1, 1, 0)
    of_s2 = impact(warehouse, "s2")
    assert how(of_s2) == {
        c2["row_id"]: "shown",
        d1["row_id"]: "compared",
        d2["row_id"]: "shown",
    }
    assert [one.asset for one in of_s1.live_checkpoints] == ["base_model"]
    assert of_s2.live_checkpoints == ()


def test_a_policy_that_was_only_measured_does_not_hold_the_seed(warehouse: Warehouse) -> None:
    s1, s2 = seed_row("s1"), seed_row("s2")
    c1 = candidate("c1", [s1], None)
    refined = policy([c1], shown=[s2])
    commit(warehouse, "seed_tasks", [s1, s2])
    commit(warehouse, "raw_instructions", [c1])
    commit(warehouse, "rl_policy_checkpoint", [refined])
    measured = impact(warehouse, "s1")
    assert how(measured)[refined["row_id"]] == "compared"
    assert [one.how for one in measured.checkpoints] == ["compared"]
    assert measured.live_checkpoints == ()
    # A prompt of its training is learnt from.
    learnt = impact(warehouse, "s2")
    assert how(learnt) == {refined["row_id"]: "trained"}
    assert [one.content_hash for one in learnt.live_checkpoints] == ["hash of the policy"]


def test_before_and_after_a_removal(warehouse: Warehouse) -> None:
    s1, s2 = seed_row("s1"), seed_row("s2")
    old, new = base([s1, s2]), base([s2], "hash of the new base")
    c1, c2 = candidate("c1", [s1], old), candidate("c2", [s2], old)
    c3 = candidate("c3", [s2], new)
    commit(warehouse, "seed_tasks", [s1, s2])  # 1
    commit(warehouse, "base_model", [old])  # 2
    commit(warehouse, "raw_instructions", [c1, c2])  # 3
    commit(warehouse, "seed_tasks", [s2])  # 4
    commit(warehouse, "base_model", [new])  # 5
    commit(warehouse, "raw_instructions", [c3])  # 6
    assert impact(warehouse, "s1", 1).rows.is_empty()
    before = impact(warehouse, "s1", 3)
    assert counts(before) == {"base_model": (0, 1, 0), "raw_instructions": (1, 1, 0)}
    assert [(one.content_hash, one.live) for one in before.checkpoints] == [
        ("hash of the base", False)
    ]
    # Removed, and not yet retracted: everything made from it still lives.
    between = impact(warehouse, "s1", 4)
    assert counts(between) == counts(before)
    assert between.seeds[0].removed_in == 4
    now = impact(warehouse, "s1")
    assert (now.as_of, now.latest) == (6, 6)
    assert now.rows.is_empty()
    assert now.checkpoints == now.live_checkpoints == ()
    # History keeps what it touched.
    assert {one.table: (one.rows, one.of, one.ever) for one in now.tables} == {
        "base_model": (0, 1, 1),
        "raw_instructions": (0, 1, 2),
    }
    assert impact(warehouse, s1["row_id"]).seeds == now.seeds
    assert counts(impact(warehouse, "s2"))["raw_instructions"] == (1, 0, 0)


def test_live_checkpoints_name_bytes_trained_on_it_under_another_row(warehouse: Warehouse) -> None:
    s1, s2 = seed_row("s1"), seed_row("s2")
    commit(warehouse, "seed_tasks", [s1, s2])
    commit(warehouse, "base_model", [base([s1, s2], "same bytes")])
    commit(warehouse, "seed_tasks", [s2])
    kept = base([s2], "same bytes")
    commit(warehouse, "base_model", [kept])
    found = impact(warehouse, "s1")
    assert found.rows.is_empty()
    assert [(one.row_id, one.content_hash) for one in found.live_checkpoints] == [
        (kept["row_id"], "same bytes")
    ]


def test_a_registered_checkpoint_is_named_by_its_folder(warehouse: Warehouse) -> None:
    s1 = seed_row("s1")
    commit(warehouse, "seed_tasks", [s1])
    stored = Checkpoint(
        asset="base_model",
        content_hash="hash of the base",
        manifest={},
        manifest_hash="m",
        path=Path("base_model/hash"),
        relative_path="base_model/hash",
        files={"w": "h"},
        record={},
        reused=False,
    )
    commit(warehouse, "base_model", [base([s1])], [stored])
    found = impact(warehouse, "s1")
    assert [(one.asset, one.path, one.how, one.live) for one in found.checkpoints] == [
        ("base_model", "base_model/hash", "trained", True)
    ]
    assert found.checkpoints == found.live_checkpoints
    # A given model has no checkpoint here.
    commit(warehouse, "base_model", [base([s1], None)])
    assert impact(warehouse, "s1").live_checkpoints == ()


def test_versions_of_an_edited_seed(warehouse: Warehouse) -> None:
    old, new = seed_row("s1", "Old words."), seed_row("s1", "New words.")
    commit(warehouse, "seed_tasks", [old])  # 1
    commit(warehouse, "raw_instructions", [candidate("c", [old], None)])  # 2
    commit(warehouse, "seed_tasks", [new])  # 3
    now = impact(warehouse, "s1")
    assert [one.instruction for one in now.seeds] == ["New words."]
    assert [one.instruction for one in now.others] == ["Old words."]
    assert now.rows.is_empty()
    assert impact(warehouse, "s1", 2).rows.height == 1
    assert impact(warehouse, old["row_id"][:8]).rows.height == 1
    commit(warehouse, "seed_tasks", [])  # 4
    gone = impact(warehouse, "s1")
    assert [one.instruction for one in gone.seeds] == ["Old words.", "New words."]
    assert gone.others == ()
    assert gone.rows.height == 1


def test_a_seed_that_came_back(warehouse: Warehouse) -> None:
    one = seed_row("s1")
    child = candidate("c", [one], None)
    for rows in ([one], [], [one]):
        commit(warehouse, "seed_tasks", rows)
        commit(warehouse, "raw_instructions", [child] if rows else [])
    assert impact(warehouse, "s1", 2).rows.height == 1
    assert impact(warehouse, "s1", 4).rows.is_empty()
    now = impact(warehouse, "s1")
    assert now.rows.rows() == [("raw_instructions", child["row_id"], "shown")]
    assert [(one.of, one.ever) for one in now.tables] == [(1, 1)]


def test_dataset_and_exports(small: Warehouse) -> None:
    found = impact(small, "s3")
    assert found.dataset is not None
    assert (found.dataset.rows, found.dataset.of) == (2, 2)
    assert found.dataset.data_version == small.data_version("instruction_dataset")
    assert impact(small, "s3", 3).dataset is None
    rows = small.read("instruction_dataset")["row_id"].to_list()
    commit(
        small,
        "exports",
        {
            "exports": [
                make_row(
                    "exports",
                    {
                        "path": "d.jsonl",
                        "format": "messages",
                        "sha256": "h",
                        "rows": 2,
                        "data_version": found.dataset.data_version,
                    },
                    [Parent("instruction_dataset", row, "exported") for row in rows],
                )
            ]
        },
    )
    after = impact(small, "s3")
    assert [(one.path, one.format, one.rows, one.of) for one in after.exports] == [
        ("d.jsonl", "messages", 2, 2)
    ]
    assert impact(small, "s3", found.as_of).exports == ()


def test_json_is_whole(small: Warehouse) -> None:
    found = impact(small, "s1")
    told = json.loads(json.dumps(found.as_json()))
    assert len(told["rows"]) == sum(one.rows for one in found.tables) > 0
    assert told["seeds"][0]["seed_id"] == "s1"
    assert told["dataset"]["rows"] == 2
    assert {one["table"] for one in told["tables"]} == set(found.rows["table"])
    assert all(isinstance(one, dict) for one in told["checkpoints"])


@pytest.mark.parametrize("as_of", [-1, 999])
def test_no_such_materialization(small: Warehouse, as_of: int) -> None:
    with pytest.raises(WarehouseError, match="there is no materialization"):
        impact(small, "s1", as_of)


def test_no_such_seed(small: Warehouse) -> None:
    with pytest.raises(RowError, match="there is no seed task 'nobody'"):
        impact(small, "nobody")
    with pytest.raises(RowError, match="no row, live or removed"):
        impact(small, "0" * 32)
    row_id = small.read("instruction_dataset")["row_id"][0]
    with pytest.raises(RowError, match="is a row of instruction_dataset, not a seed task"):
        impact(small, row_id)
