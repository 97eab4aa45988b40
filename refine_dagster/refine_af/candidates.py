"""Several answers to one question: an instruction with its input, to which a policy answers again.

Answers to one question differ in nothing else, so which of them a model learns from shows what a
measure of answers is worth, at a fraction of the cost of a training on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from refine_dagster.config.dataset import InstanceConfig
from refine_dagster.generation.completions import GeneratorSession
from refine_dagster.language import ENGLISH, Language
from refine_dagster.prompts.example import NO_INPUT
from refine_dagster.refine_af.feedback import Feedback
from refine_dagster.refine_af.instances import (
    InstancePrompt,
    WrittenInstance,
    instance_prompts,
    instance_requests,
)
from refine_dagster.seeding import request_seed
from refine_dagster.warehouse.rows import Row

# What stands for a method in rows whose instruction is a seed's.
SEED = "seed"


@dataclass(frozen=True)
class Question:
    """An instruction's prompt for an instance, and the input that the answer is to."""

    prompt: InstancePrompt
    input: str

    @property
    def lead(self) -> str:
        """What the answer stands behind in a completion of the prompt."""
        return f" {self.input or NO_INPUT}\nOutput:"


def seed_questions(
    seeds: Sequence[Row],
    count_tokens: Callable[[str], int],
    config: InstanceConfig,
    run_seed: str,
    language: Language = ENGLISH,
) -> list[Question]:
    """The question of every seed; its prompt shows other seeds and never the seed itself."""
    count = lru_cache(maxsize=None)(count_tokens)
    questions = []
    for seed in seeds:
        others = [other for other in seeds if other["instruction"] != seed["instruction"]]
        asked = {**seed, "method": SEED}
        [prompt] = instance_prompts(
            [asked], others, count, config, run_seed, "seed_tasks", language
        )
        questions.append(Question(prompt, seed["input"]))
    return questions


def pool_questions(written: Iterable[WrittenInstance]) -> list[Question]:
    """The question of every instance that passed the format gate: its own input."""
    return [
        Question(instance.prompt, instance.scored.instance.input)
        for instance in written
        if instance.scored.instance.format_valid
    ]


def write_answers(
    questions: Sequence[Question],
    policy: GeneratorSession,
    feedback: Feedback,
    config: InstanceConfig,
    run_seed: str,
    samples: int = 1,
) -> list[list[WrittenInstance]]:
    """For every question so many answers of the policy, scored, in the order of their numbers."""
    prompts = [
        replace(question.prompt, prompt=question.prompt.prompt + question.lead)
        for question in questions
    ]
    requests = [
        replace(request, seed=_seed(run_seed, question, sample))
        for sample in range(samples)
        for question, request in zip(
            questions, instance_requests(prompts, config, run_seed), strict=True
        )
    ]
    completions = policy.complete(requests)
    scored = feedback.score(
        [question.prompt.instruction["instruction"] for question in questions] * samples,
        [
            question.lead + completion.text
            for question, completion in zip([*questions] * samples, completions, strict=True)
        ],
        [completion.finish_reason != "length" for completion in completions],
    )
    parts = tuple(part.name for part in feedback.parts)
    written = [
        WrittenInstance(question.prompt, one, parts, policy.key_of(request), policy.model)
        for question, one, request in zip([*questions] * samples, scored, requests, strict=True)
    ]
    return [written[number :: len(questions)] for number in range(len(questions))]


def _seed(run_seed: str, question: Question, sample: int) -> int:
    instruction = question.prompt.instruction["instruction"]
    return request_seed(run_seed, "answer", instruction, question.input, sample)
