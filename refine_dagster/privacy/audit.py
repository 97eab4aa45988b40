"""The privacy audit: does a fine-tuned model reveal what it was fine-tuned on?

docs/privacy.md describes the method, the controls and what may be concluded. In short: each arm's
examples are split in two, the base model is fine-tuned on one half with the arm's config and as
many passes over each example as the arm took, and the attacks compare both halves. The models are
deleted. An arm with too few examples is refused.

An example's side is drawn from the run seed and its instruction. So it does not depend on the other
examples, all instances of an instruction are on one side (a model that learned one knows the
others), and that side is the same in every arm.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist

import numpy as np

from refine_dagster.config.learning import PrivacyConfig, SupervisedConfig
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import LoadedModel, ModelRef, loaded_model, with_adapter
from refine_dagster.privacy.attacks import (
    AttackResult,
    Likelihoods,
    TokenLikelihoods,
    attack_result,
    attack_results,
    attack_scores,
    bag_of_words_scores,
    joined,
    read_likelihoods,
)
from refine_dagster.prompts.example import Example, zero_shot_prompt
from refine_dagster.seeding import request_seed
from refine_dagster.statistics import COVERAGE, auc
from refine_dagster.training.sft import SupervisedTraining, fine_tune, training_example
from refine_dagster.warehouse.rows import Row

NONE, BASE_MODEL, BAG_OF_WORDS, OVER_FITTED = "none", "base_model", "bag_of_words", "over_fitted"
CONTROLS = (NONE, BASE_MODEL, BAG_OF_WORDS, OVER_FITTED)
# Its score of the base model is the same for every text.
NOT_FOR_THE_BASE_MODEL = "calibrated"
# Permutations of the sides: enough to know their spread to a tenth.
PERMUTATIONS = 60
# Under this many examples a side, an AUC's interval would be half a unit wide.
LEAST_A_SIDE = 20


def bag_of_words_result(
    members: Sequence[str], others: Sequence[str], *, run_seed: str
) -> AttackResult:
    """The classifier's result, with an interval from a permutation test (docs/privacy.md)."""
    ours, theirs = bag_of_words_scores(members, others, run_seed=run_seed)
    result = attack_result(BAG_OF_WORDS, ours, theirs, samples=1, run_seed=run_seed)
    texts = np.array([*members, *others], dtype=object)
    random = np.random.default_rng(request_seed(run_seed, "deals", BAG_OF_WORDS))
    aucs = []
    for _ in range(PERMUTATIONS):
        shuffled = random.permutation(texts).tolist()
        sides = shuffled[: len(members)], shuffled[len(members) :]
        aucs.append(auc(*bag_of_words_scores(*sides, run_seed=run_seed)))
    reach = NormalDist().inv_cdf((1 + COVERAGE) / 2) * float(np.std(aucs))
    low, high = max(0.0, result.auc - reach), min(1.0, result.auc + reach)
    return replace(result, auc_low=low, auc_high=high)


@dataclass(frozen=True)
class AuditExample:
    """An example that an arm learns from; `row_id` names it in the warehouse."""

    row_id: str
    example: Example


@dataclass(frozen=True)
class AuditSplit:
    """The examples that the audited model is trained on, and those that it never sees."""

    members: tuple[AuditExample, ...]
    others: tuple[AuditExample, ...]

    @property
    def refusal(self) -> str | None:
        """Why the split is too small to measure membership; None where it is not."""
        if min(len(self.members), len(self.others)) >= LEAST_A_SIDE:
            return None
        return (
            f"{len(self.members)} members and {len(self.others)} non-members, "
            f"at least {LEAST_A_SIDE} of each are needed"
        )


def is_member(instruction: str, run_seed: str) -> bool:
    """Whether an audited model is trained on an instruction's instances; true for half of all."""
    return request_seed(run_seed, "privacy", "side", instruction) % 2 == 0


def split_examples(examples: Iterable[AuditExample], most: int, run_seed: str) -> AuditSplit:
    """Split the examples; the result does not depend on their order or ids.

    Args:
        most: examples kept in all, half on each side, drawn by hash.
    """

    def rank(example: AuditExample) -> tuple[int, str]:
        text = example.example.render()
        return request_seed(run_seed, "privacy", "order", text), text

    sides: dict[bool, list[AuditExample]] = {True: [], False: []}
    for example in sorted(examples, key=rank):
        sides[is_member(example.example.instruction, run_seed)].append(example)
    return AuditSplit(tuple(sides[True][: most // 2]), tuple(sides[False][: most // 2]))


@dataclass(frozen=True)
class AuditedArm:
    """An arm as it was trained: on `rows` of the examples, which were short enough."""

    arm: str
    examples: Sequence[AuditExample]
    steps: int
    rows: int

    @classmethod
    def of(cls, rows: Sequence[Row], model: Row) -> AuditedArm:
        """The arm of a model's row, which learnt from `rows`."""
        examples = [AuditExample(row["row_id"], Example.of(row)) for row in rows]
        return cls(model["arm"], examples, model["steps"], model["rows"])


@dataclass(frozen=True)
class ExampleScores:
    """Every attack's score of one example, higher for members where the attack works."""

    example: AuditExample
    member: bool
    scores: dict[str, float]


@dataclass(frozen=True)
class Audit:
    """One audited model, or the reason why it was refused, without training and figures.

    Attributes:
        control: `none` or `over_fitted`.
        steps: optimiser steps, 0 where refused.
        results: (control, result) in order.
    """

    arm: str
    control: str
    split: AuditSplit
    steps: int
    training: SupervisedTraining | None
    results: tuple[tuple[str, AttackResult], ...]
    scores: tuple[ExampleScores, ...]
    refusal: str | None


@dataclass(frozen=True)
class _Halves:
    """An arm's split with its likelihoods under the base model."""

    split: AuditSplit
    members: Sequence[Likelihoods]
    others: Sequence[Likelihoods]


def audit_arms(
    base: ModelRef,
    arms: Sequence[AuditedArm],
    config: PrivacyConfig,
    supervised: SupervisedConfig,
    device: Device,
    run_seed: str,
) -> list[Audit]:
    """Audit every arm, in order, and an over-fitted control of the first that is not refused.

    Equal arguments on one machine give equal figures; the order of examples does not count.

    Args:
        base: the model that the arms were fine-tuned from.
        supervised: the config of that fine-tuning; examples that are too long for it are left out.
        run_seed: seeds split, training and resampling.

    Raises:
        TrainingError: the loss of an audited model is no longer a number.
    """
    auditor = _Auditor(base, config, supervised, device, run_seed)
    with loaded_model(base, device) as loaded:
        halves = [auditor.read_halves(loaded, arm.examples) for arm in arms]
    audits: list[Audit] = []
    for arm, half in zip(arms, halves, strict=True):
        if half.split.refusal:
            audits.append(Audit(arm.arm, NONE, half.split, 0, None, (), (), half.split.refusal))
            continue
        steps = max(1, round(arm.steps * len(half.split.members) / arm.rows))
        audits.append(auditor.audit(arm.arm, NONE, half, steps))
        if not any(audit.control == OVER_FITTED for audit in audits):
            count = config.over_fitted_examples
            few_members = AuditSplit(half.split.members[:count], half.split.others)
            few = _Halves(few_members, half.members[:count], half.others)
            batches = math.ceil(len(few.split.members) / supervised.batch_size)
            steps = batches * config.over_fitted_epochs
            audits.append(auditor.audit(arm.arm, OVER_FITTED, few, steps))
    return audits


@dataclass(frozen=True)
class _Auditor:
    base: ModelRef
    config: PrivacyConfig
    supervised: SupervisedConfig
    device: Device
    run_seed: str

    def read_halves(self, loaded: LoadedModel, examples: Sequence[AuditExample]) -> _Halves:
        """Split the examples and, where there are enough, read them with the base model."""
        fitting = [
            example
            for example in examples
            if len(training_example(loaded.tokenizer, example.example)["input_ids"])
            <= self.supervised.max_tokens
        ]
        split = split_examples(fitting, self.config.max_examples, self.run_seed)
        if split.refusal:
            return _Halves(split, (), ())
        return _Halves(split, _read(loaded, split.members), _read(loaded, split.others))

    def audit(self, arm: str, control: str, halves: _Halves, steps: int) -> Audit:
        """Train a model on the members, read both halves with it, and attack it."""
        split, seed = halves.split, f"{self.run_seed}:{arm}:{control}"
        with tempfile.TemporaryDirectory(prefix="refine_audit_") as folder:
            training = fine_tune(
                self.base,
                [member.example for member in split.members],
                self.supervised,
                Path(folder),
                steps=steps,
                device=self.device,
                run_seed=self.run_seed,
            )
            with loaded_model(with_adapter(self.base, Path(folder)), self.device) as loaded:
                after = _read(loaded, split.members), _read(loaded, split.others)
        members = joined(_responses(split.members), after[0], halves.members)
        others = joined(_responses(split.others), after[1], halves.others)
        results = [(control, result) for result in self._attack(members, others, seed)]
        if control == NONE:
            results += self._negative_controls(halves, seed)
        sides = ((split.members, members, True), (split.others, others, False))
        scores = [
            ExampleScores(example, member, attack_scores(response, self.config.lowest_share))
            for examples, responses, member in sides
            for example, response in zip(examples, responses, strict=True)
        ]
        return Audit(arm, control, split, steps, training, tuple(results), tuple(scores), None)

    def _attack(
        self, members: list[TokenLikelihoods], others: list[TokenLikelihoods], seed: str
    ) -> list[AttackResult]:
        samples, share = self.config.bootstrap_samples, self.config.lowest_share
        return attack_results(members, others, samples=samples, run_seed=seed, share=share)

    def _negative_controls(self, halves: _Halves, seed: str) -> list[tuple[str, AttackResult]]:
        """The attacks on the base model's likelihoods, and on the words alone."""
        split = halves.split
        base = self._attack(
            joined(_responses(split.members), halves.members, halves.members),
            joined(_responses(split.others), halves.others, halves.others),
            seed,
        )
        members, others = (
            [example.example.render() for example in side] for side in (split.members, split.others)
        )
        return [
            *((BASE_MODEL, result) for result in base if result.attack != NOT_FOR_THE_BASE_MODEL),
            (BAG_OF_WORDS, bag_of_words_result(members, others, run_seed=seed)),
        ]


def _responses(examples: Sequence[AuditExample]) -> list[str]:
    """Outputs as the arms learn them: after `Output:` and a space."""
    return [f" {example.example.output}" for example in examples]


def _read(loaded: LoadedModel, examples: Sequence[AuditExample]) -> list[Likelihoods]:
    prompts = [zero_shot_prompt(row.example.instruction, row.example.input) for row in examples]
    return read_likelihoods(loaded, prompts, _responses(examples))
