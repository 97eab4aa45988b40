"""Seeds evolved by a policy, one operation a step; its rows, the instructor's, and their cost.

The seeds are split before anything is trained: the instructor learns on one part, and of the other
a number is drawn and evolved. So a figure such as the share that is kept is about seeds that the
instructor never saw. Split and draw depend on each seed's own id.

A row of `evolved_instructions` is one operation. Its parents are the text before (the seed, or the
seed's last row that was kept), the instructor, and the model that wrote it: so it descends from
every seed that either was trained on. Answers are written later, for the evolved instruction
itself. (The authors' dataset pairs it with the output of the seed that it came from.)

A claim about cheap data is a claim about calls per kept row (docs/methods.md, section 5.6). Rows
name the completions that they asked for, and the instructor's row has the calls of its training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from refine_dagster import progress
from refine_dagster.config.dataset import TeamsRLConfig
from refine_dagster.draws import draw, held_out_split
from refine_dagster.errors import RefineError
from refine_dagster.evaluation.diversity import Embedding, HashedEmbedding
from refine_dagster.generation.request import Complete, Request
from refine_dagster.hashing import content_id
from refine_dagster.self_instruct.decisions import EVOLVED, KEPT, TEAMS_RL
from refine_dagster.teams_rl.chain import Chain, Evolver, Outcome, Seed
from refine_dagster.teams_rl.instructor import InstructorUpdate, untrained_policy, updates_calls
from refine_dagster.teams_rl.operations import EPISODE_LENGTH, one_line
from refine_dagster.teams_rl.policies import InstructorPolicy, RandomPolicy, load_instructor
from refine_dagster.teams_rl.reviewer import ModelExecutor, ModelReviewer
from refine_dagster.warehouse.checkpoints import Checkpoint, CheckpointStore
from refine_dagster.warehouse.rows import Parent, Row, make_row, parents

INSTRUCTOR, INSTRUCTOR_STEPS = "instructor_policy", "instructor_policy_steps"
# The reviewer's rule; it measures a probability.
EQUAL = "equal"


def model_evolver(complete: Complete, config: TeamsRLConfig, run_seed: str) -> Evolver:
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
        RefineError: its checkpoint is gone, or it was made with other config.
    """
    named = config.model_copy(update={"algorithm": row["algorithm"]})
    policy = untrained_policy(named, run_seed)
    if policy is None:
        folder = store.verified_folder(INSTRUCTOR, row["checkpoint_hash"])
        policy = load_instructor(folder, HashedEmbedding(config.embedding_dimensions), run_seed)
    if policy.version != row["version"]:
        raise RefineError(
            "the instructor was made with other config", fix="materialise instructor_policy again"
        )
    return policy


@dataclass(frozen=True)
class SeedParts:
    """Rows of `seed_tasks`, sorted by seed id, for training and for the evolution."""

    training: list[Row]
    evolved: list[Row]


def seed_parts(seeds: Iterable[Row], config: TeamsRLConfig, run_seed: str) -> SeedParts:
    """Split the seeds, and draw `evolved_seeds` of those that are not for training.

    Seeds of more than `max_words` words are in neither part. A single seed is in both.
    """
    by_id = {
        row["seed_id"]: row for row in seeds if len(row["instruction"].split()) <= config.max_words
    }
    if not by_id:
        raise RefineError(
            f"no seed instruction has at most {config.max_words} words",
            where="config field teams_rl.max_words",
            fix="raise it, add shorter seeds, or set teams_rl.evolved_seeds to 0",
        )
    training = others = sorted(by_id)
    if len(by_id) > 1:
        training, others = held_out_split(
            by_id, 1 - config.training_share, f"{run_seed}/instructor"
        )
    drawn = sorted(draw(others, config.evolved_seeds, run_seed, "evolved"))
    return SeedParts([by_id[name] for name in training], [by_id[name] for name in drawn])


def as_seeds(rows: Iterable[Row]) -> list[Seed]:
    return [Seed(row["seed_id"], row["instruction"]) for row in rows]


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
        episode: all random numbers depend on it.
        run_seed: names the random numbers of a policy or evolver that is made here.

    Returns:
        `length * len(seeds)` outcomes, in the order of steps, then of seeds.
    """
    if not isinstance(evolver, Evolver):
        evolver = model_evolver(evolver, TeamsRLConfig(), run_seed)
    if isinstance(policy, Sequence):
        policy = RandomPolicy(run_seed, policy)
    starts = [
        seed if isinstance(seed, Seed) else Seed(content_id("seed", seed), seed) for seed in seeds
    ]
    chains = [Chain(seed.seed_id, episode, one_line(seed.text)) for seed in starts]
    evolved: list[Outcome] = []
    with progress.task("evolution", total=length) as advance:
        for _ in range(length if chains else 0):
            outcomes = evolver.step(chains, policy.choose(chains))
            evolved += outcomes
            chains = [outcome.after() for outcome in outcomes]
            advance(1, kept=sum(outcome.kept for outcome in outcomes))
    return evolved


def slot_of(round_number: int, seed_id: str) -> str:
    """An evolved candidate's slot, which sorts by round (the operation's number), then seed.

    >>> slot_of(2, "seed_017")
    'evolved/02/seed_017'
    """
    return f"evolved/{round_number:02d}/{seed_id}"


@dataclass(frozen=True)
class Origin:
    """Where evolved rows come from: seeds, the instructor's row, and the model that wrote them."""

    seeds: Sequence[Row]
    instructor: Row
    generator: Parent
    model: str  # its fingerprint
    key_of: Callable[[Request], str]  # the key of a request's completion


def evolved_rows(steps: Iterable[Outcome], origin: Origin, config: TeamsRLConfig) -> list[Row]:
    """Rows of `evolved_instructions` for an evolution's steps, in their order."""
    # The parent of each seed's next step: the seed, then its latest row that was kept.
    latest = {
        row["seed_id"]: Parent("seed_tasks", row["row_id"], "evolved") for row in origin.seeds
    }
    instructor = Parent(INSTRUCTOR, origin.instructor["row_id"], "instructor")
    rows = []
    for step in steps:
        made_from = [latest[step.seed_id], origin.generator, instructor]
        row = make_row(EVOLVED, _payload(step, origin, config), made_from)
        if step.kept:
            latest[step.seed_id] = Parent(EVOLVED, row["row_id"], "evolved")
        rows.append(row)
    return rows


def _payload(step: Outcome, origin: Origin, config: TeamsRLConfig) -> Row:
    request, reviews = step.execution.request, step.review.requests if step.review else ()
    different = step.review.probability if step.review else None
    by_model = step.rule == EQUAL and different is not None
    return {
        "method": TEAMS_RL,
        "slot": slot_of(step.step, step.seed_id),
        "round": step.step,
        "seed_id": step.seed_id,
        "operation": step.operation,
        "parent_instruction": step.parent,
        "instruction": step.text,
        "valid": step.kept,
        "rule": step.rule or KEPT,
        "value": different if by_model else step.value,
        "threshold": config.review_threshold if by_model else step.threshold,
        "different": different,
        "completion_key": origin.key_of(request) if request else None,
        "review_keys": [origin.key_of(review) for review in reviews],
        "policy": origin.model,
        "instructor": origin.instructor["version"],
    }


def evolution_figures(rows: Sequence[Row], operations: Sequence[str]) -> dict[str, float]:
    valid = sum(row["valid"] for row in rows)
    return {
        "seeds": len({row["seed_id"] for row in rows}),
        "candidates": len(rows),
        "valid": valid,
        "valid_rate": valid / len(rows),
        **{f"chosen_{name}": sum(row["operation"] == name for row in rows) for name in operations},
    }


def instructor_payload(
    config: TeamsRLConfig,
    version: str,
    checkpoint_hash: str | None = None,
    seeds: int = 0,
    updates: Sequence[InstructorUpdate] = (),
    ended_by: str | None = None,
) -> Row:
    """The payload of a row of `instructor_policy`; the defaults are for an untrained policy."""
    rewrites, reviews = updates_calls(updates, config)
    return {
        "algorithm": config.algorithm,
        "version": version,
        "checkpoint_hash": checkpoint_hash,
        "observation": config.observation,
        "reward": config.reward,
        "seeds": seeds,
        "updates": len(updates),
        "rewrite_calls": rewrites,
        "review_calls": reviews,
        "ended_by": ended_by,
    }


def trained_tables(
    config: TeamsRLConfig,
    checkpoint: Checkpoint,
    embedding: Embedding,
    seeds: Sequence[Row],
    base: Parent,
    run_seed: str,
) -> dict[str, list[Row]]:
    """The tables of an instructor that was trained on rows of `seed_tasks`."""
    version = load_instructor(checkpoint.path, embedding, run_seed).version
    record = checkpoint.record
    updates = [InstructorUpdate(**update) for update in record["updates"]]
    payload = instructor_payload(
        config, version, checkpoint.content_hash, len(seeds), updates, record["ended_by"]
    )
    return instructor_tables(payload, updates, [base, *parents(seeds, "seed_tasks", "trained_on")])


def instructor_tables(
    instructor: Row, updates: Sequence[InstructorUpdate] = (), made_from: Sequence[Parent] = ()
) -> dict[str, list[Row]]:
    """The instructor's tables, from the payload of its row."""
    row = make_row(INSTRUCTOR, instructor, made_from)
    owner = Parent(INSTRUCTOR, row["row_id"], "policy")
    steps = []
    for update in updates:
        figures = asdict(update)
        step = {"step": figures.pop("update"), "operations": figures.pop("steps"), **figures}
        steps.append(make_row(INSTRUCTOR_STEPS, step, [owner]))
    return {INSTRUCTOR: [row], INSTRUCTOR_STEPS: steps}


def instructor_figures(tables: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """Figures of a training, and of its last update."""
    [row], last = tables[INSTRUCTOR], tables[INSTRUCTOR_STEPS][-1]
    of_all = ("updates", "rewrite_calls", "review_calls", "ended_by", "seeds")
    of_last = ("reward", "valid_rate", "diversity", "random_diversity", "operation_entropy")
    return {name: row[name] for name in of_all} | {name: last[name] for name in of_last}


@dataclass(frozen=True)
class EvolutionCalls:
    """Calls by role (`rewrite`, `review`), of the instructor's training and of the evolution."""

    training: Mapping[str, int]
    generation: Mapping[str, int]


def evolution_calls(evolved: Sequence[Row], instructor: Row) -> EvolutionCalls:
    """The calls of rows of `evolved_instructions` and of their instructor."""
    reviews = sum(len(row["review_keys"]) for row in evolved)
    return EvolutionCalls(
        training={"rewrite": instructor["rewrite_calls"], "review": instructor["review_calls"]},
        generation={"rewrite": len(evolved), "review": reviews},
    )
