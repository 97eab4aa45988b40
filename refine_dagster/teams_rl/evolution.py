"""Seeds evolved by a policy, one operation a step.

Answers are written later, by other assets, for the evolved instruction itself. (The authors'
dataset pairs evolved instructions with the outputs of the seeds that they came from.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from refine_dagster import progress
from refine_dagster.config.dataset import TeamsRLConfig
from refine_dagster.errors import RefineError
from refine_dagster.generation.request import Complete
from refine_dagster.hashing import content_id
from refine_dagster.models.language_model import checkpoint_folder
from refine_dagster.teams_rl.chain import Chain, Evolver, Outcome, Seed
from refine_dagster.teams_rl.embedding import HashedEmbedding
from refine_dagster.teams_rl.instructor import untrained_policy
from refine_dagster.teams_rl.operations import EPISODE_LENGTH, one_line
from refine_dagster.teams_rl.policies import InstructorPolicy, RandomPolicy, load_instructor
from refine_dagster.teams_rl.reviewer import ModelExecutor, ModelReviewer
from refine_dagster.warehouse.checkpoints import CheckpointStore


def model_evolver(complete: Complete, config: TeamsRLConfig, run_seed: str) -> Evolver:
    """Executor and reviewer on one model, by the config."""
    return Evolver(
        ModelExecutor(
            complete,
            run_seed,
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            top_p=config.top_p,
        ),
        ModelReviewer(
            complete,
            different_below=config.different_below,
            threshold=config.review_threshold,
            calibrated=config.calibrate_reviewer,
        ),
        config.max_words,
    )


def registered_instructor(
    row: Mapping[str, Any], store: CheckpointStore, config: TeamsRLConfig, run_seed: str
) -> InstructorPolicy:
    """The policy that a row of `instructor_policy` stands for.

    Raises:
        CheckpointError: its checkpoint is gone.
        RefineError: it was made with other config.
    """
    named = config.model_copy(update={"algorithm": row["algorithm"]})
    policy = untrained_policy(named, run_seed)
    if policy is None:
        folder = checkpoint_folder(store, "instructor_policy", row["checkpoint_hash"])
        policy = load_instructor(folder, HashedEmbedding(config.embedding_dimensions), run_seed)
    if policy.version != row["version"]:
        raise RefineError(
            "the instructor was made with other config",
            fix="materialise instructor_policy again",
        )
    return policy


def evolve(
    seeds: Sequence[Seed | str],
    policy: InstructorPolicy | Sequence[str],
    evolver: Evolver | Complete,
    *,
    length: int = EPISODE_LENGTH,
    episode: int = 0,
    run_seed: str = "refine",
) -> list[Outcome]:
    """Evolve every seed `length` times, all seeds in lock-step, one batch a step.

    The evolution of a seed depends on that seed alone, so an edited seed costs its own requests.

    Args:
        policy: chooses each operation; of names of operations, one is drawn each time.
        evolver: applies operations and reviews the results; a function that answers requests does
            both with the default config.
        episode: number of this evolution; all random numbers depend on it.
        run_seed: names the random numbers of a policy or evolver that is made here.

    Returns:
        `length * len(seeds)` outcomes, in the order of steps, then of seeds.
    """
    if not isinstance(evolver, Evolver):
        evolver = model_evolver(evolver, TeamsRLConfig(), run_seed)
    if isinstance(policy, Sequence):
        policy = RandomPolicy(run_seed, policy)
    begun = [
        seed if isinstance(seed, Seed) else Seed(content_id("seed", seed), seed) for seed in seeds
    ]
    chains = [Chain(seed.seed_id, episode, one_line(seed.text)) for seed in begun]
    evolved: list[Outcome] = []
    with progress.task("evolution", total=length) as advance:
        for _ in range(length if chains else 0):
            outcomes = evolver.step(chains, policy.choose(chains))
            evolved += outcomes
            chains = [outcome.after() for outcome in outcomes]
            advance(1, kept=sum(outcome.kept for outcome in outcomes))
    return evolved
