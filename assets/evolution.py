"""TeaMs-RL: an instructor learns which operation to apply to an instruction, then evolves seeds.

Both assets belong to the first policy round: executor and reviewer are the base model, and what is
evolved joins the pool behind what was proposed. With `teams_rl.evolved_seeds` at 0 both are empty,
and no model is loaded.
"""

from collections import defaultdict
from typing import Any

import dagster as dg
import polars as pl

from assets.preview import markdown_table
from assets.sources import base_of
from assets.step import Result, Step, pipeline_asset
from refine_dagster import stages
from refine_dagster.runtime import Made
from refine_dagster.self_instruct.decisions import EVOLVED
from refine_dagster.teams_rl.evolution import INSTRUCTOR, evolution_calls, registered_instructor
from refine_dagster.teams_rl.operations import EPISODE_LENGTH, one_line
from resources.profile import ProfileResource
from resources.warehouse import WarehouseResource


@pipeline_asset(group="policy", kinds={"torch", "huggingface"}, owner="models", revision=1,
                config=("teams_rl", "device"),
                deps=["seed_tasks", "base_model"])  # fmt: skip
def instructor_policy(step: Step) -> Result:
    """The policy that chooses which operation to apply to an instruction (TeaMs-RL).

    It is trained on a part of the seeds, split by seed before anything is trained: the base model
    executes each operation and reviews what came of it, and a kept rewrite pays by how new it is.
    Every update's figures are rows; `ended_by` names what the collapse guard saw where it ended the
    training, `updates` where it did not. `teams_rl.algorithm` may also name a policy that learns
    nothing; nothing is trained then.
    """
    if same := step.unchanged():
        return same
    profile = step.profile
    made = stages.untrained_instructor(profile.teams_rl, profile.run_seed)
    if made is None:
        base, seeds = base_of(step), step.rows("seed_tasks")
        with step.runtime() as runtime:
            made = stages.train_instructor(
                base, seeds, profile.teams_rl, profile.generator, runtime
            )
    return step.commit(made)


@pipeline_asset(group="instructions", kinds={"huggingface", "duckdb"}, owner="data", revision=1,
                config=("teams_rl", "device"), automated=True,
                deps=["seed_tasks", "base_model", "instructor_policy"])  # fmt: skip
def evolved_instructions(step: Step) -> Result:
    """Candidate instructions, evolved from seeds by the operations that the instructor chooses.

    Six operations a seed, each applied to what the last kept one left; every one is a row with its
    operation, what it was applied to, and the rule that eliminated it or `kept`. The seeds are
    drawn from those that the instructor was not trained on. The decisions come after: what is kept
    here is a candidate beside those of the Self-Instruct loop.
    """
    if same := step.unchanged():
        return _with_calls(step, same)
    config, run_seed = step.profile.teams_rl, step.profile.run_seed
    if config.evolved_seeds == 0:
        return step.commit(Made({EVOLVED: []}))
    base, row, seeds = base_of(step), step.row(INSTRUCTOR), step.rows("seed_tasks")
    policy = registered_instructor(row, step.checkpoints, config, run_seed)
    with step.runtime() as runtime:
        made = stages.evolve(base, row, policy, seeds, config, runtime)
    return _with_calls(step, step.commit(made))


def _with_calls(step: Step, result: Result) -> Result:
    """The result with what the committed rows cost in model calls, for the UI."""
    rows = step.warehouse.read(EVOLVED).to_dicts()
    if not rows:
        return result
    calls, kept = evolution_calls(rows, step.row(INSTRUCTOR)), sum(row["valid"] for row in rows)
    alone: dict[str, Any] = {role: float(count) for role, count in calls.generation.items()}
    trained = {role: count + calls.training[role] for role, count in alone.items()}
    columns = {"evolution": alone, "with the instructor's training": trained}
    for column in columns.values():
        column["all"] = sum(column.values())
        column["for each kept row"] = column["all"] / kept if kept else None
    table = pl.DataFrame(
        {"calls": list(alone)} | {name: list(column.values()) for name, column in columns.items()}
    )
    shown: dict[str, Any] = {
        "calls": dg.MetadataValue.md(markdown_table(table)),
        **{f"{role}_calls": count for role, count in calls.generation.items()},
        **{f"training_{role}_calls": count for role, count in calls.training.items()},
        "calls_per_kept_row": alone["for each kept row"],
        "calls_per_kept_row_with_training": trained["for each kept row"],
    }
    known = {name: value for name, value in shown.items() if value is not None}
    return result._replace(metadata={**(result.metadata or {}), **known})


@dg.asset_check(asset="instructor_policy", blocking=True)
def instructor_not_collapsed(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """The collapse guard did not end the instructor's training: diversity did not fall while
    validity rose, and no single operation took over."""
    rows = warehouse.open().query("SELECT algorithm, updates, ended_by FROM instructor_policy")
    collapsed = [row for row in rows.rows(named=True) if row["ended_by"] not in (None, "updates")]
    shown = {name: value for row in rows.rows(named=True) for name, value in row.items() if value}
    return dg.AssetCheckResult(passed=not collapsed, metadata=shown)


@dg.asset_check(asset=EVOLVED, blocking=True)
def evolution_closes(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """Every evolved row was made from what it says: the text of its seed, or of the last row of
    that seed that was kept; and every seed has each place of its evolution once."""
    opened = warehouse.open()
    rows = opened.read(EVOLVED).to_dicts()
    texts = {
        row["row_id"]: one_line(row["instruction"]) for row in opened.read("seed_tasks").to_dicts()
    } | {row["row_id"]: row["instruction"] for row in rows if row["valid"]}
    broken = {
        row["seed_id"]
        for row in rows
        if [texts.get(parent["row_id"]) for parent in row["parents"] if parent["role"] == "evolved"]
        != [row["parent_instruction"]]
    }
    rounds: defaultdict[str, list[int]] = defaultdict(list)
    for row in rows:
        rounds[row["seed_id"]].append(row["round"])
    every = list(range(1, EPISODE_LENGTH + 1))
    broken |= {seed_id for seed_id, made in rounds.items() if sorted(made) != every}
    return dg.AssetCheckResult(passed=not broken, metadata={"seeds_that_do_not": len(broken)})


@dg.asset_check(asset=EVOLVED, blocking=True)
def valid_rate_above_floor(
    profile: ProfileResource, warehouse: WarehouseResource
) -> dg.AssetCheckResult:
    """At least `teams_rl.min_valid_rate` of the evolved rows were eliminated by no rule. The seeds
    are none that the instructor was trained on."""
    floor = profile.load().teams_rl.min_valid_rate
    rate = warehouse.open().query(f"SELECT avg(valid::INTEGER) FROM {EVOLVED}").item()
    return dg.AssetCheckResult(
        passed=rate is None or rate >= floor,
        metadata={"floor": floor, **({} if rate is None else {"valid_rate": rate})},
    )
