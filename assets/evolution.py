"""TeaMs-RL: an instructor learns which operation to apply to an instruction, then evolves seeds.

Both assets belong to the first policy round: executor and reviewer are the base model, and what is
evolved joins the pool behind what was proposed. With `teams_rl.evolved_seeds` at 0 both are empty,
and no model is loaded.
"""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from assets.preview import markdown_table
from assets.sources import as_parent, device_manifest
from assets.step import Step, materializing, parents
from refine_dagster.config.registered import plug_ins_of
from refine_dagster.errors import RefineError
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import ModelRef
from refine_dagster.self_instruct.decisions import EVOLVED
from refine_dagster.teams_rl.embedding import HashedEmbedding
from refine_dagster.teams_rl.evolution import evolve, model_evolver
from refine_dagster.teams_rl.evolved_rows import (
    Origin,
    as_seeds,
    evolution_calls,
    evolved_rows,
    instructor_payload,
    seed_parts,
    update_payload,
)
from refine_dagster.teams_rl.instructor import (
    InstructorTask,
    InstructorUpdate,
    train_instructor,
    untrained_policy,
)
from refine_dagster.teams_rl.learned_policy import InstructorPolicy, load_instructor
from refine_dagster.warehouse.checkpoints import Checkpoint
from refine_dagster.warehouse.rows import Parent, Row, make_row
from resources.checkpoints import CheckpointsResource
from resources.generator import GeneratorResource
from resources.gpu import GpuResource
from resources.profile import ProfileResource
from resources.warehouse import WarehouseResource

INSTRUCTOR, UPDATES = "instructor_policy", "instructor_policy_steps"


@dg.asset(group_name="policy", kinds={"torch", "huggingface"}, owners=["team:models"],
          deps=["seed_tasks", "base_model"])  # fmt: skip
def instructor_policy(
    context: dg.AssetExecutionContext,
    profile: ProfileResource,
    warehouse: WarehouseResource,
    gpu: GpuResource,
    generator: GeneratorResource,
    checkpoints: CheckpointsResource,
) -> dg.MaterializeResult[Any]:
    """The policy that chooses which operation to apply to an instruction (TeaMs-RL).

    It is trained on a part of the seeds, split by seed before anything is trained: the base model
    executes each operation and reviews what came of it, and a kept rewrite pays by how new it is.
    Every update's figures are rows; `ended_by` names what the collapse guard saw where it ended the
    training, `updates` where it did not. `teams_rl.algorithm` may also name a policy that learns
    nothing; nothing is trained then.
    """
    with materializing(context, profile, warehouse) as step:
        if same := step.unchanged(checkpoints):
            return same
        config = step.profile.teams_rl
        if config.evolved_seeds == 0:
            return step.commit({INSTRUCTOR: [], UPDATES: []})
        policy = untrained_policy(config, step.profile.run_seed)
        if policy is not None:
            row = make_row(INSTRUCTOR, instructor_payload(config, policy.version))
            return step.commit({INSTRUCTOR: [row], UPDATES: []})
        return _train(step, gpu, generator, checkpoints)


def _train(
    step: Step, gpu: GpuResource, generator: GeneratorResource, checkpoints: CheckpointsResource
) -> dg.MaterializeResult[Any]:
    config, run_seed, base = step.profile.teams_rl, step.profile.run_seed, step.row("base_model")
    seeds = seed_parts(step.rows("seed_tasks"), config, run_seed).training
    embedding = HashedEmbedding(config.embedding_dimensions)
    ref = checkpoints.base_model(base)
    with gpu.session(step.profile.device) as device:
        step.device = device
        manifest = {
            # How often a state is saved, and what is evolved later, do not change the result.
            "knobs": config.model_dump(
                mode="json", exclude={"save_every", "evolved_seeds", "min_valid_rate"}
            ),
            **step.profile.generator.deciding(),
            **plug_ins_of(config, step.profile.generator),
            "salt": run_seed,
            "device": device_manifest(device),
            "base": ref.fingerprint,
            "seeds": [[one.seed_id, one.text] for one in as_seeds(seeds)],
        }
        store = checkpoints.store()
        train = partial(
            _trained, step, generator, ref, device, seeds, store.resume_folder(INSTRUCTOR, manifest)
        )
        checkpoint = store.train_or_reuse(INSTRUCTOR, manifest, train)
    policy = load_instructor(checkpoint.path, embedding, run_seed)
    updates = [InstructorUpdate(**one) for one in checkpoint.record["updates"]]
    row = make_row(
        INSTRUCTOR,
        instructor_payload(
            config,
            policy.version,
            checkpoint.content_hash,
            len(seeds),
            updates,
            checkpoint.record["ended_by"],
        ),
        [as_parent("base_model", base, "executor"), *parents(seeds, "seed_tasks", "trained_on")],
    )
    owner = Parent(INSTRUCTOR, row["row_id"], "policy")
    log = [make_row(UPDATES, update_payload(one), [owner]) for one in updates]
    return step.commit(
        {INSTRUCTOR: [row], UPDATES: log},
        checkpoints=[checkpoint],
        figures=_training_figures(row, log[-1], checkpoint),
    )


def _trained(
    step: Step,
    generator: GeneratorResource,
    ref: ModelRef,
    device: Device,
    seeds: list[Row],
    resume: Path,
    out: Path,
) -> dict[str, Any]:
    """Train into `out`; the checkpoint's record."""
    config, run_seed = step.profile.teams_rl, step.profile.run_seed
    step.store = generator.store(step.warehouse, step.run_id, step.profile.generator)
    with generator.session(ref, device, step.store, step.profile.generator) as session:
        done = train_instructor(
            InstructorTask(
                as_seeds(seeds),
                model_evolver(session.complete, config, run_seed),
                HashedEmbedding(config.embedding_dimensions),
                config,
                run_seed,
                out,
                resume,
            )
        )
    return asdict(done)


def _training_figures(row: Row, last: Row, checkpoint: Checkpoint) -> dict[str, Any]:
    told = ("updates", "rewrite_calls", "review_calls", "ended_by", "seeds")
    of_last = ("reward", "valid_rate", "diversity", "random_diversity", "operation_entropy")
    return {
        **{name: row[name] for name in told},
        **{name: last[name] for name in of_last},
        "checkpoint_reused": checkpoint.reused,
    }


@dg.asset(group_name="instructions", kinds={"huggingface", "duckdb"}, owners=["team:data"],
          deps=["seed_tasks", "base_model", "instructor_policy"])  # fmt: skip
def evolved_instructions(
    context: dg.AssetExecutionContext,
    profile: ProfileResource,
    warehouse: WarehouseResource,
    gpu: GpuResource,
    generator: GeneratorResource,
    checkpoints: CheckpointsResource,
) -> dg.MaterializeResult[Any]:
    """Candidate instructions, evolved from seeds by the operations that the instructor chooses.

    Six operations a seed, each applied to what the last kept one left; every one is a row with its
    operation, what it was applied to, and the rule that eliminated it or `kept`. The seeds are
    drawn from those that the instructor was not trained on. The decisions come after: what is kept
    here is a candidate beside those of the Self-Instruct loop.
    """
    with materializing(context, profile, warehouse) as step:
        if same := step.unchanged():
            return _with_calls(step, same)
        config, run_seed = step.profile.teams_rl, step.profile.run_seed
        if config.evolved_seeds == 0:
            return step.commit({EVOLVED: []})
        base, instructor = step.row("base_model"), step.row(INSTRUCTOR)
        seeds = seed_parts(step.rows("seed_tasks"), config, run_seed).evolved
        policy = _policy(step, instructor, checkpoints)
        with gpu.session(step.profile.device) as device:
            step.device = device
            step.store = generator.store(step.warehouse, step.run_id, step.profile.generator)
            with generator.session(
                checkpoints.base_model(base), device, step.store, step.profile.generator
            ) as session:
                evolver = model_evolver(session.complete, config, run_seed)
                rows = evolved_rows(
                    evolve(as_seeds(seeds), policy, evolver),
                    Origin(
                        seeds,
                        instructor,
                        as_parent("base_model", base, "generator"),
                        session.model,
                        session.key_of,
                    ),
                    config,
                )
        figures: dict[str, Any] = {
            "seeds": len(seeds),
            "candidates": len(rows),
            "valid": sum(row["valid"] for row in rows),
            "valid_rate": sum(row["valid"] for row in rows) / len(rows),
            **{
                f"chosen_{name}": sum(row["operation"] == name for row in rows)
                for name in config.operations
            },
        }
        return _with_calls(step, step.commit({EVOLVED: rows}, figures=figures))


def _policy(step: Step, instructor: Row, checkpoints: CheckpointsResource) -> InstructorPolicy:
    """The policy that the row of `instructor_policy` speaks of.

    Raises:
        RefineError: the config no longer describe it.
    """
    config, run_seed = step.profile.teams_rl, step.profile.run_seed
    of_row = config.model_copy(update={"algorithm": instructor["algorithm"]})
    policy = untrained_policy(of_row, run_seed)
    if policy is None:
        folder = checkpoints.folder(INSTRUCTOR, instructor["checkpoint_hash"])
        policy = load_instructor(folder, HashedEmbedding(config.embedding_dimensions), run_seed)
    if policy.version != instructor["version"]:
        raise RefineError(
            "the instructor was made with other knobs", fix=f"materialise {INSTRUCTOR} again"
        )
    return policy


def _with_calls(step: Step, result: dg.MaterializeResult[Any]) -> dg.MaterializeResult[Any]:
    """The result with what the committed rows cost in model calls, for the UI."""
    rows = step.warehouse.read(EVOLVED).to_dicts()
    if not rows:
        return result
    kept = sum(row["valid"] for row in rows)
    calls = evolution_calls(rows, step.row(INSTRUCTOR))
    per_row = calls.per_row(kept)
    table = pl.DataFrame(
        {
            "calls": [*calls.generation, "all", "for each kept row"],
            "evolution": [
                *map(float, calls.generation.values()),
                float(per_row.without_training),
                per_row.per_row_without_training,
            ],
            "with the instructor's training": [
                *(float(calls.generation[role] + calls.training[role]) for role in calls.training),
                float(per_row.with_training),
                per_row.per_row_with_training,
            ],
        }
    )
    shown = {
        "calls": dg.MetadataValue.md(markdown_table(table)),
        **{f"{role}_calls": count for role, count in calls.generation.items()},
        **{f"training_{role}_calls": count for role, count in calls.training.items()},
        "calls_per_kept_row": per_row.per_row_without_training,
        "calls_per_kept_row_with_training": per_row.per_row_with_training,
    }
    told = {name: value for name, value in shown.items() if value is not None}
    return result._replace(metadata={**(result.metadata or {}), **told})
