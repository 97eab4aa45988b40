"""What the base model itself answers where the right answer is known: the judge's hard cases.

Rule-made corruptions are wrong in ways that somebody thought of. A policy is wrong in ways of its
own, and reinforcement learning looks for just those that the judge overlooks: against a judge that
has seen corruptions alone, it finds that a bare number is paid for as the answer to everything, to
sorting words as to upper case. So the judge also sees answers sampled from the model that the
policy starts from (on-policy negatives, as a reward model is trained on samples of the policy that
it will judge; Stiennon et al., arXiv 2009.01325).

No judge is needed to label them. The tasks are of the primer's closed families, which have one
right answer, so an answer that is not that one is wrong. Two sorts are kept: what the model
answered to the task itself, and what it answered to another task, which is what a policy gives that
has stopped to read its task.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Any

from refine_dagster import progress
from refine_dagster.config.learning import JudgeConfig
from refine_dagster.generation.rollouts import sample_rollouts
from refine_dagster.judge.corruptions import squeezed_text
from refine_dagster.offline.primer import CLOSED_FAMILIES, primer_tasks
from refine_dagster.prompts.example import NO_INPUT, Example
from refine_dagster.prompts.instance import instance_prompt
from refine_dagster.seeding import request_seed

# Answers sampled to a task.
SAMPLES = 4
# As the dataset is sampled; what a policy turns to under reward is likely already, not rare.
TEMPERATURE = 0.7
# Longest answer in tokens. Closed families ask for a few words.
MAX_NEW_TOKENS = 32
# Tasks shown before the one asked; and tasks asked in one batch.
DEMONSTRATIONS = 2
BATCH = 16
STOP = ("\n",)
# Primer tasks drawn for each one wanted: about seven in ten are of a closed family.
DRAWN = 2


@dataclass(frozen=True)
class AnsweredTask:
    """A task with its right answer, and what else the model said.

    Attributes:
        example: the task with its right answer.
        wrong: different answers of the model to this task that are not right, in sampling order.
        right: how many of its `SAMPLES` answers were.
    """

    example: Example
    wrong: tuple[str, ...]
    right: int


def own_tasks(config: JudgeConfig, run_seed: str) -> list[Example]:
    """The tasks that the model is asked, with their right answers: `config.on_policy_negatives` at
    most.

    They are drawn apart from the judge's other primer tasks; equal arguments give equal tasks.
    """
    drawn = primer_tasks(
        DRAWN * config.on_policy_negatives, request_seed(run_seed, "judge", "own_answers")
    )
    closed = [task.example for task in drawn if task.family in CLOSED_FAMILIES]
    return closed[: config.on_policy_negatives]


def answered_tasks(
    model: Any, tokenizer: Any, tasks: Iterable[Example], run_seed: str
) -> list[AnsweredTask]:
    """Let a model answer tasks, and compare with what is right.

    Args:
        model: a causal language model of `transformers`.
        tokenizer: the model's.
        tasks: with their right answers; others of them are shown as demonstrations.
        run seed: seeds the demonstrations and the sampling.
    """
    asked = list(tasks)
    answered: list[AnsweredTask] = []
    with progress.task("the base model's own answers", len(asked)) as advance:
        for start in range(0, len(asked), BATCH):
            batch = asked[start : start + BATCH]
            rollouts = sample_rollouts(
                model,
                tokenizer,
                [_prompt(task, asked, run_seed) for task in batch],
                [[_seed(task, run_seed, sample) for sample in range(SAMPLES)] for task in batch],
                max_new_tokens=MAX_NEW_TOKENS,
                temperature=TEMPERATURE,
                stop=STOP,
            )
            for place, task in enumerate(batch):
                said = rollouts[place * SAMPLES : (place + 1) * SAMPLES]
                answered.append(compared(task, [one.text.strip() for one in said]))
            advance(len(batch))
    return answered


def compared(task: Example, answers: Iterable[str]) -> AnsweredTask:
    """Which answers are wrong; case, spaces and the last full stop make no difference.

    >>> one = compared(Example("Add 2 and 3.", "", "5"), ["6", "5.", "", "6"])
    >>> one.wrong, one.right
    (('6',), 1)
    """
    own = squeezed_text(task.output)
    wrong: dict[str, str] = {}
    right = 0
    for answer in answers:
        text = squeezed_text(answer)
        if text == own:
            right += 1
        elif text:
            wrong.setdefault(text, answer)
    return AnsweredTask(task, tuple(wrong.values()), right)


def wrong_answers(
    answered: AnsweredTask, others: list[AnsweredTask], own: int, strange: int, random: Random
) -> list[Example]:
    """The task with wrong answers: up to `own` of the model's to it, then some to other tasks.

    Where the model gave fewer to the task itself, more of `others`' answers take their places; a
    draw that is the right answer here is left out.
    """
    task = answered.example
    chosen = random.sample(answered.wrong, min(own, len(answered.wrong)))
    met = {squeezed_text(text) for text in (task.output, *chosen)}
    for _ in range(own - len(chosen) + strange):
        texts = random.choice(others).wrong
        text = random.choice(texts) if texts else task.output
        if squeezed_text(text) not in met:
            met.add(squeezed_text(text))
            chosen.append(text)
    return [Example(task.instruction, task.input, text) for text in chosen]


def _prompt(task: Example, tasks: list[Example], run_seed: str) -> str:
    random = Random(_seed(task, run_seed, -1))
    drawn = random.sample(tasks, min(len(tasks), DEMONSTRATIONS + 1))
    shown = [other for other in drawn if other != task][:DEMONSTRATIONS]
    return f"{instance_prompt(task.instruction, shown)} {task.input or NO_INPUT}\nOutput:"


def _seed(task: Example, run_seed: str, sample: int) -> int:
    return request_seed(run_seed, "own_answer", task.instruction, task.input, sample)
