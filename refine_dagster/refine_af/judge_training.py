"""Trains the offline judge on corruptions of good triples, and tests it on tasks it never saw.

Source tasks are split before anything is made of them: a task's corruptions are all for training
or all for testing, and wrong inputs and outputs are taken from tasks on the same side. A task's
side is decided by its own text alone, so adding a seed moves no other task across.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from refine_dagster import progress
from refine_dagster.device import Device
from refine_dagster.generation.request import request_seed
from refine_dagster.language_model import ModelRef, loaded_model
from refine_dagster.lineage.content import canonical_json
from refine_dagster.profile import JudgeKnobs
from refine_dagster.refine_af.corruptions import (
    DIMENSIONS,
    KINDS,
    Corruption,
    Corruptor,
)
from refine_dagster.refine_af.instance_prompt import Triple
from refine_dagster.refine_af.judge import TrainedJudge, judge_fingerprint
from refine_dagster.refine_af.judge_accuracy import JudgeAccuracy, judge_accuracies
from refine_dagster.refine_af.judge_network import (
    OUTPUTS,
    Encoded,
    JudgeError,
    Network,
    log_probabilities,
    new_heads,
    write_network,
)
from refine_dagster.training.primer import primer_tasks

# The corruptions that stand beside each good triple in training: one place for each, by group.
# Near misses are the hardest to tell and the commonest in what a policy writes.
PLACES = ("damage", "mismatch", "near_miss", "near_miss")
WARMUP_SHARE = 0.08
FINAL_RATE_SHARE = 0.05
WEIGHT_DECAY = 0.01
BETAS = (0.9, 0.98)
MAX_GRADIENT_NORM = 1.0
# Weight of the Bradley-Terry loss beside the sum of the three dimensions' losses.
PAIR_WEIGHT = 1.0
# Weight of the language modelling loss on the good triples, nats a token.
LANGUAGE_WEIGHT = 1.0
# Log-probabilities nearer to 0 than this count as this in the loss.
LEAST_DOUBT = -1e-6
# Groups of similar length are batched together within stretches of this many steps.
STRETCH_STEPS = 25


@dataclass(frozen=True)
class JudgeTraining:
    """What training gave; `fingerprint` is the one that `loaded_judge` gives the judge."""

    accuracies: list[JudgeAccuracy]
    held_out_examples: int
    fingerprint: str


@dataclass(frozen=True)
class _Example:
    """A triple with what is known of it, one label for each of `DIMENSIONS`."""

    encoded: Encoded
    labels: tuple[bool | None, ...]


_Group = list[_Example]


def train_judge(
    base: ModelRef,
    seeds: Sequence[Triple],
    knobs: JudgeKnobs,
    out: Path,
    device: Device,
    salt: str,
) -> JudgeTraining:
    """Train a judge and save it in the folder `out`, which then stands alone.

    Equal arguments on one machine give equal files. Weights are float32 whatever the device's
    dtype: scores are compared at six decimals.

    Args:
        base: the language model whose body is fine-tuned, and whose tokenizer is used.
        seeds: good triples, in any order; `knobs.primer_tasks` primer tasks are put beside them.
        salt: seeds every draw.

    Raises:
        JudgeError: there are too few good triples to train on some and test on others, or the
            loss is no longer a number.
    """
    primer = primer_tasks(knobs.primer_tasks, request_seed(salt, "judge", "primer"))
    good = sorted(
        {*seeds, *(task.triple for task in primer)},
        key=lambda triple: (triple.instruction, triple.input, triple.output),
    )
    testing = [triple for triple in good if is_held_out(triple, knobs.held_out_share, salt)]
    training = [triple for triple in good if not is_held_out(triple, knobs.held_out_share, salt)]
    if not training or not testing:
        raise JudgeError(
            f"{len(good)} good triples leave {len(training)} to train on and {len(testing)} to "
            "test on",
            where="knobs judge.primer_tasks and judge.held_out_share",
            fix="give more seeds, or raise judge.primer_tasks",
        )
    with loaded_model(base, replace(device, dtype="float32", quantization="none")) as loaded:
        heads = new_heads(loaded.model).to(device.name)
        network = Network(loaded.model, heads, loaded.tokenizer, device)
        _train(network, training, knobs, salt)
        judge = TrainedJudge(network, "in training")
        accuracies, examples = judge_accuracies(judge, testing, salt)
        card = {
            "accuracies": [vars(accuracy) for accuracy in accuracies],
            "base_fingerprint": base.fingerprint,
            "held_out_examples": examples,
            "knobs": knobs.model_dump(mode="json"),
            "outputs": list(OUTPUTS),
            "salt": salt,
            "training_tasks": len(training),
        }
        write_network(network, out, card)
    return JudgeTraining(accuracies, examples, judge_fingerprint(out))


def is_held_out(triple: Triple, share: float, salt: str) -> bool:
    """Whether a source task is only tested on; decided by its instruction and input alone."""
    text = canonical_json(["judge", "held_out", salt, triple.instruction, triple.input])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") < share * 2**64


def _train(network: Network, sources: list[Triple], knobs: JudgeKnobs, salt: str) -> None:
    import torch

    parameters = [*network.backbone.parameters(), *network.heads.parameters()]
    optimiser = torch.optim.AdamW(
        parameters, lr=knobs.learning_rate, betas=BETAS, weight_decay=WEIGHT_DECAY
    )
    batches = _batches(network, sources, knobs, salt)
    weights = _class_weights([group for batch in batches for group in batch])
    network.backbone.train()
    with progress.task("training the judge", len(batches)) as advance:
        for step, batch in enumerate(batches):
            rate = knobs.learning_rate * _rate_share(step, len(batches))
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


def _batches(
    network: Network, sources: list[Triple], knobs: JudgeKnobs, salt: str
) -> list[list[_Group]]:
    """`knobs.steps` batches of groups; each pass over the sources corrupts them anew."""
    random = Random(request_seed(salt, "judge", "batches"))
    corruptor = Corruptor(sources)
    groups_a_step = max(1, knobs.batch_size // (1 + len(PLACES)))
    wanted = knobs.steps * groups_a_step
    groups: list[_Group] = []
    epoch = 0
    while len(groups) < wanted:
        order = list(sources)
        random.shuffle(order)
        groups += [
            _group(network, corruptor, source, f"{salt}/{epoch}")
            for source in order[: wanted - len(groups)]
        ]
        epoch += 1
    batches: list[list[_Group]] = []
    for start in range(0, wanted, STRETCH_STEPS * groups_a_step):
        stretch = groups[start : start + STRETCH_STEPS * groups_a_step]
        stretch.sort(key=_length)
        made = [stretch[at : at + groups_a_step] for at in range(0, len(stretch), groups_a_step)]
        random.shuffle(made)
        batches += made
    return batches


def _group(network: Network, corruptor: Corruptor, source: Triple, salt: str) -> _Group:
    """The good triple and its corruptions, one for each of `PLACES` that a kind can fill."""
    random = Random(request_seed(salt, "group", source.instruction, source.input, source.output))
    kinds = list(KINDS)
    random.shuffle(kinds)
    chosen: dict[str, Corruption] = {}
    for place in PLACES:
        # Kinds of the place's own group first, any other where none of them applies.
        for kind in sorted(kinds, key=lambda name: KINDS[name].group != place):
            made = None if kind in chosen else corruptor.corrupt(source, kind, salt)
            if made is not None:
                chosen[kind] = made
                break
    return [
        _Example(network.encode(source), (True,) * len(DIMENSIONS)),
        *(_example(network, one) for one in chosen.values()),
    ]


def _example(network: Network, corruption: Corruption) -> _Example:
    labels = tuple(corruption.label(dimension) for dimension in DIMENSIONS)
    return _Example(network.encode(corruption.triple), labels)


def _length(group: _Group) -> int:
    return max(len(example.encoded.ids) for example in group)


def _class_weights(groups: list[_Group]) -> list[tuple[float, float]]:
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


def _loss(network: Network, batch: list[_Group], weights: list[tuple[float, float]]) -> Any:
    """Weighted cross-entropy of the dimensions, and the Bradley-Terry loss of two sorts of pairs.

    Within a group a good triple meets its own corruptions; this is what a policy is rewarded by.
    Across groups it meets those of other tasks, so that rewards of different tasks are on one
    scale, as the whitening of the reward's parts assumes.
    """
    import torch
    from torch.nn.functional import logsigmoid

    examples = [example for group in batch for example in group]
    reading = network.read([example.encoded for example in examples], max(map(_length, batch)))
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
