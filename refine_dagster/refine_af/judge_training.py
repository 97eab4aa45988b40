"""Trains the offline judge on good triples and worse ones, and tests it on tasks it never saw.

Source tasks are split before anything is made of them: a task's corruptions and the base model's
answers to it are all for training or all for testing, and wrong inputs and outputs are taken from
tasks on the same side. A task's side is decided by its own text alone, so adding a seed moves no
other task across.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from refine_dagster import progress
from refine_dagster.device import Device
from refine_dagster.generation.request import request_seed
from refine_dagster.knobs import JudgeKnobs
from refine_dagster.language_model import ModelRef, loaded_model
from refine_dagster.lineage.content import canonical_json
from refine_dagster.refine_af.instance_prompt import Triple
from refine_dagster.refine_af.judge import TrainedJudge, judge_fingerprint
from refine_dagster.refine_af.judge_accuracy import JudgeAccuracy, judge_accuracies
from refine_dagster.refine_af.judge_batches import (
    Group,
    class_weights,
    group_length,
    training_batches,
)
from refine_dagster.refine_af.judge_network import (
    OUTPUTS,
    JudgeError,
    Network,
    log_probabilities,
    new_heads,
    write_network,
)
from refine_dagster.refine_af.own_answers import (
    AnsweredTask,
    answered_tasks,
    own_tasks,
)
from refine_dagster.training.primer import primer_tasks

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


@dataclass(frozen=True)
class JudgeTraining:
    """What training gave; `fingerprint` is the one that `loaded_judge` gives the judge."""

    accuracies: list[JudgeAccuracy]
    held_out_examples: int
    fingerprint: str


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
        asked = [
            task
            for task in own_tasks(knobs, salt)
            if not is_held_out(task, knobs.held_out_share, salt)
        ]
        answered = answered_tasks(loaded.model, loaded.tokenizer, asked, salt)
        heads = new_heads(loaded.model).to(device.name)
        network = Network(loaded.model, heads, loaded.tokenizer, device)
        _train(network, training, answered, knobs, salt)
        judge = TrainedJudge(network, "in training")
        accuracies, examples = judge_accuracies(judge, testing, salt)
        card = {
            "accuracies": [vars(accuracy) for accuracy in accuracies],
            "answered_tasks": len(answered),
            "answers_right": sum(one.right for one in answered),
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


def _train(
    network: Network,
    sources: list[Triple],
    answered: list[AnsweredTask],
    knobs: JudgeKnobs,
    salt: str,
) -> None:
    import torch

    parameters = [*network.backbone.parameters(), *network.heads.parameters()]
    optimiser = torch.optim.AdamW(
        parameters, lr=knobs.learning_rate, betas=BETAS, weight_decay=WEIGHT_DECAY
    )
    batches = training_batches(network, sources, answered, knobs, salt)
    weights = class_weights([group for batch in batches for group in batch])
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


def _loss(network: Network, batch: list[Group], weights: list[tuple[float, float]]) -> Any:
    """Weighted cross-entropy of the dimensions, and the Bradley-Terry loss of two sorts of pairs.

    Within a group a good triple meets its own corruptions; this is what a policy is rewarded by.
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
