"""The privacy audit: does a fine-tuned model reveal what it was fine-tuned on?

docs/privacy.md describes the method, the controls and what may be concluded. In short: each arm's
examples are split in two, the base model is fine-tuned on one half with the arm's config and as
many passes over each example as the arm took, and the attacks compare both halves. The models are
deleted. The pipeline's own models cannot be audited, because no comparable texts were held back
from them, and rows that a rule rejected differ from those that it kept. An arm with too few
examples is refused, with the reason in place of figures, and no model is trained for it.

**Split.** An example's side is drawn from the run seed and its instruction, before any training:

- a side does not depend on the other examples, so an edited or removed seed moves none of them;
- all instances of an instruction are on one side: a model that learned one knows the others;
- an instruction is on the same side in every arm that has it.

The scores of the bag-of-words control depend on one another, so its interval comes from a
permutation test (docs/privacy.md).
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
    """The classifier's result, with an interval from a permutation test.

    Raises:
        MembershipError: there are no members or no others.
    """
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
    """An arm as it was trained.

    Attributes:
        examples: its dataset.
        steps: optimiser steps.
        rows: how many of the examples were short enough to learn from.
    """

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
    """One audited model, or its refusal.

    Attributes:
        control: `none` or `over_fitted`.
        steps: optimiser steps, 0 where refused.
        training: None where refused.
        results: (control, result) in order; empty where refused.
        scores: of every example; empty where refused.
        refusal: why there are no figures; None where there are.
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
    with loaded_model(base, device) as loaded:
        halves = [_halves(loaded, arm, config, supervised, run_seed) for arm in arms]
    audits = []
    controlled = False
    for arm, half in zip(arms, halves, strict=True):
        if half.split.refusal:
            audits.append(Audit(arm.arm, NONE, half.split, 0, None, (), (), half.split.refusal))
            continue
        steps = max(1, round(arm.steps * len(half.split.members) / arm.rows))
        audits.append(
            _audit(base, arm.arm, NONE, half, steps, config, supervised, device, run_seed)
        )
        if not controlled:
            count = config.over_fitted_examples
            few_members = AuditSplit(half.split.members[:count], half.split.others)
            few = _Halves(few_members, half.members[:count], half.others)
            batches = math.ceil(len(few.split.members) / supervised.batch_size)
            steps = batches * config.over_fitted_epochs
            audits.append(
                _audit(base, arm.arm, OVER_FITTED, few, steps, config, supervised, device, run_seed)
            )
            controlled = True
    return audits


def _halves(
    loaded: LoadedModel,
    arm: AuditedArm,
    config: PrivacyConfig,
    supervised: SupervisedConfig,
    run_seed: str,
) -> _Halves:
    """Split an arm's examples and, where there are enough, read them with the base model."""
    fitting = [
        example
        for example in arm.examples
        if len(training_example(loaded.tokenizer, example.example)["input_ids"])
        <= supervised.max_tokens
    ]
    split = split_examples(fitting, config.max_examples, run_seed)
    if split.refusal:
        return _Halves(split, (), ())
    return _Halves(split, _read(loaded, split.members), _read(loaded, split.others))


def _audit(
    base: ModelRef,
    arm: str,
    control: str,
    halves: _Halves,
    steps: int,
    config: PrivacyConfig,
    supervised: SupervisedConfig,
    device: Device,
    run_seed: str,
) -> Audit:
    """Train a model on the members, read both halves with it, and attack it."""
    split = halves.split
    with tempfile.TemporaryDirectory(prefix="refine_audit_") as folder:
        out = Path(folder)
        examples = [member.example for member in split.members]
        training = fine_tune(
            base, examples, supervised, out, steps=steps, device=device, run_seed=run_seed
        )
        with loaded_model(with_adapter(base, out), device) as loaded:
            after = _read(loaded, split.members), _read(loaded, split.others)
    members = joined(_responses(split.members), after[0], halves.members)
    others = joined(_responses(split.others), after[1], halves.others)
    name = f"{run_seed}:{arm}:{control}"
    attacked = attack_results(
        members, others, samples=config.bootstrap_samples, run_seed=name, share=config.lowest_share
    )
    results = [(control, result) for result in attacked]
    if control == NONE:
        results += _negative_controls(halves, config, name)
    sides = ((split.members, members, True), (split.others, others, False))
    scores = [
        ExampleScores(example, member, attack_scores(response, config.lowest_share))
        for examples, responses, member in sides
        for example, response in zip(examples, responses, strict=True)
    ]
    return Audit(arm, control, split, steps, training, tuple(results), tuple(scores), None)


def _negative_controls(
    halves: _Halves, config: PrivacyConfig, run_seed: str
) -> list[tuple[str, AttackResult]]:
    """The attacks on the base model's likelihoods, and on the words alone."""
    split = halves.split
    base = attack_results(
        joined(_responses(split.members), halves.members, halves.members),
        joined(_responses(split.others), halves.others, halves.others),
        samples=config.bootstrap_samples,
        run_seed=run_seed,
        share=config.lowest_share,
    )
    bag_of_words = bag_of_words_result(
        [example.example.render() for example in split.members],
        [example.example.render() for example in split.others],
        run_seed=run_seed,
    )
    return [
        *((BASE_MODEL, result) for result in base if result.attack != NOT_FOR_THE_BASE_MODEL),
        (BAG_OF_WORDS, bag_of_words),
    ]


def _responses(examples: Sequence[AuditExample]) -> list[str]:
    """Outputs as the arms learn them: after `Output:` and a space."""
    return [f" {example.example.output}" for example in examples]


def _read(loaded: LoadedModel, examples: Sequence[AuditExample]) -> list[Likelihoods]:
    prompts = [zero_shot_prompt(row.example.instruction, row.example.input) for row in examples]
    return read_likelihoods(loaded, prompts, _responses(examples))
