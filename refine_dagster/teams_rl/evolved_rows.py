"""Which seeds teach the instructor and which are evolved, and the rows that come of it.

The seeds are split before anything is trained: the instructor learns on one part, and of the other
a number is drawn and evolved. So a figure of the evolution, such as the share that is kept, is one
of seeds that the instructor never saw. Split and draw go by each seed's own id: adding, editing or
removing one moves no other across.

A row of `evolved_instructions` is one operation. Its parents are what the operation was applied to
(the seed, or the last row of that seed that was kept), the instructor that chose it, and the model
that wrote it: so it descends from the seed that it began at, and from every seed that instructor
and model were trained on.

What a dataset cost in model calls, by role, with and without the instructor's training.

A claim about cheap data is a claim about calls per kept row. Rows name the calls that they asked
for and the instructor's row has those of its training; the mart `query_ledger` counts them by role
(execute, review, respond) and finds each in the completions store.

The paper's headline figure, that its method needs 5.73 % of WizardLM's queries, worked out:

    WizardLM:   52,000 instructions x 4 rounds x 3 calls (evolve, check, answer) = 624,000 calls
    TeaMs-RL:   17,878 instructions x 2 calls (evolve, answer)                   =  35,756 calls
    ratio:      35,756 / 624,000                                                 =   5.730 %

The datasets differ in size. WizardLM kept 250,000 instructions, so per kept row it made 2.50 calls
against 2.00 for TeaMs-RL: 80 % instead of 5.73 %, before the 2,400 calls of TeaMs-RL's training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from refine_dagster.config.teams_rl import TeamsRLConfig
from refine_dagster.draws import draw, held_out_split
from refine_dagster.errors import RefineError
from refine_dagster.generation.request import Request
from refine_dagster.self_instruct.decisions import EVOLVED, KEPT, TEAMS_RL
from refine_dagster.teams_rl.chain import Seed
from refine_dagster.teams_rl.embedding import Embedding
from refine_dagster.teams_rl.evolution import EvolvedStep
from refine_dagster.teams_rl.instructor import InstructorUpdate, updates_calls
from refine_dagster.teams_rl.learned_policy import load_instructor
from refine_dagster.warehouse.checkpoints import Checkpoint
from refine_dagster.warehouse.rows import Parent, Row, make_row, parents


@dataclass(frozen=True)
class CallsPerRow:
    """Calls asked for, and per kept row; None per row where none was kept."""

    kept: int
    with_training: int
    without_training: int

    @property
    def per_row_with_training(self) -> float | None:
        return self.with_training / self.kept if self.kept else None

    @property
    def per_row_without_training(self) -> float | None:
        return self.without_training / self.kept if self.kept else None


@dataclass(frozen=True)
class PublishedCalls:
    """A published dataset's calls.

    Attributes:
        instructions: evolved per round, or in all.
        rounds: of evolution.
        calls: for each instruction and round.
        kept: rows of the dataset.
    """

    instructions: int
    rounds: int
    calls: int
    kept: int

    @property
    def total(self) -> int:
        return self.instructions * self.rounds * self.calls

    @property
    def per_row(self) -> float:
        return self.total / self.kept


WIZARDLM = PublishedCalls(instructions=52_000, rounds=4, calls=3, kept=250_000)
TEAMS_RL_PAPER = PublishedCalls(instructions=17_878, rounds=1, calls=2, kept=17_878)
# 200 updates of 6 steps, each an execution and a review.
TEAMS_RL_TRAINING_CALLS = 200 * 6 * 2


INSTRUCTOR, INSTRUCTOR_STEPS = "instructor_policy", "instructor_policy_steps"
# The reviewer's rule; what it measures is a probability.
EQUAL = "equal"


@dataclass(frozen=True)
class SeedParts:
    """Rows of `seed_tasks`, by seed id: those trained on, and those to be evolved."""

    training: list[Row]
    evolved: list[Row]


def seed_parts(seeds: Iterable[Row], config: TeamsRLConfig, run_seed: str) -> SeedParts:
    """Split the seeds, and draw `evolved_seeds` of the part that is not trained on.

    Seeds of more than `max_words` words are in neither part. A single seed is in both.

    Raises:
        RefineError: no seed is short enough.
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
    """Rows of `seed_tasks` as starts of episodes."""
    return [Seed(row["seed_id"], row["instruction"]) for row in rows]


def slot_of(round_number: int, seed_id: str) -> str:
    """An evolved candidate's slot: all seeds' first operations, then their second, and so on.

    >>> slot_of(2, "seed_017")
    'evolved/02/seed_017'
    """
    return f"evolved/{round_number:02d}/{seed_id}"


@dataclass(frozen=True)
class Origin:
    """What evolved rows are made by.

    Attributes:
        seeds: the rows of `seed_tasks` that were evolved.
        instructor: the row of `instructor_policy`.
        generator: the model's row, as a parent.
        model: the model's fingerprint.
        key_of: the key of the completion that answered a request.
    """

    seeds: Sequence[Row]
    instructor: Row
    generator: Parent
    model: str
    key_of: Callable[[Request], str]


def evolved_rows(steps: Iterable[EvolvedStep], origin: Origin, config: TeamsRLConfig) -> list[Row]:
    """Rows of `evolved_instructions` for an evolution's steps, in their order."""
    # Where each chain stands: the seed, then the latest row that was kept.
    at = {row["seed_id"]: Parent("seed_tasks", row["row_id"], "evolved") for row in origin.seeds}
    made = [
        origin.generator,
        Parent(INSTRUCTOR, origin.instructor["row_id"], "instructor"),
    ]
    rows = []
    for step in steps:
        row = make_row(EVOLVED, _payload(step, origin, config), [at[step.seed_id], *made])
        if step.kept:
            at[step.seed_id] = Parent(EVOLVED, row["row_id"], "evolved")
        rows.append(row)
    return rows


def _payload(step: EvolvedStep, origin: Origin, config: TeamsRLConfig) -> Row:
    outcome = step.outcome
    execution, reviews = outcome.execution, outcome.review.requests if outcome.review else ()
    reviewed = step.rule == EQUAL and step.different is not None
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
        "value": step.different if reviewed else outcome.value,
        "threshold": config.review_threshold if reviewed else outcome.threshold,
        "different": step.different,
        "completion_key": origin.key_of(execution.request) if execution.request else None,
        "review_keys": [origin.key_of(request) for request in reviews],
        "policy": origin.model,
        "instructor": step.policy,
    }


def instructor_payload(
    config: TeamsRLConfig,
    version: str,
    checkpoint_hash: str | None = None,
    seeds: int = 0,
    updates: Sequence[InstructorUpdate] = (),
    ended_by: str | None = None,
) -> Row:
    """The payload of a row of `instructor_policy`; the defaults are those of an untrained one."""
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


def update_payload(update: InstructorUpdate) -> Row:
    """The payload of a row of `instructor_policy_steps`."""
    return {
        "step": update.update,
        "operations": update.steps,
        "reward": update.reward,
        "valid_rate": update.valid_rate,
        "diversity": update.diversity,
        "random_diversity": update.random_diversity,
        "operation_entropy": update.operation_entropy,
        "calls": update.calls,
        "warning": update.warning,
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
    steps = [make_row(INSTRUCTOR_STEPS, update_payload(update), [owner]) for update in updates]
    return {INSTRUCTOR: [row], INSTRUCTOR_STEPS: steps}


def instructor_figures(tables: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """Figures of a training, and of its last update."""
    [row], last = tables[INSTRUCTOR], tables[INSTRUCTOR_STEPS][-1]
    of_all = ("updates", "rewrite_calls", "review_calls", "ended_by", "seeds")
    of_last = ("reward", "valid_rate", "diversity", "random_diversity", "operation_entropy")
    return {name: row[name] for name in of_all} | {name: last[name] for name in of_last}


def evolution_figures(rows: Sequence[Row], operations: Sequence[str]) -> dict[str, float]:
    """Figures of rows of `evolved_instructions`, at least one."""
    valid = sum(row["valid"] for row in rows)
    return {
        "seeds": len({row["seed_id"] for row in rows}),
        "candidates": len(rows),
        "valid": valid,
        "valid_rate": valid / len(rows),
        **{f"chosen_{name}": sum(row["operation"] == name for row in rows) for name in operations},
    }


@dataclass(frozen=True)
class EvolutionCalls:
    """Calls asked for by role (`rewrite`, `review`), in training and in evolution."""

    training: Mapping[str, int]
    generation: Mapping[str, int]

    def per_row(self, kept: int) -> CallsPerRow:
        """Calls for `kept` rows."""
        generation = sum(self.generation.values())
        return CallsPerRow(kept, generation + sum(self.training.values()), generation)


def evolution_calls(evolved: Sequence[Row], instructor: Row) -> EvolutionCalls:
    """What rows of `evolved_instructions` cost, and the instructor that chose for them."""
    return EvolutionCalls(
        training={
            "rewrite": instructor["rewrite_calls"],
            "review": instructor["review_calls"],
        },
        generation={
            "rewrite": len(evolved),
            "review": sum(len(row["review_keys"]) for row in evolved),
        },
    )
