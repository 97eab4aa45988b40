"""Trains a judge on a base model that stays as it is: four linear outputs on features.

What a pretrained model computes of a text (`judge.text_features`) holds most of what a judge needs,
and is computed once for each text. The outputs are then fitted to all texts at once: seconds, where
training the whole network takes hours on a processor. Good texts are seeds; worse ones are their
corruptions, and wrong answers of the base model to seeds whose answer is a word or two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from refine_dagster import progress
from refine_dagster.config.learning import JudgeConfig
from refine_dagster.judge.corruptions import (
    GOOD,
    INCOHERENT,
    Corruptor,
    Labels,
    with_output,
)
from refine_dagster.judge.judge import FrozenJudge, Judge, judge_fingerprint, text_features
from refine_dagster.judge.network import (
    LIKELIHOODS,
    MARK_SHARES,
    OUTPUTS,
    JudgeError,
    Network,
    write_heads,
)
from refine_dagster.judge.on_policy_negatives import answered_tasks
from refine_dagster.judge.quality import (
    DAMAGE,
    JudgeQuality,
    MeasuredJudge,
    QualityExample,
    Sort,
    judge_accuracies,
    measure_judge,
    task_examples,
)
from refine_dagster.judge.training import (
    OWN_ANSWERS,
    class_weights,
    judge_card,
    output_loss,
    split_examples,
    split_for_training,
)
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import ModelRef, loaded_model
from refine_dagster.prompts.example import Example
from refine_dagster.seeding import request_seed

if TYPE_CHECKING:
    from torch import Tensor

# Penalty on squared weights of standardised features: of the many hidden states, and of the others
# (likelihoods and marks). Chosen on held-out seeds with Gemma 3 270M.
STATE_PENALTY = 1.0
OTHER_PENALTY = 0.01
# An answer of so many words has no other wording, so an answer that differs is wrong.
CLOSED_WORDS = 2
# Corruptions of a held-out seed, the first that applies of each sort: the answer of a similar task,
# the answer of any, and damage to its own.
BAD: Mapping[Sort, tuple[str, ...]] = {
    "wrong": ("near_output",),
    "foreign": ("other_output",),
    "damaged": DAMAGE,
}
Labelled = list[tuple[Example, Labels]]


def train_judge(
    base: ModelRef,
    seeds: Sequence[Example],
    config: JudgeConfig,
    out: Path,
    device: Device,
    run_seed: str,
) -> MeasuredJudge:
    """Fit the outputs to seeds, corruptions and own answers; save them in folder `out`.

    Raises:
        JudgeError: there are too few good examples to split.
    """
    training, testing = split_for_training(seeds, config, run_seed)
    random = Random(request_seed(run_seed, "judge", "frozen"))
    random.shuffle(training)
    random.shuffle(testing)
    with loaded_model(base, device) as loaded:
        network = Network(loaded.model, None, loaded.tokenizer, device)
        closed = [task for task in training if len(task.output.split()) <= CLOSED_WORDS]
        answered = answered_tasks(
            loaded.model, loaded.tokenizer, closed[: config.on_policy_negatives], run_seed
        )
        wrong = {task.example: task.wrong for task in answered}
        groups = _groups(training, wrong, config.frozen_texts, run_seed)
        weight, bias = _fit(network, groups, config)
        judge = FrozenJudge(network, weight.to(device.name), bias.to(device.name), "in training")
        tested = len(_groups(testing, {}, config.frozen_texts // 4, run_seed))
        accuracies, examples = judge_accuracies(judge, testing[:tested], run_seed)
    card = judge_card(base, config, run_seed, answered, len(groups))
    card |= {"accuracies": list(map(vars, accuracies)), "held_out_examples": examples}
    heads = {"weight": weight, "bias": bias}
    write_heads(heads, out, card | {"backbone": config.backbone})
    return MeasuredJudge(accuracies, examples, judge_fingerprint(out))


def judge_quality(
    judge: Judge, seeds: Sequence[Example], config: JudgeConfig, run_seed: str
) -> JudgeQuality:
    """Measure a judge on held-out seeds: right answers, those of other seeds, and damaged ones."""
    _, testing = split_examples(seeds, config, run_seed)
    corruptor = Corruptor(testing)
    examples: list[QualityExample] = []
    for number, task in enumerate(testing[: config.frozen_texts // 16]):
        bad = [
            (sort, corruptor.first(task, kinds, f"{run_seed}/quality"))
            for sort, kinds in BAD.items()
        ]
        examples += task_examples(number, task, bad)
    return measure_judge(judge, examples, run_seed)


def _groups(
    sources: Sequence[Example], wrong: dict[Example, tuple[str, ...]], texts: int, run_seed: str
) -> list[Labelled]:
    """A good example and everything worse that is known of it, for as many as `texts` allow."""
    corruptor = Corruptor(sources)
    groups: list[Labelled] = []
    for source in sources:
        corrupted = corruptor.corruptions(source, run_seed)
        answers = wrong.get(source, ())[:OWN_ANSWERS]
        group: Labelled = [
            (source, GOOD),
            *((corruption.example, corruption.labels) for corruption in corrupted),
            *((with_output(source, answer), INCOHERENT) for answer in answers),
        ]
        if len(group) > 1:
            groups.append(group)
        texts -= len(group)
        if texts <= 0:
            break
    return groups


def _fit(
    network: Network, groups: Sequence[Labelled], config: JudgeConfig
) -> tuple[Tensor, Tensor]:
    """Weight (4, features) and bias (4,) of the outputs, float64 on the CPU."""
    import torch

    features = text_features(network, [text for group in groups for text, _ in group]).cpu()
    labels = [[labels for _, labels in group] for group in groups]
    weights = class_weights([labels_of for group in labels for labels_of in group])
    mean, deviation = features.mean(0), features.std(0)
    # A feature that hardly varies says nothing, and would be blown up.
    scale = torch.where(deviation > 1e-4, 1 / deviation.clamp(min=1e-4), 0.0)
    standard = (features - mean) * scale
    penalty = torch.full_like(mean, STATE_PENALTY)
    penalty[-(LIKELIHOODS + 2 * MARK_SHARES + 2) :] = OTHER_PENALTY
    weight = torch.zeros(len(OUTPUTS), len(mean), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(OUTPUTS), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weight, bias], max_iter=config.steps, line_search_fn="strong_wolfe"
    )
    with progress.task("fitting the judge's outputs", config.steps) as advance:

        def closure() -> Tensor:
            optimiser.zero_grad()
            loss = output_loss(standard @ weight.T + bias, labels, weights)
            loss = loss + (penalty * weight**2).sum() / 2
            loss.backward()
            advance(1, loss=loss.item())
            return loss

        loss = optimiser.step(closure)
    if not torch.isfinite(loss):
        raise JudgeError(
            f"the judge's loss is {loss.item()}",
            where="config field judge.backbone",
            fix="the base model's hidden states are not finite: try device.dtype float32",
        )
    with torch.no_grad():
        return (weight * scale).detach(), (bias - weight @ (mean * scale)).detach()
