"""Promises 1 and 2 over generated histories, on the graph with models of the fake kind.

The assets, stages, warehouse, completions store and checkpoints are the real ones. What a home
holds after each history is compared with what the graph makes in memory from nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import polars as pl
import pytest

from refine_dagster.config.profile import Profile
from refine_dagster.home import Home
from refine_dagster.lineage.audit import verify
from refine_dagster.warehouse.tables import TABLES, tables_of
from refine_dagster.warehouse.warehouse import Warehouse
from tests.builders.fake_graph import FakeGraph, KilledError, assets_until
from tests.builders.histories import FIRST, Step, walk
from tests.builders.warehouse import cheap_planning

pytestmark = pytest.mark.slow

# Walk -> its length. The short one has an edit, a removal, another config, a kill, a second policy
# round and a change undone.
SHORT = 16
WALKS = {SHORT: 5, **dict.fromkeys(range(10), 20)}
# These end with a deep audit of the home.
AUDITED = (SHORT, 0, 5)
TASKS = 1
LIVE = "SELECT asset, table_name, policy_round, row_id FROM lineage.rows WHERE removed_in IS NULL"
EDGES = "SELECT table_name, policy_round, row_id, parent_table, parent_id FROM lineage.edges"
ROW = ["table_name", "policy_round", "row_id"]
SEEDS = "SELECT row_id, instruction FROM history.seed_tasks"
COMPLETION = "completion_key"
HISTORY = "SELECT table_name, policy_round, row_id FROM lineage.rows"
# Tables of rows that descend from what was a seed and is none any more, and whether they are alive.
ORPHANS = """
    SELECT DISTINCT r.table_name, r.removed_in IS NULL AS alive
    FROM (
        SELECT row_id FROM history.seed_tasks
        WHERE row_id NOT IN (SELECT row_id FROM main.seed_tasks)
    ) AS gone, lineage.descendants_of(gone.row_id) AS d
    JOIN lineage.rows AS r ON r.row_id = d.descendant_id
"""


@dataclass(frozen=True)
class Moment:
    """A home after one more change, and a run up to some asset.

    Attributes:
        step: the change.
        found: (table, policy round, row id) of the live rows, but of assets behind the run's last.
        expected: the same of what a build from nothing makes.
        stranded: edges from rows found to parents that are not alive.
    """

    step: Step
    found: set[tuple[str, int, str]]
    expected: set[tuple[str, int, str]]
    stranded: list[tuple[str, int, str, str, str]]


@dataclass(frozen=True)
class Walk:
    """A home, its moments, the graph that was run in it, and one made from nothing at the end."""

    number: int
    home: Home
    moments: list[Moment]
    graph: FakeGraph
    rebuilt: FakeGraph


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with held-out tasks, and a home in which the graph was made once."""
    folder = tmp_path_factory.mktemp("histories")
    (folder / "tasks").mkdir()
    packaged = files("refine_dagster") / "evaluation" / "held_out"
    for entry in sorted(packaged.iterdir(), key=lambda entry: entry.name)[:TASKS]:
        (folder / "tasks" / entry.name).write_bytes(entry.read_bytes())
    FakeGraph.in_home(Home(folder / "first")).run(FIRST.profile(folder))
    return folder


@pytest.fixture(scope="module", params=list(WALKS))
def walked(request: pytest.FixtureRequest, folder: Path) -> Iterator[Walk]:
    """A walk, done."""
    home = Home(folder / "home")
    shutil.copytree(folder / "first", home.root)
    with cheap_planning():
        graph = FakeGraph.in_home(home)
        moments = []
        with graph.warehouse.held():
            for step in walk(request.param, WALKS[request.param]):
                profile = step.project.profile(folder)
                rebuilt = _rebuilt(profile, step, folder)
                _run(graph, profile, step)
                moments.append(_moment(graph, profile, step, rebuilt))
            yield Walk(request.param, home, moments, graph, rebuilt)
    shutil.rmtree(home.root)


def _run(graph: FakeGraph, profile: Profile, step: Step) -> None:
    if step.killed_after is not None:
        with suppress(KilledError):
            graph.run(profile, until=step.reach, killed_after=step.killed_after)
    graph.run(profile, until=step.reach)


def _rebuilt(profile: Profile, step: Step, folder: Path) -> FakeGraph:
    graph = FakeGraph.from_nothing(folder / "rebuilt")
    graph.run(profile, until=step.reach)
    shutil.rmtree(folder / "rebuilt")
    return graph


def _moment(graph: FakeGraph, profile: Profile, step: Step, rebuilt: FakeGraph) -> Moment:
    live = graph.warehouse.query(LIVE)
    everything = assets_until(profile, None)
    behind = everything[len(assets_until(profile, step.reach)) :]
    found = live.filter(~pl.col("asset").is_in([asset.facts.key for asset in behind]))
    edges = graph.warehouse.query(EDGES).join(found, on=ROW, how="semi")
    stranded = edges.join(live, left_on="parent_id", right_on="row_id", how="anti")
    expected = {
        (part.table.name, part.policy_round.number, row_id)
        for asset in assets_until(profile, step.reach)
        for part in tables_of(asset.facts.key)
        for row_id in rebuilt.warehouse.read(part.name)["row_id"]
    }
    return Moment(step, set(found.select(ROW).iter_rows()), expected, stranded.rows())


def test_incremental_equals_rebuild(walked: Walk) -> None:
    for moment in walked.moments:
        assert moment.found == moment.expected, moment.step
    # An id names a row's content; that each cell is what its id says is looked at once a walk.
    assert walked.moments[-1].step.reach is None
    for name, rows in walked.rebuilt.warehouse.tables.items():
        assert walked.graph.warehouse.read(name).to_dicts() == rows.to_dicts(), name


def test_retraction(walked: Walk) -> None:
    # A live row that descends from what is gone has a parent that is gone, or descends from one.
    for moment in walked.moments:
        assert moment.stranded == [], moment.step
    orphans = walked.graph.warehouse.query(ORPHANS).rows()
    assert [table for table, alive in orphans if alive] == []
    # History still shows what a seed had touched.
    touched = {table for table, _ in orphans}
    assert {"raw_instructions", "instruction_dataset", "fine_tuned_model"} <= touched
    assert _unnamed(walked.graph.warehouse) == []
    history = set(walked.graph.warehouse.query(HISTORY).iter_rows())
    assert set.union(*(moment.found for moment in walked.moments)) <= history
    if walked.number in AUDITED:
        report = verify(walked.graph.warehouse, walked.home.checkpoints, deep=True)
        assert report.findings == []


def _unnamed(warehouse: Warehouse) -> list[tuple[str, str]]:
    """(row id, text) where a row's prompt shows the text of a seed, and the row descends from no
    seed of that text."""
    parents: dict[str, set[str]] = {}
    for _, _, row_id, _, parent_id in warehouse.query(EDGES).iter_rows():
        parents.setdefault(row_id, set()).add(parent_id)
    seeds: dict[str, str] = dict(warehouse.query(SEEDS).iter_rows())

    @cache
    def texts_behind(row_id: str) -> frozenset[str]:
        own = {seeds[row_id]} if row_id in seeds else set()
        return frozenset(own.union(*map(texts_behind, parents.get(row_id, ()))))

    prompts = warehouse.query(
        " UNION ALL ".join(
            f"SELECT row_id, prompt FROM history.{name} JOIN store.completions "
            f"ON key = {COMPLETION}"
            for name, table in TABLES.items()
            if COMPLETION in table.columns
        )
    )
    assert prompts.height > 50
    return [
        (row_id, text)
        for row_id, prompt in prompts.iter_rows()
        for text in set(seeds.values()) - texts_behind(row_id)
        if text in prompt
    ]
