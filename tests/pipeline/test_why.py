"""On a real run of stage 1, an edited seed is named as the cause of everything that it changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import pytest
from typer.testing import CliRunner

from refine_dagster.cli import app
from refine_dagster.errors import RefineError
from refine_dagster.home import Home
from refine_dagster.lineage.diff import difference
from refine_dagster.lineage.why import AssetExplanation, RowExplanation, explain
from refine_dagster.run import run_pipeline
from refine_dagster.warehouse.warehouse import Warehouse
from tests.pipeline.conftest import SMALL
from tests.pipeline.home_content import base_model_folder

STAGE_1 = "+filtered_instructions"
WORDS = " Be brief."


@dataclass(frozen=True)
class Edited:
    """A home in which stage 1 was made twice, with one seed edited in between.

    `before` and `after` are the last sequence numbers of the two runs.
    """

    home: Home
    warehouse: Warehouse
    seed_id: str
    before: int
    after: int


@pytest.fixture(scope="module")
def edited(built_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edited]:
    folder = tmp_path_factory.mktemp("edited")
    home = Home(folder / "home")
    shutil.copytree(built_home.root, home.root)
    warehouse = Warehouse(home.warehouse)
    seeds = folder / "seeds.jsonl"
    packaged = (files("refine_dagster.seeds") / "packaged.jsonl").read_text(encoding="utf-8")
    seeds.write_text(packaged, encoding="utf-8")
    overrides = {
        "seeds.path": str(seeds),
        "base_model.id": base_model_folder(built_home),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("REFINE_PROFILE", raising=False)
        patch.setenv("DAGSTER_HOME", str(home.dagster))
        patch.setenv("REFINE_HOME", str(home.root))
        run_pipeline(home, SMALL, overrides, STAGE_1)
        before = _last(warehouse)
        seed_id = warehouse.query(
            "SELECT seed_id FROM seed_tasks JOIN lineage.edges AS edge "
            "ON edge.parent_id = seed_tasks.row_id AND edge.role = 'demonstration' "
            "JOIN raw_instructions ON raw_instructions.row_id = edge.row_id "
            "WHERE round = 0 GROUP BY seed_id ORDER BY count(DISTINCT request), seed_id LIMIT 1"
        ).item()
        seeds.write_text(_edited(packaged, seed_id), encoding="utf-8")
        run_pipeline(home, SMALL, overrides, STAGE_1)
        yield Edited(home, warehouse, seed_id, before, _last(warehouse))


def _last(warehouse: Warehouse) -> int:
    return int(warehouse.query("SELECT max(sequence) FROM lineage.materializations").item())


def _edited(text: str, seed_id: str) -> str:
    seeds = [json.loads(line) for line in text.splitlines()]
    for seed in seeds:
        if seed["id"] == seed_id:
            seed["instruction"] += WORDS
    return "".join(json.dumps(seed) + "\n" for seed in seeds)


def call(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_edited_seed_is_the_only_cause(edited: Edited) -> None:
    told = explain(edited.warehouse, "raw_instructions")
    assert isinstance(told, AssetExplanation)
    (cause,) = {one.reason.cause.label: one.reason.cause for one in told.reasons}.values()
    assert (cause.name, cause.change) == (edited.seed_id, "edited")
    assert cause.new["instruction"] == cause.old["instruction"] + WORDS
    assert all(one.reason.through == () for one in told.reasons)
    (requests,) = told.requests
    assert 0 < requests.sent < requests.asked / 2
    assert requests.reused == requests.asked - requests.sent


def test_rows_whose_prompt_never_showed_the_seed_are_reused(edited: Edited) -> None:
    """Reused and made anew are told apart by one thing: the old seed among the ancestors."""
    old = edited.warehouse.read("raw_instructions", as_of=edited.before)
    live = set(edited.warehouse.read("raw_instructions")["row_id"])
    showed = set(
        edited.warehouse.query(
            """
            WITH RECURSIVE above AS (
                SELECT row_id AS start, row_id AS id FROM history.raw_instructions
                UNION
                SELECT above.start, edge.parent_id
                FROM above JOIN lineage.edges AS edge ON edge.row_id = above.id
            )
            SELECT DISTINCT start
            FROM above JOIN history.seed_tasks AS seed ON seed.row_id = above.id
            WHERE seed.seed_id = ? AND seed.removed_in > ?
            """,
            [edited.seed_id, edited.before],
        )["start"]
    )
    first_round = old.filter(old["round"] == 0)
    kept = [row_id for row_id in first_round["row_id"] if row_id in live]
    gone = [row_id for row_id in first_round["row_id"] if row_id not in live]
    assert kept
    assert gone
    assert not showed & set(kept)
    assert showed >= set(gone)
    row = explain(edited.warehouse, gone[0])
    assert isinstance(row, RowExplanation)
    assert row.removed is not None
    assert [one.label for one in row.removed.reasons] == [f"seed {edited.seed_id} edited"]
    stays = explain(edited.warehouse, kept[0])
    assert isinstance(stays, RowExplanation)
    assert (stays.removed, stays.kept) == (None, 1)
    assert stays.completion is not None
    assert stays.completion.sent is False


def test_diff_counts_what_the_edit_changed(edited: Edited) -> None:
    told = difference(edited.warehouse, edited.before, edited.after)
    assert {cause.label for cause in told.causes.values()} == {f"seed {edited.seed_id} edited"}
    assert {group.table for group in told.groups} >= {"seed_tasks", "raw_instructions"}
    assert "base_model" not in {group.table for group in told.groups}
    for table in ("raw_instructions", "instruction_decisions", "filtered_instructions"):
        groups = [group for group in told.groups if group.table == table]
        old = set(edited.warehouse.read(table, as_of=edited.before)["row_id"])
        new = set(edited.warehouse.read(table)["row_id"])
        assert sum(group.added + group.changed for group in groups) == len(new - old)
        assert sum(group.removed + group.changed for group in groups) == len(old - new)


def test_the_given_model_was_the_cause_of_the_run_before(edited: Edited) -> None:
    """The copied home's model was trained there; the first run here was given it by its path."""
    first = edited.warehouse.query("SELECT min(sequence) FROM lineage.materializations").item()
    assert first == 1
    trained = edited.warehouse.query(
        "SELECT max(sequence) FROM lineage.materializations WHERE asset = 'evaluation_report'"
    ).item()
    told = difference(edited.warehouse, trained, edited.before)
    labels = {told.label(group.reasons) for group in told.groups if group.table == "base_model"}
    (label,) = labels
    assert label.startswith("config base_model.id: offline → ")


def test_the_commands_tell_it_in_text_and_json(edited: Edited) -> None:
    told = call("why", "raw_instructions")
    assert f"seed {edited.seed_id} edited" in told
    assert WORDS.strip() in told
    answer: dict[str, Any] = json.loads(call("why", "raw_instructions", "--format", "json"))
    assert answer["reasons"][0]["reason"]["cause"]["name"] == edited.seed_id
    row_id = edited.warehouse.query(
        "SELECT row_id FROM raw_instructions JOIN lineage.edges AS edge USING (row_id) "
        "JOIN seed_tasks ON seed_tasks.row_id = edge.parent_id WHERE seed_id = ? LIMIT 1",
        [edited.seed_id],
    ).item()
    told = call("why", row_id[:10])
    assert f"    seed {edited.seed_id} edited" in told
    assert f"raw_instructions {row_id}" in told
    numbers = (str(edited.before), str(edited.after))
    told = call("diff", *numbers, "--table", "seed_tasks")
    assert "seed_tasks: 1 of 1 rows that differ" in told
    assert WORDS.strip() in told
    answer = json.loads(call("diff", *numbers, "--table", "seed_tasks", "--format", "json"))
    assert answer["rows"][0]["key"] == edited.seed_id
    assert "nothing differs" in call("diff", numbers[0], numbers[0])


def test_show_as_of_a_past_materialization(edited: Edited) -> None:
    wide = ("--limit", "1000")
    assert WORDS.strip() in call("show", "seed_tasks", *wide)
    told = call("show", "seed_tasks", "--as-of", str(edited.before), *wide)
    rows = edited.warehouse.read("seed_tasks", as_of=edited.before).height
    assert f"seed_tasks as of materialization {edited.before}: {rows} of {rows} rows" in told
    assert WORDS.strip() not in told
    assert "0 of 0 rows" in call("show", "raw_instructions", "--as-of", "1")
    with pytest.raises(RefineError, match="yield_funnel has no history"):
        call("show", "yield_funnel", "--as-of", "1")
    with pytest.raises(RefineError, match="there is no materialization 999"):
        call("show", "seed_tasks", "--as-of", "999")
