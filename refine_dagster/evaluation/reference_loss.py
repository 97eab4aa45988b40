"""The loss of the reference answers: nats a token under a model, the lower the better.

ROUGE-L of greedy answers says whether a small model has learned the format of a task, and hardly
anything of what it knows. The loss of the right answer does: it moves with every token. An answer
is cut after `ANSWER_TOKENS` and its end-of-sequence token is not counted, so that the length of
answers, which is format too, weighs little.

A model that learned from its own text is too sure of itself, and would lose by that alone. So its
logits are divided by one temperature, fitted on seeds that no model of the comparison has learned
from. The loss without it is kept beside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from refine_dagster.config.learning import EvaluationConfig
from refine_dagster.evaluation.answers import fitted_prompt
from refine_dagster.evaluation.super_ni import Task
from refine_dagster.generation.model_text import ModelText
from refine_dagster.models.answer_tokens import answer_tokens
from refine_dagster.models.language_model import LoadedModel
from refine_dagster.prompts.example import Example

ANSWER_TOKENS = 60
# From 0.61 to 4.32 in steps of 5 %. The loss is convex in 1 / temperature and flat at its least.
TEMPERATURES = tuple(1.05**step for step in range(-10, 31))
TaskKind = Literal["generation", "classification"]


@dataclass(frozen=True)
class TaskLoss:
    """A task's mean loss of the reference answers over its instances, nats a token.

    `loss` is at the fitted temperature, `uncalibrated` at 1.
    """

    task: str
    kind: TaskKind
    loss: float
    uncalibrated: float


@dataclass(frozen=True)
class ReferenceLosses:
    """A model's losses in task order, and the temperature that was fitted for it."""

    temperature: float
    tasks: tuple[TaskLoss, ...]


def reference_losses(
    loaded: LoadedModel,
    tasks: Sequence[Task],
    calibration: Sequence[Example],
    config: EvaluationConfig,
) -> ReferenceLosses:
    """The losses of the tasks' reference answers behind the evaluation's prompt.

    An instance with several right answers has the loss of the likeliest.

    Args:
        calibration: examples that the model has not learned from; at least one.
    """
    cut = ModelText.of(loaded.model, loaded.tokenizer).cut

    def prompt_of(instruction: str, given: str) -> str:
        return fitted_prompt(instruction, given, config.max_source_tokens, cut)

    fitted = [
        answer_losses(
            loaded, prompt_of(example.instruction, example.input), example.output, TEMPERATURES
        )
        for example in calibration
    ]
    means = [fmean(losses) for losses in zip(*fitted, strict=True)]
    temperature = TEMPERATURES[min(range(len(means)), key=means.__getitem__)]
    rows = []
    for task in tasks:
        losses = []
        for instance in task.instances:
            prompt = prompt_of(task.definition, instance.input)
            of_answers = [
                answer_losses(loaded, prompt, reference, (temperature, 1.0))
                for reference in instance.references
            ]
            losses.append([min(one) for one in zip(*of_answers, strict=True)])
        loss, uncalibrated = (fmean(one) for one in zip(*losses, strict=True))
        rows.append(TaskLoss(task.name, task_kind(task), loss, uncalibrated))
    return ReferenceLosses(temperature, tuple(rows))


def answer_losses(
    loaded: LoadedModel,
    prompt: str,
    answer: str,
    temperatures: Sequence[float] = (1.0,),
    most: int | None = ANSWER_TOKENS,
) -> list[float]:
    """The mean loss of an answer's first `most` tokens behind a prompt, at each temperature.

    None takes all tokens. One forward pass without padding, so that it depends on these texts
    alone. An answer without tokens has the loss 0.
    """
    import torch

    before, answered = answer_tokens(loaded.tokenizer, prompt, f" {answer}")
    answered = answered[:most]
    if not answered:
        return [0.0] * len(temperatures)
    ids = torch.tensor([[*before, *answered]], device=loaded.device.name)
    with torch.inference_mode():
        logits = loaded.model(
            input_ids=ids, use_cache=False, logits_to_keep=len(answered) + 1
        ).logits[0, :-1]
    logits = logits.float()
    chosen = logits.gather(1, ids[0, -len(answered) :, None])[:, 0]
    return [
        float((torch.logsumexp(logits / one, dim=-1) - chosen / one).double().mean())
        for one in temperatures
    ]


def task_kind(task: Task) -> TaskKind:
    """`classification` where answers repeat: at most half as many different ones as instances."""
    answers = [instance.references[0] for instance in task.instances]
    return "classification" if 2 * len(set(answers)) <= len(answers) else "generation"
