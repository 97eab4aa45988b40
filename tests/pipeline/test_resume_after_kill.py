"""Promise 3: SIGKILL at any moment loses at most the batch in flight.

The real pipeline runs in a child process, is killed again and again, and is started again. After
every kill the home must be sound; at the end its content must be that of a run left alone.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from refine_dagster.home import Home
from refine_dagster.warehouse.tables import graph_assets
from refine_dagster.warehouse.warehouse import Warehouse
from tests.builders.rows import seed_row
from tests.builders.warehouse import commit
from tests.pipeline.children import FIRST_ASSETS, QUICK, Child, at_call, ended, fork, run_command
from tests.pipeline.conftest import TINY_SEEDS, TinyRun
from tests.pipeline.home_content import assert_sound, completion_keys, content
from tests.pipeline.project import Project, packaged_seeds

KILLS = 12
# Every asset of the graph, and SQL models before and after the last of them. All of the SQL models
# would be made anew after every kill.
STAGES = (
    "--select",
    "+evaluation_report or +privacy_report or +yield_funnel or stg_evaluation_report",
)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_resume_after_kill(tiny_run: TinyRun, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    project = Project(tmp_path / "seeds.jsonl", packaged_seeds(TINY_SEEDS))
    arguments = (*STAGES, *project.options())
    hit: Counter[str] = Counter()
    sent = lost = 0
    for number, (stage, share) in enumerate(moments(tiny_run.seconds)):
        known = completion_keys(home)
        log = tmp_path / f"{number}.log"
        child = killed_at(home, log, arguments, tiny_run.seconds, stage, share)
        hit[stage_of(child.printed(), tiny_run.seconds)] += 1
        assert_sound(home)
        assert not known & set(child.sent_keys()), "asked again for what was stored"
        sent += len(child.sent_keys())
        lost += len(lost_batch(child, home))
    last = run_command(home, tmp_path / "last.log", *arguments)
    assert last.end() == 0, last.log.read_text(encoding="utf-8")
    sent += len(last.sent_keys())
    print(f"kills by stage: {dict(hit)}; {sent} requests sent, {lost} of them lost")
    assert_sound(home)
    expected, found = content(tiny_run.home), content(home)
    for part in ("tables", "checkpoints", "completions"):
        assert found[part] == expected[part], part
    assert {name for name, _ in found["versions"]} >= set(graph_assets())
    assert set(found["versions"]) <= set(expected["versions"])
    assert sent == len(expected["completions"]) + lost
    assert sum(hit.values()) == KILLS
    assert len(hit) >= 8
    assert list(home.checkpoints.glob("*/.partial-*")) == []
    assert list(home.checkpoints.glob("*/resume/*")) == []


def lost_batch(child: Child, home: Home) -> list[str]:
    """Keys that a killed child sent and the store does not have: of its last batch at most."""
    stored = completion_keys(home)
    lost = [key for key in child.sent_keys() if key not in stored]
    assert not lost or set(lost) <= set(child.batches()[-1])
    return lost


def moments(seconds: dict[str, float]) -> list[tuple[str, float]]:
    """A stage and a share of its time for each kill: every other stage, then by time taken."""
    rng = random.Random(3)
    stages = list(seconds)
    every = stages[::2]
    drawn = rng.choices(stages, [seconds[stage] for stage in stages], k=KILLS - len(every))
    return [(stage, rng.random()) for stage in sorted([*every, *drawn], key=stages.index)]


def killed_at(
    home: Home,
    log: Path,
    arguments: Sequence[str],
    seconds: dict[str, float],
    stage: str,
    share: float,
) -> Child:
    """A child killed at a moment of a stage; earlier in it where the child was done by then."""
    stages = list(seconds)
    before = stages[stages.index(stage) - 1] if stage != stages[0] else None
    while True:
        child = run_command(home, log, *arguments)
        if before is None or child.wait_for(lambda lines: before in ended(lines)):
            moment = child.cpu_s() + share * seconds[stage]
            while child.process.is_alive() and child.cpu_s() < moment:
                time.sleep(0.002)
        if child.kill():
            return child
        assert child.end() == 0, child.log.read_text(encoding="utf-8")
        share /= 2


def stage_of(lines: list[str], seconds: dict[str, float]) -> str:
    """The stage that a child was in when it printed no more."""
    stages, done = list(seconds), ended(lines)
    return stages[stages.index(done[-1]) + 1] if done else stages[0]


# Where a child kills itself: a function by module and name, which call of it from the first, and
# whether before the call or after it.
POINTS = {
    "database made, not in its place": ("os:link", 1, "before"),
    "making the schema": ("refine_dagster.warehouse.schema:create_table", 5, "before"),
    "schema made, not committed": (
        "refine_dagster.warehouse.schema:_create_lineage_views",
        1,
        "after",
    ),
    "rows written, no record": ("refine_dagster.warehouse.warehouse:write_record", 2, "before"),
    "record written, not committed": (
        "refine_dagster.warehouse.warehouse:write_record",
        2,
        "after",
    ),
    "committed, Dagster not told": ("assets.step:Step._result", 2, "before"),
    "checkpoint written, not published": (
        "refine_dagster.warehouse.checkpoints:CheckpointStore._publish",
        1,
        "before",
    ),
    "checkpoint published, not named": (
        "refine_dagster.warehouse.checkpoints:CheckpointStore._note",
        1,
        "before",
    ),
    "checkpoint named, not registered": (
        "refine_dagster.warehouse.warehouse:Warehouse.register_training",
        1,
        "before",
    ),
    "checkpoint registered, not committed": (
        "refine_dagster.warehouse.checkpoints:CheckpointStore._publish",
        1,
        "after",
    ),
    "batch answered, not stored": (
        "refine_dagster.generation.completions:CompletionsStore._store",
        2,
        "before",
    ),
    "batch stored, next not sent": (
        "refine_dagster.generation.completions:CompletionsStore._store",
        1,
        "after",
    ),
    "SQL model made, no record": ("refine_dagster.sql_models.execution:write_record", 1, "before"),
}


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_between_two_writes(
    first_assets: dict[str, Any], tmp_path: Path, point: str
) -> None:
    home = Home(tmp_path / "home")
    child = run_command(
        home,
        tmp_path / "0.log",
        *FIRST_ASSETS,
        environment=QUICK,
        prepare=at_call,
        given=(*POINTS[point], die),
    )
    assert child.end() == -signal.SIGKILL, child.log.read_text(encoding="utf-8")
    assert_sound(home)
    lost = lost_batch(child, home)
    again = run_command(home, tmp_path / "1.log", *FIRST_ASSETS, environment=QUICK)
    assert again.end() == 0, again.log.read_text(encoding="utf-8")
    assert_sound(home)
    assert content(home) == first_assets
    assert bool(lost) == (point == "batch answered, not stored")
    assert len(child.sent_keys()) + len(again.sent_keys()) == len(
        first_assets["completions"]
    ) + len(lost)
    assert list(home.checkpoints.glob("*/.partial-*")) == []


def die() -> None:
    """Kill this process; runs in the child."""
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_kill_inside_a_commit(tmp_path: Path) -> None:
    """A process that does nothing but commit, killed 20 times: what it was told stands."""
    home = Home(tmp_path / "home")
    rng = random.Random(5)
    told = 0
    for number in range(KILLS):
        child = fork(tmp_path / f"{number}.log", commit_for_ever, home.warehouse, number)
        assert child.wait_for(lambda lines: len(lines) > 0)
        time.sleep(rng.uniform(0.0, 0.4))
        assert child.kill()
        assert_sound(home)
        told = int(child.printed()[-1])
        last = Warehouse(home.warehouse).query("SELECT max(sequence) FROM lineage.materializations")
        assert last.item() in (told, told + 1)
    assert told > KILLS


def commit_for_ever(path: Path, number: int) -> None:
    """Commit other seeds again and again, and print each sequence; runs in the child."""
    warehouse = Warehouse(path)
    for turn in itertools.count():
        rows = [
            seed_row(f"{place}", "Say it.", output=f"{number} {turn}")
            for place in range(500)
            if place % 7 != turn % 7
        ]
        print(commit(warehouse, "seed_tasks", rows).sequence, flush=True)
