"""Trains the offline judge on good examples and worse ones, and tests it on other tasks.

Source tasks are split first, by a hash of a task's own text: a task's corruptions and the base
model's answers to it are all for training or all for testing, and wrong inputs and outputs come
from tasks on the same side.

A batch is made of groups: a good example and worse ones. Half of the groups hold rule-made
corruptions of any good example (`corruptions.py`), which teach what good text is; the other half
hold the base model's own answers to tasks with one right answer (`on_policy_negatives.py`), which
teach the errors of the policy that the judge is to reward.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

from refine_dagster import progress
from refine_dagster.config.learning import JudgeConfig
from refine_dagster.draws import falls_under
from refine_dagster.judge.corruptions import (
    GOOD,
    INCOHERENT,
    KINDS,
    Corruption,
    Corruptor,
    Labels,
)
from refine_dagster.judge.judge import TrainedJudge, judge_fingerprint
from refine_dagster.judge.network import (
    OUTPUTS,
    Encoded,
    JudgeError,
    Network,
    log_probabilities,
    new_heads,
    write_network,
)
from refine_dagster.judge.on_policy_negatives import (
    AnsweredTask,
    answered_tasks,
    own_tasks,
    wrong_answers,
)
from refine_dagster.judge.quality import MeasuredJudge, judge_accuracies
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import ModelRef, loaded_model
from refine_dagster.offline.base_model import cosine_share
from refine_dagster.offline.primer import primer_tasks
from refine_dagster.prompts.example import Example
from refine_dagster.seeding import request_seed

if TYPE_CHECKING:
    from torch import Tensor

# The group of each corruption in a training group. Near misses are the hardest to recognise and the
# most frequent in what a policy writes.
CORRUPTIONS = ("damage", "mismatch", "near_miss", "near_miss")
# Share of the training groups that hold the base model's answers; in such a group the number of its
# wrong answers to the task, the number of its answers to other tasks, and the corruptions.
OWN_SHARE = 0.5
OWN_ANSWERS = 2
OTHER_ANSWERS = 1
OWN_CORRUPTIONS = ("near_miss",)
# Groups of similar length are batched together within stretches of this many steps.
STRETCH_STEPS = 25


@dataclass(frozen=True)
class LabelledText:
    """An example in tokens, and what is known of it."""

    encoded: Encoded
    labels: Labels


Group = list[LabelledText]
T = TypeVar("T")


def training_batches(
    network: Network,
    sources: list[Example],
    answered: list[AnsweredTask],
    config: JudgeConfig,
    run_seed: str,
) -> list[list[Group]]:
    """`config.steps` batches of groups; each pass over the sources draws new corruptions.

    If there are answered tasks, `OWN_SHARE` of the groups are theirs.
    """
    random = Random(request_seed(run_seed, "judge", "batches"))
    corruptor = Corruptor(sources)
    groups_a_step = max(1, config.batch_size // (1 + len(CORRUPTIONS)))
    wanted = config.steps * groups_a_step
    of_answers = round(wanted * OWN_SHARE) if answered else 0
    groups = [
        _group(network, corruptor, source, f"{run_seed}/{epoch}")
        for epoch, source in _passes(sources, wanted - of_answers, random)
    ]
    groups += [
        _answer_group(network, corruptor, task, answered, f"{run_seed}/{epoch}")
        for epoch, task in _passes(answered, of_answers, random)
    ]
    random.shuffle(groups)
    batches: list[list[Group]] = []
    for start in range(0, wanted, STRETCH_STEPS * groups_a_step):
        stretch = groups[start : start + STRETCH_STEPS * groups_a_step]
        stretch.sort(key=group_length)
        made = [stretch[at : at + groups_a_step] for at in range(0, len(stretch), groups_a_step)]
        random.shuffle(made)
        batches += made
    return batches


def _passes(sources: Sequence[T], count: int, random: Random) -> list[tuple[int, T]]:
    """`count` sources with the number of their pass; each pass has all of them in a new order."""
    drawn: list[tuple[int, T]] = []
    epoch = 0
    while len(drawn) < count:
        order = list(sources)
        random.shuffle(order)
        drawn += [(epoch, source) for source in order[: count - len(drawn)]]
        epoch += 1
    return drawn


def _answer_group(
    network: Network,
    corruptor: Corruptor,
    answered: AnsweredTask,
    others: list[AnsweredTask],
    run_seed: str,
) -> Group:
    """The right answer, wrong answers of the model, and one corruption."""
    task = answered.example
    random = Random(request_seed(run_seed, "answers", *astuple(task)))
    wrong = wrong_answers(answered, others, OWN_ANSWERS, OTHER_ANSWERS, random)
    answers = [LabelledText(network.encode(example), INCOHERENT) for example in wrong]
    good, *corrupted = _group(network, corruptor, task, run_seed, OWN_CORRUPTIONS)
    return [good, *answers, *corrupted]


def _group(
    network: Network,
    corruptor: Corruptor,
    source: Example,
    run_seed: str,
    wanted: Sequence[str] = CORRUPTIONS,
) -> Group:
    """The good example and a corruption of each wanted group, or of another that applies."""
    random = Random(request_seed(run_seed, "group", *astuple(source)))
    kinds = list(KINDS)
    random.shuffle(kinds)
    chosen: dict[str, Corruption] = {}
    for group in wanted:
        for kind in sorted(kinds, key=lambda name: KINDS[name].group != group):
            corruption = None if kind in chosen else corruptor.corrupt(source, kind, run_seed)
            if corruption is not None:
                chosen[kind] = corruption
                break
    corrupted = [
        LabelledText(network.encode(corruption.example), corruption.labels)
        for corruption in chosen.values()
    ]
    return [LabelledText(network.encode(source), GOOD), *corrupted]


def group_length(group: Group) -> int:
    return max(len(example.encoded.ids) for example in group)


def class_weights(texts: Iterable[Labels]) -> list[tuple[float, float]]:
    """For each dimension the weights of harmed and good examples, which balance the classes."""
    weights = []
    for labels in zip(*texts, strict=True):
        known = sum(label is not None for label in labels)
        counts = [labels.count(wanted) for wanted in (False, True)]
        harmed, good = (known / (2 * count) if count else 0.0 for count in counts)
        weights.append((harmed, good))
    return weights


WARMUP_SHARE = 0.08
FINAL_RATE_SHARE = 0.05
WEIGHT_DECAY = 0.01
BETAS = (0.9, 0.98)
MAX_GRADIENT_NORM = 1.0
# Weight of the Bradley-Terry loss beside the sum of the three dimensions' losses.
PAIR_WEIGHT = 1.0
# Weight of the language modelling loss on the good examples, nats a token.
LANGUAGE_WEIGHT = 1.0
# Upper bound of log-probabilities in the loss, so that those of the complement are finite.
HIGHEST_LOG = -1e-6


def train_judge(
    base: ModelRef,
    seeds: Sequence[Example],
    config: JudgeConfig,
    out: Path,
    device: Device,
    run_seed: str,
) -> MeasuredJudge:
    """Train a judge on seeds and `config.primer_tasks` primer tasks; save it in folder `out`.

    Equal arguments on one machine give equal files. Weights are float32, as scores are compared at
    six decimals.

    Raises:
        JudgeError: there are too few good examples to split, or the loss is not finite.
    """
    training, testing = split_for_training(seeds, config, run_seed)
    with loaded_model(base, replace(device, dtype="float32", quantization="none")) as loaded:
        tasks = [
            task
            for task in own_tasks(config, run_seed)
            if not is_held_out(task, config.held_out_share, run_seed)
        ]
        answered = answered_tasks(loaded.model, loaded.tokenizer, tasks, run_seed)
        heads = new_heads(loaded.model).to(device.name)
        network = Network(loaded.model, heads, loaded.tokenizer, device)
        _train(network, training, answered, config, run_seed)
        judge = TrainedJudge(network, "in training")
        accuracies, examples = judge_accuracies(judge, testing, run_seed)
        made_from = judge_card(base, config, run_seed, answered, len(training))
        tested = {"accuracies": list(map(vars, accuracies)), "held_out_examples": examples}
        write_network(network, out, made_from | tested)
    return MeasuredJudge(accuracies, examples, judge_fingerprint(out))


def judge_card(
    base: ModelRef,
    config: JudgeConfig,
    run_seed: str,
    answered: Sequence[AnsweredTask],
    training_tasks: int,
) -> dict[str, Any]:
    """What a judge's folder says it was made from; the names stand as they were first written."""
    return {
        "answered_tasks": len(answered),
        "answers_right": sum(task.right for task in answered),
        "base_fingerprint": base.fingerprint,
        "knobs": config.model_dump(mode="json", by_alias=True),
        "outputs": list(OUTPUTS),
        "salt": run_seed,
        "training_tasks": training_tasks,
    }


def split_examples(
    seeds: Iterable[Example], config: JudgeConfig, run_seed: str
) -> tuple[list[Example], list[Example]]:
    """Seeds and primer tasks to train on, and those to test on, in the order of their texts."""
    primer = primer_tasks(config.primer_tasks, request_seed(run_seed, "judge", "primer"))
    sides: tuple[list[Example], list[Example]] = [], []
    for example in sorted({*seeds, *(task.example for task in primer)}, key=astuple):
        sides[is_held_out(example, config.held_out_share, run_seed)].append(example)
    return sides


def split_for_training(
    seeds: Iterable[Example], config: JudgeConfig, run_seed: str
) -> tuple[list[Example], list[Example]]:
    """`split_examples`, with at least one example on both sides.

    Raises:
        JudgeError: there are too few good examples.
    """
    training, testing = split_examples(seeds, config, run_seed)
    if not training or not testing:
        raise JudgeError(
            f"of {len(training) + len(testing)} good examples {len(training)} are for training and "
            f"{len(testing)} for testing",
            where="config fields judge.primer_tasks and judge.held_out_share",
            fix="give more seeds, or raise judge.primer_tasks",
        )
    return training, testing


def is_held_out(example: Example, share: float, run_seed: str) -> bool:
    """Whether a source task is only for testing, by a hash of its instruction and input."""
    return falls_under(share, "judge", "held_out", run_seed, example.instruction, example.input)


def _train(
    network: Network,
    sources: list[Example],
    answered: list[AnsweredTask],
    config: JudgeConfig,
    run_seed: str,
) -> None:
    import torch

    assert network.heads is not None
    parameters = [*network.backbone.parameters(), *network.heads.parameters()]
    optimiser = torch.optim.AdamW(
        parameters, lr=config.learning_rate, betas=BETAS, weight_decay=WEIGHT_DECAY
    )
    batches = training_batches(network, sources, answered, config, run_seed)
    weights = class_weights(
        example.labels for batch in batches for group in batch for example in group
    )
    network.backbone.train()
    with progress.task("training the judge", len(batches)) as advance:
        for step, batch in enumerate(batches):
            rate = config.learning_rate * cosine_share(
                step, len(batches), warmup=WARMUP_SHARE, final=FINAL_RATE_SHARE
            )
            for group in optimiser.param_groups:
                group["lr"] = rate
            loss = _loss(network, batch, weights)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
            optimiser.step()
            value = loss.item()
            if not math.isfinite(value):
                raise JudgeError(
                    f"the judge's loss is {value} at step {step + 1}",
                    where="config field judge.learning_rate",
                    fix="lower it",
                )
            advance(1, loss=value)
    network.backbone.eval()


def _weights(labels: Labels, weights: list[tuple[float, float]]) -> list[float]:
    return [
        0.0 if label is None else pair[label] for label, pair in zip(labels, weights, strict=True)
    ]


def _loss(network: Network, batch: list[Group], weights: list[tuple[float, float]]) -> Tensor:
    """The loss of the outputs, and the language modelling loss on the good examples."""
    import torch

    texts = [example.encoded for group in batch for example in group]
    reading = network.read(texts, max(map(group_length, batch)))
    starts = accumulate((len(group) for group in batch[:-1]), initial=0)
    likelihoods = [reading.log_likelihood[start] for start in starts]
    outputs = output_loss(reading.raw, [[e.labels for e in group] for group in batch], weights)
    return outputs - LANGUAGE_WEIGHT * torch.stack(likelihoods).mean()


def output_loss(
    raw: Tensor, groups: Sequence[Sequence[Labels]], weights: list[tuple[float, float]]
) -> Tensor:
    """Cross-entropy of the dimensions, and Bradley-Terry loss of pairs.

    Pairs within a group compare a good example with its own corruptions, as a policy's answers to
    one task are compared. Pairs across groups bring the rewards of different tasks to one scale,
    which the whitening of reward parts assumes.

    Args:
        raw: shape (rows, 4), the outputs for all texts, group by group.
        groups: the labels of the texts; the first of a group is the good example.
    """
    import torch
    from torch.nn.functional import logsigmoid

    rows = [labels for group in groups for labels in group]
    targets = torch.tensor([[bool(label) for label in labels] for labels in rows]).to(raw.device)
    known = torch.tensor([_weights(labels, weights) for labels in rows]).to(raw.device)
    logs = log_probabilities(raw)
    log_complements = torch.log(-torch.expm1(logs.clamp(max=HIGHEST_LOG)))
    cross_entropy = -(known * torch.where(targets, logs, log_complements)).sum()
    own_pairs, best, worse = [], [], []
    start = 0
    for group in groups:
        rewards = raw[start : start + len(group), -1]
        own_pairs.append(-logsigmoid(rewards[0] - rewards[1:]))
        best.append(rewards[0])
        worse.append(rewards[1:])
        start += len(group)
    all_pairs = -logsigmoid(torch.stack(best)[:, None] - torch.cat(worse)[None, :])
    pairs = (torch.cat(own_pairs).mean() + all_pairs.mean()) / 2
    return cross_entropy / len(rows) + PAIR_WEIGHT * pairs
