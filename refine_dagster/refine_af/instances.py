"""Asks a policy for the instance of each accepted instruction, scores it, and decides on it.

The same code serves the base policy (`reward_scored_instructions`), the refined policy
(`instruction_dataset`) and the prompts that reinforcement learning samples from: the arms of every
comparison differ only in the policy. Demonstrations are drawn by rendezvous, by the instruction's
text, so that both policies see the same prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from refine_dagster.config.dataset import InstanceConfig, SelectionConfig
from refine_dagster.draws import draw
from refine_dagster.generation.request import Complete, Request, Sampling
from refine_dagster.generation.session import GeneratorSession
from refine_dagster.judge.judge import Scores
from refine_dagster.prompts.example import Example
from refine_dagster.prompts.instance import STOP, instance_prompt
from refine_dagster.refine_af.feedback import Feedback, ScoredInstance
from refine_dagster.refine_af.selection import Judged, decide_instances
from refine_dagster.seeding import request_seed
from refine_dagster.self_instruct.decisions import KEPT, TEAMS_RL, in_slot_order
from refine_dagster.statistics import paired_gain
from refine_dagster.warehouse.rows import Parent, Row, make_row


@dataclass(frozen=True)
class SeedTriple:
    """A seed task's first instance, as a demonstration."""

    row_id: str
    seed_id: str
    example: Example


def seed_examples(rows: Iterable[Row]) -> list[SeedTriple]:
    """Rows of `seed_tasks` as demonstrations, in the order given."""
    return [
        SeedTriple(
            row["row_id"],
            row["seed_id"],
            Example(row["instruction"], row["input"], row["output"]),
        )
        for row in rows
    ]


@dataclass(frozen=True)
class InstancePrompt:
    """What a policy is shown for one instruction, and which seeds are in it.

    `pool` is the table that the instruction is a row of.
    """

    instruction: Row
    prompt: str
    shown: tuple[SeedTriple, ...]
    pool: str = "filtered_instructions"


@dataclass(frozen=True)
class WrittenInstance:
    """What a policy wrote for one instruction, scored.

    Attributes:
        prompt: what it was shown.
        scored: its input and output, their scores and the reward.
        parts: names of the scores that a readable instance has.
        completion_key: the completion that was read.
        policy: the policy's fingerprint.
    """

    prompt: InstancePrompt
    scored: ScoredInstance
    parts: tuple[str, ...]
    completion_key: str
    policy: str


def instance_prompts(
    instructions: Sequence[Row],
    seeds: Sequence[SeedTriple],
    count_tokens: Callable[[str], int],
    config: InstanceConfig,
    run_seed: str,
    pool: str = "filtered_instructions",
) -> list[InstancePrompt]:
    """The prompt for each row of `pool`, the same for every policy and in every policy round."""
    shown = {
        seed.seed_id: seed
        for seed in seeds
        if count_tokens(seed.example.render()) <= config.max_demonstration_tokens
    }
    prompts = []
    for row in instructions:
        names = draw(shown, config.demonstrations, run_seed, "instance", row["instruction"])
        drawn = tuple(shown[name] for name in names)
        prompt = instance_prompt(row["instruction"], [seed.example for seed in drawn])
        prompts.append(InstancePrompt(row, prompt, drawn, pool))
    return prompts


def pool_prompts(
    pool: Iterable[Row],
    table: str,
    seeds: Iterable[Row],
    policy: GeneratorSession,
    config: InstanceConfig,
    run_seed: str,
) -> list[InstancePrompt]:
    """The prompt for every instruction of a pool, rows of `table`, in slot order."""
    shown, count_tokens = seed_examples(seeds), policy.backend.count_tokens
    return instance_prompts(in_slot_order(pool), shown, count_tokens, config, run_seed, table)


def instance_requests(
    prompts: Sequence[InstancePrompt], config: InstanceConfig, run_seed: str, sample: int = 0
) -> list[Request]:
    """One request a prompt; its noise is named by the instruction's text and the sample."""
    sampling = Sampling(
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        stop=STOP,
    )
    return [
        Request(
            "instance",
            one.prompt,
            sampling,
            request_seed(run_seed, "instance", one.instruction["instruction"], sample),
        )
        for one in prompts
    ]


def scored_answers(
    prompts: Sequence[InstancePrompt],
    requests: Sequence[Request],
    complete: Complete,
    feedback: Feedback,
) -> list[ScoredInstance]:
    """What a policy answers to requests, scored.

    Args:
        prompts: the prompt that each request asks.
        complete: the policy's.
    """
    completions = complete(requests)
    return feedback.score(
        [one.instruction["instruction"] for one in prompts],
        [completion.text for completion in completions],
        [completion.finish_reason != "length" for completion in completions],
    )


def write_instances(
    prompts: Sequence[InstancePrompt],
    policy: GeneratorSession,
    feedback: Feedback,
    config: InstanceConfig,
    run_seed: str,
) -> list[WrittenInstance]:
    """Ask a policy for the instance of every prompt, and score what it writes."""
    requests = instance_requests(prompts, config, run_seed)
    scored = scored_answers(prompts, requests, policy.complete, feedback)
    parts = tuple(part.name for part in feedback.judge.parts)
    return [
        WrittenInstance(prompt, result, parts, policy.key_of(request), policy.model)
        for prompt, request, result in zip(prompts, requests, scored, strict=True)
    ]


def rescaled(written: Sequence[WrittenInstance], feedback: Feedback) -> list[WrittenInstance]:
    """The same instances, with the reward's parts standardised over these very instances."""
    scored = [one.scored for one in written]
    own = [one.scores for one in scored if one.scores is not None]
    rewarded = feedback.whitened(own).weigh(scored)
    return [replace(one, scored=new) for one, new in zip(written, rewarded, strict=True)]


def decision_rows(
    table: str,
    written: Sequence[WrittenInstance],
    made_by: Sequence[Parent],
    selection: SelectionConfig,
) -> list[Row]:
    """Rows of `table`, one an instance: its scores, and the rule that rejected it or `kept`.

    Args:
        table: of scored instances, such as `instance_decisions`.
        made_by: the rows of the policy and the judge, parents of every row.
    """
    rejections = decide_instances(
        [
            Judged(
                one.prompt.instruction["instruction"],
                one.scored,
                one.prompt.instruction["method"] == TEAMS_RL,
            )
            for one in written
        ],
        selection,
    )
    rows = []
    for one, rejection in zip(written, rejections, strict=True):
        instruction, found = one.prompt.instruction, one.scored.instance
        rows.append(
            make_row(
                table,
                {
                    "instruction_id": instruction["row_id"],
                    "instruction": instruction["instruction"],
                    "input": found.input,
                    "output": found.output,
                    "method": instruction["method"],
                    "policy": one.policy,
                    "completion_key": one.completion_key,
                    "format_valid": found.format_valid,
                    "format_problem": found.problem,
                    "parts": one.scored.scores or dict.fromkeys(one.parts),
                    "reward": one.scored.reward,
                    "kept": rejection is None,
                    "rule": rejection.rule if rejection else KEPT,
                    "value": rejection.value if rejection else None,
                    "threshold": rejection.threshold if rejection else None,
                },
                [
                    Parent(one.prompt.pool, instruction["row_id"], "instruction"),
                    *made_by,
                    *(Parent("seed_tasks", s.row_id, "demonstration") for s in one.prompt.shown),
                ],
            )
        )
    return rows


def base_scores(rows: Iterable[Row]) -> list[Scores]:
    """The scores of the base policy's valid instances: the scale of whitened rewards.

    Args:
        rows: of `reward_scored_instructions` of the first round.
    """
    return [row["parts"] for row in rows if row["format_valid"]]


def instance_figures(rows: Sequence[Row]) -> dict[str, float]:
    """How many instances there are, how many are kept, and mean reward and parts."""
    figures: dict[str, float] = {
        "instances": len(rows),
        "kept": sum(row["kept"] for row in rows),
        "format_valid": sum(row["format_valid"] for row in rows),
    }
    values: dict[str, list[float]] = {}
    for row in rows:
        for name, value in {"reward": row["reward"], **row["parts"]}.items():
            if value is not None:
                values.setdefault(name, []).append(value)
    return figures | {f"mean_{name}": sum(found) / len(found) for name, found in values.items()}


def dataset_rows(decisions: Sequence[Row]) -> list[Row]:
    """Rows of `instruction_dataset`: the instances that the decisions keep."""
    dropped = {"row_id", "parents", "format_valid", "format_problem"}
    dropped |= {"kept", "rule", "value", "threshold"}
    return [
        make_row(
            "instruction_dataset",
            {name: value for name, value in row.items() if name not in dropped},
            [
                *(Parent(**parent) for parent in row["parents"]),
                Parent("instance_decisions", row["row_id"], "decision"),
            ],
        )
        for row in decisions
        if row["kept"]
    ]


def prompt_parents(prompts: Sequence[InstancePrompt], role: str) -> list[Parent]:
    """Instructions in a role, and the seeds that their prompts show, as parents."""
    asked = [Parent(one.pool, one.instruction["row_id"], role) for one in prompts]
    shown = [seed for one in prompts for seed in one.shown]
    return [*asked, *(Parent("seed_tasks", seed.row_id, "demonstration") for seed in shown)]


def mean_rewards(
    prompts: Sequence[InstancePrompt],
    complete: Complete,
    feedback: Feedback,
    config: InstanceConfig,
    samples: int,
    run_seed: str,
) -> list[float]:
    """The mean reward of each prompt over `samples` completions of the policy behind `complete`.

    Sample 0 of a prompt is the very request that the datasets are made of, so it is asked once.
    """
    requests = [
        request
        for sample in range(samples)
        for request in instance_requests(prompts, config, run_seed, sample)
    ]
    scored = scored_answers([*prompts] * samples, requests, complete, feedback)
    rewards = [one.reward for one in scored]
    return [sum(rewards[place :: len(prompts)]) / samples for place in range(len(prompts))]


@dataclass(frozen=True)
class PolicyGain:
    """The reward of a policy before and after its training; columns of its row.

    Attributes:
        held_out_prompts: instructions measured on.
        reward_before, reward_after: mean rewards.
        gain, gain_low, gain_high: mean paired difference with its 95 % bootstrap interval.
    """

    held_out_prompts: int
    reward_before: float
    reward_after: float
    gain: float
    gain_low: float
    gain_high: float


def policy_gain(before: Sequence[float], after: Sequence[float], run_seed: str) -> PolicyGain:
    """The gain, from the reward of each held-out instruction before and after (`mean_rewards`)."""
    found = paired_gain(before, after, run_seed=run_seed)
    return PolicyGain(len(before), fmean(before), fmean(after), found.mean, found.low, found.high)
