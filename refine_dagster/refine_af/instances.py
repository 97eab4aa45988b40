"""Asks a policy for the instance of each accepted instruction, scores it, and decides on it.

The same code serves the base policy (`reward_scored_instructions`), the refined policy
(`instruction_dataset`) and the prompts that reinforcement learning samples from: the arms of every
comparison differ only in the policy. Demonstrations are drawn by rendezvous, by the instruction's
text, so that both policies see the same prompts.

The reward that a policy earns on given prompts, for comparing policies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from refine_dagster.config.dataset import InstanceConfig, SelectionConfig
from refine_dagster.draws import draw
from refine_dagster.generation.request import Complete, Completion, Request, Sampling
from refine_dagster.generation.session import GeneratorSession
from refine_dagster.prompts.example import Example
from refine_dagster.prompts.instance import STOP, instance_prompt
from refine_dagster.refine_af.feedback import Feedback, ScoredInstance
from refine_dagster.refine_af.selection import Judged, decide_instances
from refine_dagster.seeding import request_seed
from refine_dagster.self_instruct.decisions import KEPT, TEAMS_RL
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
class Policy:
    """The model that writes instances, as this module sees it.

    Attributes:
        complete: answers requests in order.
        key_of: the key of the completion that answered a request.
        model: the model's fingerprint, which rows name as their policy.
        rows: rows the policy is made of, parents of every instance.
    """

    complete: Callable[[Sequence[Request]], list[Completion]]
    key_of: Callable[[Request], str]
    model: str
    rows: tuple[Parent, ...]

    @classmethod
    def of(cls, session: GeneratorSession, *rows: Parent) -> Policy:
        """The policy that a generator session has loaded."""
        return cls(session.complete, session.key_of, session.model, rows)


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


def scored_instances(
    table: str,
    prompts: Sequence[InstancePrompt],
    policy: Policy,
    feedback: Feedback,
    judge: Parent,
    config: InstanceConfig,
    selection: SelectionConfig,
    run_seed: str,
    *,
    whiten_by_own: bool = False,
) -> list[Row]:
    """Rows of `table` (of scored instances, such as `instance_decisions`), one a prompt.

    With `whiten_by_own`, the reward's parts are standardised over these very instances: the policy
    is the base policy, whose scores set the scale for all others.
    """
    requests = instance_requests(prompts, config, run_seed)
    scored = scored_answers(prompts, requests, policy.complete, feedback)
    if whiten_by_own:
        own = [one.scores for one in scored if one.scores is not None]
        scored = feedback.whitened(own).weigh(scored)
    judged = [
        Judged(one.instruction["instruction"], result, one.instruction["method"] == TEAMS_RL)
        for one, result in zip(prompts, scored, strict=True)
    ]
    rejections = decide_instances(judged, selection)
    no_scores = dict.fromkeys(part.name for part in feedback.judge.parts)
    rows = []
    for one, request, result, rejection in zip(prompts, requests, scored, rejections, strict=True):
        found = result.instance
        rows.append(
            make_row(
                table,
                {
                    "instruction_id": one.instruction["row_id"],
                    "instruction": one.instruction["instruction"],
                    "input": found.input,
                    "output": found.output,
                    "method": one.instruction["method"],
                    "policy": policy.model,
                    "completion_key": policy.key_of(request),
                    "format_valid": found.format_valid,
                    "format_problem": found.problem,
                    **(result.scores or no_scores),
                    "reward": result.reward,
                    "kept": rejection is None,
                    "rule": rejection.rule if rejection else KEPT,
                    "value": rejection.value if rejection else None,
                    "threshold": rejection.threshold if rejection else None,
                },
                [
                    Parent(one.pool, one.instruction["row_id"], "instruction"),
                    judge,
                    *policy.rows,
                    *(Parent("seed_tasks", seed.row_id, "demonstration") for seed in one.shown),
                ],
            )
        )
    return rows


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
