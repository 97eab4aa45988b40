"""Asks a policy for the instance of each accepted instruction, scores it, and decides on it.

The base policy's instances, the refined policy's, and the prompts of reinforcement learning all
come from here, so arms of a comparison differ only in the policy. Demonstrations are a rendezvous
draw by the instruction's text, so all policies see the same prompts.

Instances are kept by Self-Instruct's rules (docs/methods.md, section 3.3), then by the share of
the reward, which is this project's own. The first rule that fires is recorded on the row.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from refine_dagster.config.dataset import InstanceConfig, SelectionConfig
from refine_dagster.draws import draw_different
from refine_dagster.generation.completions import GeneratorSession
from refine_dagster.generation.request import Complete, Request, Sampling
from refine_dagster.judge.judge import Scores
from refine_dagster.language import ENGLISH, Language
from refine_dagster.prompts.example import STOP, Example, instance_prompt, reads_back
from refine_dagster.refine_af.feedback import Feedback, ScoredInstance
from refine_dagster.seeding import request_seed
from refine_dagster.self_instruct.decisions import KEPT, TEAMS_RL, in_slot_order
from refine_dagster.self_instruct.heuristics import Rejection, answer_rejection
from refine_dagster.statistics import paired_gain
from refine_dagster.warehouse.rows import Parent, Row, make_row


@dataclass(frozen=True)
class InstancePrompt:
    """The prompt for an instruction, a row of the table `pool`, and the seeds that it shows."""

    instruction: Row
    prompt: str
    shown: tuple[Row, ...]
    pool: str = "filtered_instructions"


@dataclass(frozen=True)
class WrittenInstance:
    """A policy's instance of an instruction, scored on `parts`, if valid.

    `policy` is the policy's fingerprint.
    """

    prompt: InstancePrompt
    scored: ScoredInstance
    parts: tuple[str, ...]
    completion_key: str
    policy: str


def instance_prompts(
    instructions: Iterable[Row],
    seeds: Iterable[Row],
    count_tokens: Callable[[str], int],
    config: InstanceConfig,
    run_seed: str,
    pool: str = "filtered_instructions",
    language: Language = ENGLISH,
) -> list[InstancePrompt]:
    """The prompt for each row of `pool`, the same for every policy and in every policy round.

    A policy that was fine-tuned on the seeds to start with (`start_steps`) is shown none of them.
    """
    count = 0 if config.start_steps else config.demonstrations
    short = {
        seed["seed_id"]: seed
        for seed in seeds
        if count_tokens(Example.of(seed).render()) <= config.max_demonstration_tokens
        and reads_back(Example.of(seed))
    }
    texts = {name: seed["instruction"] for name, seed in short.items()}
    prompts = []
    for row in instructions:
        names = draw_different(texts, count, run_seed, "instance", row["instruction"])
        shown = tuple(short[name] for name in names)
        prompt = instance_prompt(row["instruction"], [Example.of(seed) for seed in shown], language)
        prompts.append(InstancePrompt(row, prompt, shown, pool))
    return prompts


def pool_prompts(
    pool: Iterable[Row],
    table: str,
    seeds: Iterable[Row],
    policy: GeneratorSession,
    config: InstanceConfig,
    run_seed: str,
    language: Language,
) -> list[InstancePrompt]:
    """The prompt for every instruction of a pool, rows of `table`, in slot order."""
    count_tokens = policy.backend.count_tokens
    asked = in_slot_order(pool)
    return instance_prompts(asked, seeds, count_tokens, config, run_seed, table, language)


def instance_requests(
    prompts: Sequence[InstancePrompt], config: InstanceConfig, run_seed: str, sample: int = 0
) -> list[Request]:
    sampling = Sampling(
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        stop=STOP,
    )
    return [
        Request(
            "instance",
            asked.prompt,
            sampling,
            request_seed(run_seed, "instance", asked.instruction["instruction"], sample),
        )
        for asked in prompts
    ]


def scored_answers(
    prompts: Sequence[InstancePrompt],
    requests: Sequence[Request],
    complete: Complete,
    feedback: Feedback,
) -> list[ScoredInstance]:
    completions = complete(requests)
    scored = feedback.score(
        [asked.instruction["instruction"] for asked in prompts],
        [completion.text for completion in completions],
        [completion.finish_reason != "length" for completion in completions],
    )
    return [
        replace(result, instance=replace(result.instance, problem="refused"))
        if completion.refused
        else result
        for result, completion in zip(scored, completions, strict=True)
    ]


def write_instances(
    prompts: Sequence[InstancePrompt],
    policy: GeneratorSession,
    feedback: Feedback,
    config: InstanceConfig,
    run_seed: str,
) -> list[WrittenInstance]:
    requests = instance_requests(prompts, config, run_seed)
    scored = scored_answers(prompts, requests, policy.complete, feedback)
    parts = tuple(part.name for part in feedback.judge.parts)
    return [
        WrittenInstance(prompt, result, parts, policy.key_of(request), policy.model)
        for prompt, request, result in zip(prompts, requests, scored, strict=True)
    ]


def rescaled(written: Sequence[WrittenInstance], feedback: Feedback) -> list[WrittenInstance]:
    """The same instances, with parts standardised over their own scores."""
    scored = [instance.scored for instance in written]
    own = [instance.scores for instance in scored if instance.scores is not None]
    rewarded = feedback.whitened(own).weigh(scored)
    return [replace(old, scored=new) for old, new in zip(written, rewarded, strict=True)]


@dataclass(frozen=True)
class Judged:
    """A scored instance of an instruction; if evolved by TeaMs-RL, WizardLM's rules apply too."""

    instruction: str
    scored: ScoredInstance
    evolved: bool = False


def decide_instances(
    instances: Sequence[Judged], config: SelectionConfig
) -> list[Rejection | None]:
    """The rejection of each instance; None where it is kept.

    Rules in order: `format:` and the gate's reason; `input_equals_output`; `ends_with_colon`;
    `contradiction` (the same instruction and input have different outputs); for evolved
    instructions WizardLM's `hollow_answer` and `refused_answer`; `low_reward`.
    """
    answers: dict[tuple[str, str], set[str]] = defaultdict(set)
    for judged in instances:
        instance = judged.scored.instance
        if instance.format_valid:
            answers[judged.instruction, instance.input].add(instance.output)
    rejections = [_rejection_by_rule(judged, answers) for judged in instances]
    rewards = sorted(
        judged.scored.reward
        for judged, rejection in zip(instances, rejections, strict=True)
        if not rejection
    )
    if not rewards:
        return rejections
    threshold = rewards[len(rewards) - math.ceil(config.keep_share * len(rewards))]
    return [
        Rejection("low_reward", judged.scored.reward, threshold)
        if rejection is None and judged.scored.reward < threshold
        else rejection
        for judged, rejection in zip(instances, rejections, strict=True)
    ]


def _rejection_by_rule(
    judged: Judged, answers: dict[tuple[str, str], set[str]]
) -> Rejection | None:
    instance = judged.scored.instance
    if instance.problem is not None:
        return Rejection(f"format:{instance.problem}")
    if instance.input == instance.output:
        return Rejection("input_equals_output")
    if instance.input.endswith((":", "：")) or instance.output.endswith((":", "：")):
        return Rejection("ends_with_colon")
    if len(answers[judged.instruction, instance.input]) > 1:
        return Rejection("contradiction")
    return answer_rejection(instance.output) if judged.evolved else None


def decision_rows(
    table: str,
    written: Sequence[WrittenInstance],
    made_by: Sequence[Parent],
    selection: SelectionConfig,
) -> list[Row]:
    """A row of `table` for each instance: its scores, and the rule that rejected it or `kept`.

    `made_by` are the rows of the policy and the judge, parents of every row.
    """
    rejections = decide_instances(
        [
            Judged(row["instruction"], instance.scored, row["method"] == TEAMS_RL)
            for instance in written
            for row in [instance.prompt.instruction]
        ],
        selection,
    )
    return [
        decision_row(table, instance, rejection, made_by)
        for instance, rejection in zip(written, rejections, strict=True)
    ]


def decision_row(
    table: str,
    instance: WrittenInstance,
    rejection: Rejection | None,
    made_by: Sequence[Parent],
) -> Row:
    instruction, shown = instance.prompt.instruction, instance.prompt.shown
    scored = instance.scored
    return make_row(
        table,
        {
            "instruction_id": instruction["row_id"],
            "instruction": instruction["instruction"],
            "input": scored.instance.input,
            "output": scored.instance.output,
            "method": instruction["method"],
            "policy": instance.policy,
            "completion_key": instance.completion_key,
            "format_valid": scored.instance.format_valid,
            "format_problem": scored.instance.problem,
            "parts": scored.scores or dict.fromkeys(instance.parts),
            "reward": scored.reward,
            "kept": rejection is None,
            "rule": rejection.rule if rejection else KEPT,
            "value": rejection.value if rejection else None,
            "threshold": rejection.threshold if rejection else None,
        },
        [
            Parent(instance.prompt.pool, instruction["row_id"], "instruction"),
            *made_by,
            *(Parent("seed_tasks", seed["row_id"], "demonstration") for seed in shown),
        ],
    )


def base_scores(rows: Iterable[Row]) -> list[Scores]:
    """The scores of the base policy's valid instances: the scale of whitened rewards."""
    return [row["parts"] for row in rows if row["format_valid"]]


def instance_figures(rows: Sequence[Row]) -> dict[str, float]:
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
    return figures | {f"mean_{name}": sum(of) / len(of) for name, of in values.items()}


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
    asked = [Parent(prompt.pool, prompt.instruction["row_id"], role) for prompt in prompts]
    shown = [seed for prompt in prompts for seed in prompt.shown]
    return [*asked, *(Parent("seed_tasks", seed["row_id"], "demonstration") for seed in shown)]


def mean_rewards(
    prompts: Sequence[InstancePrompt],
    complete: Complete,
    feedback: Feedback,
    config: InstanceConfig,
    samples: int,
    run_seed: str,
) -> list[float]:
    """The mean reward of each prompt over `samples` completions of a policy.

    Sample 0 of a prompt is the request that the datasets are made of.
    """
    requests = [
        request
        for sample in range(samples)
        for request in instance_requests(prompts, config, run_seed, sample)
    ]
    scored = scored_answers([*prompts] * samples, requests, complete, feedback)
    rewards = [instance.reward for instance in scored]
    return [sum(rewards[number :: len(prompts)]) / samples for number in range(len(prompts))]


def policy_gain(before: Sequence[float], after: Sequence[float], run_seed: str) -> dict[str, float]:
    """What a training gained: columns of the policy's row.

    From the reward of each held-out instruction before and after (`mean_rewards`): the means, and
    the mean paired difference with its 95 % bootstrap interval.
    """
    gain = paired_gain(before, after, run_seed=run_seed)
    return {
        "held_out_prompts": len(before),
        "reward_before": fmean(before),
        "reward_after": fmean(after),
        "gain": gain.mean,
        "gain_low": gain.low,
        "gain_high": gain.high,
    }
