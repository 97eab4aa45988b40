"""On-policy negatives: the base model's own wrong answers to tasks with one right answer.

Reinforcement learning finds the errors that a judge overlooks: a judge trained on rule-made
corruptions alone rewarded a bare number as the answer to everything. So the judge also learns from
samples of the model that the policy starts from (Stiennon et al., arXiv 2009.01325).

The tasks are of the primer's closed families, where any other answer is wrong. Besides the model's
wrong answers to a task there are its answers to other tasks, as a policy gives them that no longer
reads its task.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Any

from refine_dagster import progress
from refine_dagster.config.learning import JudgeConfig
from refine_dagster.generation.decoding import sample_rollouts
from refine_dagster.judge.corruptions import normalised
from refine_dagster.offline.primer import CLOSED_FAMILIES, primer_tasks
from refine_dagster.prompts.example import NO_INPUT, Example, instance_prompt
from refine_dagster.seeding import request_seed

# Answers sampled to a task, at the temperature of the dataset.
SAMPLES = 4
TEMPERATURE = 0.7
# Longest answer in tokens. Closed families ask for a few words.
MAX_NEW_TOKENS = 32
# Demonstrations in a prompt, and tasks in a batch.
DEMONSTRATIONS = 2
BATCH = 16
STOP = ("\n",)
# Primer tasks drawn for each task that is wanted: about 70 % are of a closed family.
DRAWN = 2


@dataclass(frozen=True)
class AnsweredTask:
    """A task with its right answer, and a model's answers to it.

    `wrong` are the different wrong ones, in sampling order; `right` counts the right ones of
    `SAMPLES`.
    """

    example: Example
    wrong: tuple[str, ...]
    right: int


def own_tasks(config: JudgeConfig, run_seed: str) -> list[Example]:
    """Up to `config.on_policy_negatives` tasks, drawn apart from the judge's other primer tasks."""
    drawn = primer_tasks(
        DRAWN * config.on_policy_negatives, request_seed(run_seed, "judge", "own_answers")
    )
    closed = [task.example for task in drawn if task.family in CLOSED_FAMILIES]
    return closed[: config.on_policy_negatives]


def answered_tasks(
    model: Any, tokenizer: Any, tasks: Iterable[Example], run_seed: str
) -> list[AnsweredTask]:
    """Sample a causal language model's answers to tasks and compare them with the right ones.

    The tasks also serve each other as demonstrations.
    """
    tasks = list(tasks)
    answered: list[AnsweredTask] = []
    with progress.task("the base model's own answers", len(tasks)) as advance:
        for start in range(0, len(tasks), BATCH):
            batch = tasks[start : start + BATCH]
            rollouts = sample_rollouts(
                model,
                tokenizer,
                [_prompt(task, tasks, run_seed) for task in batch],
                [[_seed(task, run_seed, sample) for sample in range(SAMPLES)] for task in batch],
                max_new_tokens=MAX_NEW_TOKENS,
                temperature=TEMPERATURE,
                stop=STOP,
            )
            for number, task in enumerate(batch):
                own = rollouts[number * SAMPLES : (number + 1) * SAMPLES]
                answered.append(compared(task, [rollout.text.strip() for rollout in own]))
            advance(len(batch))
    return answered


def compared(task: Example, answers: Iterable[str]) -> AnsweredTask:
    """Which answers are wrong, whatever their case, spaces and last full stop.

    >>> answered = compared(Example("Add 2 and 3.", "", "5"), ["6", "5.", "", "6"])
    >>> answered.wrong, answered.right
    (('6',), 1)
    """
    expected = normalised(task.output)
    wrong: dict[str, str] = {}
    right = 0
    for answer in answers:
        text = normalised(answer)
        if text == expected:
            right += 1
        elif text:
            wrong.setdefault(text, answer)
    return AnsweredTask(task, tuple(wrong.values()), right)


def wrong_answers(
    answered: AnsweredTask, others: list[AnsweredTask], own: int, foreign: int, random: Random
) -> list[Example]:
    """The task with up to `own` wrong answers of the model, then with answers to other tasks.

    Together up to `own + foreign`: answers to other tasks stand in for those that the model did not
    give. A draw that is right for this task, or is there already, is left out.
    """
    task = answered.example
    chosen = random.sample(answered.wrong, min(own, len(answered.wrong)))
    taken = {normalised(text) for text in (task.output, *chosen)}
    for _ in range(own - len(chosen) + foreign):
        texts = random.choice(others).wrong
        text = random.choice(texts) if texts else task.output
        if normalised(text) not in taken:
            taken.add(normalised(text))
            chosen.append(text)
    return [Example(task.instruction, task.input, text) for text in chosen]


def _prompt(task: Example, tasks: list[Example], run_seed: str) -> str:
    random = Random(_seed(task, run_seed, -1))
    drawn = random.sample(tasks, min(len(tasks), DEMONSTRATIONS + 1))
    shown = [other for other in drawn if other != task][:DEMONSTRATIONS]
    return f"{instance_prompt(task.instruction, shown)} {task.input or NO_INPUT}\nOutput:"


def _seed(task: Example, run_seed: str, sample: int) -> int:
    return request_seed(run_seed, "own_answer", task.instruction, task.input, sample)
