"""How long a run's texts are, and what its model will do with them.

Lengths follow from seeds, held-out tasks and config. What the model does is taken from the home's
former run, if there was one with the same base model, and assumed otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from refine_dagster.config.profile import Profile
from refine_dagster.evaluation.super_ni import Task
from refine_dagster.language import language_of
from refine_dagster.prompts.example import (
    Example,
    instance_lesson,
    zero_shot_lesson,
    zero_shot_prompt,
)
from refine_dagster.prompts.proposal import propose_prompt
from refine_dagster.refine_af.instances import instance_prompts
from refine_dagster.self_instruct.decisions import seed_demonstrations
from refine_dagster.self_instruct.rounds import demonstrations
from refine_dagster.teams_rl.operations import operation_named
from refine_dagster.teams_rl.reviewer import review_prompt
from refine_dagster.warehouse.rows import Row
from refine_dagster.warehouse.warehouse import Warehouse

# Prompts of each kind that are rendered to know how long they are.
SAMPLE = 24
# Assumed where no former run says it: accepted instructions a proposal request, reviews a rewrite,
# kept rewrites of all, and the share of its token limit that a proposal takes.
ACCEPTED, REVIEWS, KEPT, FILLED = 4.0, 0.12, 0.2, 0.85
# Tokens of a task's number in a completion.
NUMBER = 5


@dataclass(frozen=True)
class Lengths:
    """Mean tokens: of prompts by role, of texts that are read or learnt, and of seeds' parts.

    `longest` is that of the prompts for proposals and instances, and of the texts.
    """

    propose: float
    instance: float
    rewrite: float
    review: float
    respond: float
    lesson: float
    start: float
    text: float
    answer: float
    output: float
    instruction: float
    longest: int


def lengths_of(
    profile: Profile, seeds: Sequence[Row], tasks: Sequence[Task], count: Callable[[str], int]
) -> Lengths:
    """Lengths by a tokenizer's `count`, over a sample of each kind."""
    language, run_seed = language_of(profile.language), profile.run_seed
    examples = [Example.of(row) for row in seeds][:: max(1, len(seeds) // (4 * SAMPLE))]
    few = examples[: 2 * SAMPLE]
    shown, config = seed_demonstrations(seeds), profile.self_instruct
    drawn = [demonstrations(shown, [], config, run_seed, 0, place) for place in range(SAMPLE)]
    proposals = [propose_prompt([one.instruction for one in each], language) for each in drawn]
    asked = instance_prompts(
        seeds[:SAMPLE], seeds, count, profile.instances, run_seed, language=language
    )
    operations = [operation_named(name) for name in profile.teams_rl.operations]
    rewrites = [one.prompt(example.instruction) for one in operations for example in few[:6]]
    answers = [
        zero_shot_prompt(task.definition, instance.input)
        for task in tasks
        for instance in task.instances[:8]
    ]

    def mean(texts: Sequence[str]) -> float:
        return fmean(map(count, texts)) if texts else 0.0

    instances = [prompt.prompt for prompt in asked]
    texts = [example.render() for example in examples]
    lessons = [instance_lesson(example, language) for example in examples]
    reviews = [review_prompt(example.instruction, example.instruction) for example in few]
    return Lengths(
        propose=mean(proposals),
        instance=mean(instances),
        rewrite=mean(rewrites),
        review=mean(reviews),
        respond=min(mean(answers), profile.evaluation.max_source_tokens),
        lesson=mean(["".join(zero_shot_lesson(example)) for example in examples]),
        start=mean(["".join(lesson) for lesson in lessons]),
        text=mean(texts),
        answer=mean([completion for _, completion in lessons]),
        output=mean([example.output for example in examples]),
        instruction=mean([example.instruction for example in examples]),
        longest=max(map(count, [*proposals, *instances, *texts])),
    )


@dataclass(frozen=True)
class Behaviour:
    """What a model does: tokens a completion by role, and rates of stage 1 and the evolution.

    Attributes:
        accepted: instructions that a proposal request leaves after the filters.
        reviews, kept: reviews and kept rewrites of all rewrites.
        seen: the fields that a former run of the home says; the others are assumed.
    """

    propose: float
    instance: float
    rewrite: float
    respond: float
    accepted: float = ACCEPTED
    reviews: float = REVIEWS
    kept: float = KEPT
    seen: tuple[str, ...] = ()


def assumed_behaviour(profile: Profile, lengths: Lengths, offline: bool) -> Behaviour:
    """A model that knows the format writes as people do in the seeds; another more."""
    listed = profile.self_instruct.tasks_per_completion * (lengths.instruction + NUMBER)
    most = profile.self_instruct.max_new_tokens
    ahead = offline or profile.instances.start_steps > 0
    limit = profile.instances.max_new_tokens
    evaluated = profile.evaluation.max_new_tokens
    return Behaviour(
        propose=min(most * FILLED, listed or most),
        instance=min(limit, lengths.answer if ahead else limit / 3),
        rewrite=min(profile.teams_rl.max_new_tokens, lengths.instruction),
        respond=min(evaluated, lengths.output if offline else evaluated / 4),
    )


@dataclass(frozen=True)
class Stored:
    """Completions of a role in the store: of all models, and of the base model, if it is known."""

    role: str
    completions: int
    of_base_model: int | None


def stored_completions(warehouse: Warehouse, fingerprint: str | None) -> list[Stored]:
    rows = warehouse.query(
        "SELECT role, count(*), if(?::VARCHAR IS NULL, NULL, count(*) FILTER (model = ?)) "
        "FROM store.completions GROUP BY role ORDER BY role",
        [fingerprint, fingerprint],
    )
    return [Stored(*row) for row in rows.rows()]


def seen_behaviour(warehouse: Warehouse, model: str, assumed: Behaviour) -> Behaviour:
    """What the home's last run says, if its base model was `model`."""
    if warehouse.query("SELECT 1 FROM base_model WHERE model = ?", [model]).is_empty():
        return assumed
    seen: dict[str, float] = {}
    written = warehouse.query(
        "SELECT role, avg(completion_tokens) FROM store.completions GROUP BY role"
    )
    seen |= {role: tokens for role, tokens in written.rows() if role in vars(assumed)}
    asked = dict(
        warehouse.query(
            "SELECT role, sum(asked)::DOUBLE FROM lineage.requests JOIN ("
            "SELECT asset, max(sequence) AS sequence FROM lineage.materializations "
            "WHERE requests_asked > 0 AND asset IN "
            "('raw_instructions', 'instructor_policy', 'evolved_instructions') GROUP BY asset"
            ") USING (sequence) GROUP BY role"
        ).rows()
    )
    kept = dict(
        warehouse.query(
            "SELECT method, count(*) FILTER (kept)::DOUBLE FROM instruction_decisions "
            "WHERE policy_round = 1 GROUP BY method"
        ).rows()
    )
    evolved = warehouse.query("SELECT count(*) FROM evolved_instructions").item()
    if asked.get("propose") and kept.get("self_instruct"):
        seen["accepted"] = kept["self_instruct"] / asked["propose"]
    if asked.get("rewrite"):
        seen["reviews"] = asked.get("review", 0.0) / asked["rewrite"]
    if evolved:
        seen["kept"] = kept.get("teams_rl", 0.0) / evolved
    values = vars(assumed) | seen | {"seen": tuple(seen)}
    return Behaviour(**values)
