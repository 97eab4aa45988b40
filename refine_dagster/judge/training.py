"""Trains the offline judge on good examples and worse ones, and tests it on tasks it never saw.

Source tasks are split before anything is made of them: a task's corruptions and the base model's
answers to it are all for training or all for testing, and wrong inputs and outputs are taken from
tasks on the same side. A task's side is decided by its own text alone, so adding a seed moves no
other task across.

What the offline judge is trained on, batch by batch: groups of a good example and worse ones.

Half of the groups hold rule-made corruptions of any good example (`corruptions.py`), half what the
base model itself says to tasks with one right answer (`on_policy_negatives.py`). The first teach
what good text is, whoever writes it; the second, how the writer goes wrong whom the judge is to
reward.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from refine_dagster import progress
from refine_dagster.config.learning import JudgeConfig
from refine_dagster.draws import falls_under
from refine_dagster.judge.corruptions import DIMENSIONS, KINDS, Corruption, Corruptor
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
from refine_dagster.judge.quality import JudgeAccuracy, judge_accuracies
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import ModelRef, loaded_model
from refine_dagster.offline.primer import primer_tasks
from refine_dagster.prompts.example import Example
from refine_dagster.seeding import request_seed

# The corruptions that stand beside each good example in training: one place for each, by group.
# Near misses are the hardest to tell and the commonest in what a policy writes.
PLACES = ("damage", "mismatch", "near_miss", "near_miss")
# Share of the groups that are of tasks which the base model has answered; the places in such a
# group for its wrong answers to the task, for its answers to other tasks, and for corruptions.
OWN_SHARE = 0.5
OWN_PLACES = 2
STRANGE_PLACES = 1
OWN_CORRUPTIONS = ("near_miss",)
# Groups of similar length are batched together within stretches of this many steps.
STRETCH_STEPS = 25


@dataclass(frozen=True)
class LabelledText:
    """An example with what is known of it, one label for each of `DIMENSIONS`."""

    encoded: Encoded
    labels: tuple[bool | None, ...]


Group = list[LabelledText]
T = TypeVar("T")


def training_batches(
    network: Network,
    sources: list[Example],
    answered: list[AnsweredTask],
    config: JudgeConfig,
    run_seed: str,
) -> list[list[Group]]:
    """`config.steps` batches of groups; each pass over the sources corrupts them anew.

    Where the model has answered tasks, they are the source of `OWN_SHARE` of the groups.
    """
    random = Random(request_seed(run_seed, "judge", "batches"))
    corruptor = Corruptor(sources)
    groups_a_step = max(1, config.batch_size // (1 + len(PLACES)))
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
    """The right answer, whether or not the model found it, its wrong ones, and one corruption.

    What the model writes may be fluent or not, so only coherence is known of its answers.
    """
    task = answered.example
    random = Random(request_seed(run_seed, "answers", task.instruction, task.input, task.output))
    wrong = wrong_answers(answered, others, OWN_PLACES, STRANGE_PLACES, random)
    labels = tuple(False if dimension == "coherence" else None for dimension in DIMENSIONS)
    good, *corrupted = _group(network, corruptor, task, run_seed, OWN_CORRUPTIONS)
    return [good, *(LabelledText(network.encode(one), labels) for one in wrong), *corrupted]


def _group(
    network: Network,
    corruptor: Corruptor,
    source: Example,
    run_seed: str,
    places: Sequence[str] = PLACES,
) -> Group:
    """The good example and its corruptions, one for each of `places` that a kind can fill."""
    random = Random(
        request_seed(run_seed, "group", source.instruction, source.input, source.output)
    )
    kinds = list(KINDS)
    random.shuffle(kinds)
    chosen: dict[str, Corruption] = {}
    for place in places:
        # Kinds of the place's own group first, any other where none of them applies.
        for kind in sorted(kinds, key=lambda name: KINDS[name].group != place):
            made = None if kind in chosen else corruptor.corrupt(source, kind, run_seed)
            if made is not None:
                chosen[kind] = made
                break
    return [
        LabelledText(network.encode(source), (True,) * len(DIMENSIONS)),
        *(_example(network, one) for one in chosen.values()),
    ]


def _example(network: Network, corruption: Corruption) -> LabelledText:
    labels = tuple(corruption.label(dimension) for dimension in DIMENSIONS)
    return LabelledText(network.encode(corruption.example), labels)


def group_length(group: Group) -> int:
    """Tokens of the group's longest text."""
    return max(len(example.encoded.ids) for example in group)


def class_weights(groups: list[Group]) -> list[tuple[float, float]]:
    """For each dimension the weight of a harmed and of a good example; both classes then weigh one
    half, so that one half is where the probability decides.
    """
    weights = []
    for place in range(len(DIMENSIONS)):
        labels = [example.labels[place] for group in groups for example in group]
        known = sum(label is not None for label in labels)
        counts = [sum(label is wanted for label in labels) for wanted in (False, True)]
        harmed, whole = (known / (2 * count) if count else 0.0 for count in counts)
        weights.append((harmed, whole))
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
# Log-probabilities nearer to 0 than this count as this in the loss.
LEAST_DOUBT = -1e-6


@dataclass(frozen=True)
class JudgeTraining:
    """What training gave; `fingerprint` is the one that `loaded_judge` gives the judge."""

    accuracies: list[JudgeAccuracy]
    held_out_examples: int
    fingerprint: str


def train_judge(
    base: ModelRef,
    seeds: Sequence[Example],
    config: JudgeConfig,
    out: Path,
    device: Device,
    run_seed: str,
) -> JudgeTraining:
    """Train a judge and save it in the folder `out`, which then stands alone.

    Equal arguments on one machine give equal files. Weights are float32 whatever the device's
    dtype: scores are compared at six decimals.

    Args:
        base: the language model whose body is fine-tuned, and whose tokenizer is used.
        seeds: good examples, in any order; `config.primer_tasks` primer tasks are put beside them.
        run seed: seeds every draw.

    Raises:
        JudgeError: there are too few good examples to train on some and test on others, or the
            loss is no longer a number.
    """
    primer = primer_tasks(config.primer_tasks, request_seed(run_seed, "judge", "primer"))
    good = sorted(
        {*seeds, *(task.example for task in primer)},
        key=lambda example: (example.instruction, example.input, example.output),
    )
    testing = [example for example in good if is_held_out(example, config.held_out_share, run_seed)]
    training = [
        example for example in good if not is_held_out(example, config.held_out_share, run_seed)
    ]
    if not training or not testing:
        raise JudgeError(
            f"{len(good)} good triples leave {len(training)} to train on and {len(testing)} to "
            "test on",
            where="knobs judge.primer_tasks and judge.held_out_share",
            fix="give more seeds, or raise judge.primer_tasks",
        )
    with loaded_model(base, replace(device, dtype="float32", quantization="none")) as loaded:
        asked = [
            task
            for task in own_tasks(config, run_seed)
            if not is_held_out(task, config.held_out_share, run_seed)
        ]
        answered = answered_tasks(loaded.model, loaded.tokenizer, asked, run_seed)
        heads = new_heads(loaded.model).to(device.name)
        network = Network(loaded.model, heads, loaded.tokenizer, device)
        _train(network, training, answered, config, run_seed)
        judge = TrainedJudge(network, "in training")
        accuracies, examples = judge_accuracies(judge, testing, run_seed)
        card = {
            "accuracies": [vars(accuracy) for accuracy in accuracies],
            "answered_tasks": len(answered),
            "answers_right": sum(one.right for one in answered),
            "base_fingerprint": base.fingerprint,
            "held_out_examples": examples,
            "knobs": config.model_dump(mode="json", by_alias=True),
            "outputs": list(OUTPUTS),
            "salt": run_seed,
            "training_tasks": len(training),
        }
        write_network(network, out, card)
    return JudgeTraining(accuracies, examples, judge_fingerprint(out))


def is_held_out(example: Example, share: float, run_seed: str) -> bool:
    """Whether a source task is only tested on; decided by its instruction and input alone."""
    return falls_under(share, "judge", "held_out", run_seed, example.instruction, example.input)


def _train(
    network: Network,
    sources: list[Example],
    answered: list[AnsweredTask],
    config: JudgeConfig,
    run_seed: str,
) -> None:
    import torch

    parameters = [*network.backbone.parameters(), *network.heads.parameters()]
    optimiser = torch.optim.AdamW(
        parameters, lr=config.learning_rate, betas=BETAS, weight_decay=WEIGHT_DECAY
    )
    batches = training_batches(network, sources, answered, config, run_seed)
    weights = class_weights([group for batch in batches for group in batch])
    network.backbone.train()
    with progress.task("training the judge", len(batches)) as advance:
        for step, batch in enumerate(batches):
            rate = config.learning_rate * _rate_share(step, len(batches))
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
                    where="knob judge.learning_rate",
                    fix="lower it",
                )
            advance(1, loss=value)
    network.backbone.eval()


def _loss(network: Network, batch: list[Group], weights: list[tuple[float, float]]) -> Any:
    """Weighted cross-entropy of the dimensions, and the Bradley-Terry loss of two sorts of pairs.

    Within a group a good example meets its own corruptions; this is what a policy is rewarded by.
    Across groups it meets those of other tasks, so that rewards of different tasks are on one
    scale, as the whitening of the reward's parts assumes.
    """
    import torch
    from torch.nn.functional import logsigmoid

    examples = [example for group in batch for example in group]
    reading = network.read([example.encoded for example in examples], max(map(group_length, batch)))
    raw = reading.raw
    targets = torch.tensor([[bool(label) for label in example.labels] for example in examples]).to(
        raw.device
    )
    known = torch.tensor(
        [
            [
                0.0 if label is None else pair[label]
                for label, pair in zip(row, weights, strict=True)
            ]
            for row in (example.labels for example in examples)
        ]
    ).to(raw.device)
    logs = log_probabilities(raw)
    against = torch.log(-torch.expm1(logs.clamp(max=LEAST_DOUBT)))
    losses = -(known * torch.where(targets, logs, against)).sum()
    pairs = []
    good = []
    best = []
    worse = []
    start = 0
    for group in batch:
        rewards = raw[start : start + len(group), -1]
        good.append(reading.log_likelihood[start])
        pairs.append(-logsigmoid(rewards[0] - rewards[1:]))
        best.append(rewards[0])
        worse.append(rewards[1:])
        start += len(group)
    across = -logsigmoid(torch.stack(best)[:, None] - torch.cat(worse)[None, :])
    return (
        losses / len(examples)
        + PAIR_WEIGHT * (torch.cat(pairs).mean() + across.mean()) / 2
        - LANGUAGE_WEIGHT * torch.stack(good).mean()
    )


def _rate_share(step: int, steps: int) -> float:
    """Linear warm-up to 1, then half a cosine down to `FINAL_RATE_SHARE`."""
    warmup = max(1, round(steps * WARMUP_SHARE))
    if step < warmup:
        return (step + 1) / warmup
    way = (step - warmup) / max(1, steps - warmup)
    return FINAL_RATE_SHARE + (1 - FINAL_RATE_SHARE) * (1 + math.cos(math.pi * way)) / 2
