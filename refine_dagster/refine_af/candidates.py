"""Several answers to one question: an instruction with its input, to which a policy answers again.

Answers to one question differ in nothing else, so which of them a model learns from shows what a
criterion of answers is worth, at a fraction of the cost of a training on it. Criteria:

judge       the reward of the feedback
agreement   mean ROUGE-L with the other answers: what the policy says most often
likelihood  mean log-probability of the answer's tokens under the policy, nats
influence   what learning the answer would bring a student (`training/influence.py`)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, get_args

from refine_dagster.config.dataset import InstanceConfig
from refine_dagster.evaluation.reference_loss import answer_losses
from refine_dagster.generation.completions import GeneratorSession
from refine_dagster.language import ENGLISH, Language
from refine_dagster.models.language_model import LoadedModel
from refine_dagster.novelty.rouge import rouge_l, rouge_tokens
from refine_dagster.prompts.example import NO_INPUT
from refine_dagster.refine_af.feedback import Feedback
from refine_dagster.refine_af.instances import (
    InstancePrompt,
    WrittenInstance,
    instance_prompts,
    instance_requests,
)
from refine_dagster.refine_af.reward import OpenedPart
from refine_dagster.seeding import request_seed
from refine_dagster.warehouse.rows import Row

Criterion = Literal["judge", "agreement", "likelihood", "influence"]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)
Values = Callable[[Sequence[WrittenInstance]], Sequence[float]]
# The rule of an answer that was passed over.
PASSED_OVER = "not_best"
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
    samples: Sequence[int] = (0,),
) -> list[list[WrittenInstance]]:
    """For every question the policy's answers of these numbers, scored, in their order."""
    prompts = [
        replace(question.prompt, prompt=question.prompt.prompt + question.lead)
        for question in questions
    ]
    requests = [
        replace(request, seed=_seed(run_seed, question, sample))
        for sample in samples
        for question, request in zip(
            questions, instance_requests(prompts, config, run_seed), strict=True
        )
    ]
    completions = policy.complete(requests)
    scored = feedback.score(
        [question.prompt.instruction["instruction"] for question in questions] * len(samples),
        [
            question.lead + completion.text
            for question, completion in zip([*questions] * len(samples), completions, strict=True)
        ],
        [completion.finish_reason != "length" for completion in completions],
    )
    parts = tuple(part.name for part in feedback.parts)
    written = [
        WrittenInstance(question.prompt, one, parts, policy.key_of(request), policy.model)
        for question, one, request in zip(
            [*questions] * len(samples), scored, requests, strict=True
        )
    ]
    return [written[number :: len(questions)] for number in range(len(questions))]


def _seed(run_seed: str, question: Question, sample: int) -> int:
    instruction = question.prompt.instruction["instruction"]
    return request_seed(run_seed, "answer", instruction, question.input, sample)


def agreement(answers: Sequence[str]) -> list[float]:
    """How much each answer agrees with the others: mean ROUGE-L F, 1 for equal texts; 0 to 1.

    >>> agreement(["a red cat", "a red cat", "7"])
    [0.5, 0.5, 0.0]
    >>> agreement(["7"])
    [0.0]
    """
    from rapidfuzz.distance import LCSseq

    tokens = [rouge_tokens(answer) for answer in answers]

    def alike(one: int, other: int) -> float:
        if answers[one] == answers[other]:
            return 1.0
        lcs = LCSseq.similarity(tokens[one], tokens[other])
        return rouge_l(lcs, len(tokens[one]), len(tokens[other]))

    places = range(len(answers))
    return [
        sum(alike(one, other) for other in places if other != one) / max(1, len(answers) - 1)
        for one in places
    ]


def agreements(answers: Sequence[WrittenInstance]) -> list[float]:
    return agreement([answer.scored.instance.output for answer in answers])


def rewards(answers: Sequence[WrittenInstance]) -> list[float]:
    return [answer.scored.reward for answer in answers]


def influences(influence: OpenedPart, answers: Sequence[WrittenInstance]) -> Sequence[float]:
    instructions = [answer.prompt.instruction["instruction"] for answer in answers]
    inputs = [answer.scored.instance.input for answer in answers]
    outputs = [answer.scored.instance.output for answer in answers]
    return influence(instructions, outputs, instruction=instructions, input=inputs, output=outputs)


def likelihoods(loaded: LoadedModel, answers: Sequence[WrittenInstance]) -> list[float]:
    """Mean log-probability of each answer's tokens behind its question, nats."""
    values = []
    for answer in answers:
        question = Question(answer.prompt, answer.scored.instance.input)
        prompt, output = question.prompt.prompt + question.lead, answer.scored.instance.output
        [loss] = answer_losses(loaded, prompt, output, most=None)
        values.append(-loss)
    return values


def chosen(values: Sequence[Sequence[float | None]]) -> list[int]:
    """The place of the best answer of each group, the first of equals.

    An answer without a value fails the format gate and is never the best; where all do, the first
    stands for the group.
    """
    ranks = [[float("-inf") if value is None else value for value in group] for group in values]
    return [of_group.index(max(of_group)) for of_group in ranks]


def valued(groups: Sequence[Sequence[WrittenInstance]], values: Values) -> list[list[float | None]]:
    """The values of the answers that pass the format gate, group by group; None for the others."""
    made = []
    for group in groups:
        read = [answer for answer in group if answer.scored.scores is not None]
        of_read = iter(values(read) if read else [])
        made.append([None if one.scored.scores is None else next(of_read) for one in group])
    return made


def with_value(
    answer: WrittenInstance, criterion: Criterion, value: float | None
) -> WrittenInstance:
    """The answer with its value among its scores; the judge's is its reward."""
    if criterion == "judge" or value is None or answer.scored.scores is None:
        return answer
    scores = {**answer.scored.scores, criterion: value}
    return replace(answer, scored=replace(answer.scored, scores=scores))
