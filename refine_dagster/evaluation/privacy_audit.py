"""The privacy audit: whether a fine-tuned model tells what it was fine-tuned on.

**What is asked.** Somebody has the model and a text, an instruction with its answer, and wants to
know whether the text was among those that the model was fine-tuned on. The attacks are those of
`membership`; each is asked of every arm, so that an arm that learns from seeds can be held against
one that learns from what a model wrote.

**Whose models.** An attack is measured on texts that were trained on (members) beside texts of the
same kind that were not (non-members), and the pipeline's own models have none of the latter: an
arm learns all its rows, and rows that a rule rejected differ from those it kept. To hold rows back
from the pipeline would cost every user a share of the data, for the sake of a report. So the audit
trains models of its own: each arm's examples are parted by `privacy_split`, and the base model is
fine-tuned on one half with the arm's own knobs and as many passes over each example as the arm
took. These models are read and thrown away. All three arms together take half of the steps that
the arms took, and `privacy.max_examples` bounds that for large datasets.

**What that measures.** The arm's way of training, on half of its data. A model trained on fewer
examples knows each of them better, so the figures lean towards too much leakage rather than too
little. They are about fine-tuning alone: a base model that has read the seeds (the offline one,
unless `base_model.learn_seeds` is off) has read those of both halves. And a member of the arm
`refine_af` is a row that a model wrote: what it gives away is the dataset, not the seeds behind it.

**Controls.** Three, without which no figure means anything:

- `base_model`: the same attacks on the model before fine-tuning, which cannot know its members.
  Calibration would compare that model with itself, so that attack has no such control;
- `bag_of_words`: a classifier that reads the texts and no model. Where it succeeds, the two halves
  differ by themselves;
- `over_fitted`: a model that has read a few examples of one arm over and over, whose members the
  attack `loss` must find. An attack that cannot find those is too weak for its AUC of 0.5 elsewhere
  to say anything.

An arm with too few examples on a side is refused, with the reason in place of figures, and nothing
is trained for it.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from refine_dagster.device import Device
from refine_dagster.evaluation.membership import (
    AttackResult,
    TokenLikelihoods,
    attack_results,
    attack_scores,
)
from refine_dagster.evaluation.privacy_split import AuditSplit, Example, split_examples
from refine_dagster.evaluation.super_ni import zero_shot_prompt
from refine_dagster.evaluation.text_control import BAG_OF_WORDS, bag_of_words_result
from refine_dagster.evaluation.token_likelihoods import Likelihoods, joined, read_likelihoods
from refine_dagster.knobs import PrivacyKnobs, SupervisedKnobs
from refine_dagster.language_model import LoadedModel, ModelRef, loaded_model, with_adapter
from refine_dagster.training.supervised import (
    SupervisedTraining,
    train_supervised,
    training_example,
)

NONE, BASE_MODEL, OVER_FITTED = "none", "base_model", "over_fitted"
CONTROLS = (NONE, BASE_MODEL, BAG_OF_WORDS, OVER_FITTED)
# The base model's own likelihoods less themselves are the same for every text.
NOT_FOR_THE_BASE_MODEL = "calibrated"


@dataclass(frozen=True)
class AuditedArm:
    """An arm as it was trained.

    Attributes:
        examples: what it could learn from.
        steps: optimiser steps it took.
        rows: examples it learned from, those that were short enough.
    """

    arm: str
    examples: Sequence[Example]
    steps: int
    rows: int


@dataclass(frozen=True)
class ExampleScores:
    """Every attack's score of one example, higher for members where the attack works."""

    example: Example
    member: bool
    scores: dict[str, float]


@dataclass(frozen=True)
class Audit:
    """What one audited model, or the refusal to make it, came to.

    Attributes:
        arm: the arm whose examples are audited.
        control: `none`, or `over_fitted`.
        split: its examples.
        steps: optimiser steps taken, 0 where refused.
        training: every step; None where refused.
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
    """Members and non-members of an arm with their likelihoods under the base model."""

    split: AuditSplit
    members: Sequence[Likelihoods]
    others: Sequence[Likelihoods]


def audit_arms(
    base: ModelRef,
    arms: Sequence[AuditedArm],
    knobs: PrivacyKnobs,
    supervised: SupervisedKnobs,
    device: Device,
    salt: str,
) -> list[Audit]:
    """Audit every arm, in order, and the over-fitted control of the first that is not refused.

    Equal arguments on one machine give equal figures; the order of examples does not count.

    Args:
        base: the model that the arms were fine-tuned from.
        supervised: the knobs that they were fine-tuned with; examples that are too long for them
            are on neither side.
        salt: seeds split, training and resampling.

    Raises:
        TrainingError: the loss of an audited model is no longer a number.
    """
    with loaded_model(base, device) as loaded:
        halves = [_halves(loaded, arm, knobs, supervised, salt) for arm in arms]
    audits = []
    controlled = False
    for arm, half in zip(arms, halves, strict=True):
        if half.split.refusal:
            audits.append(_refused(arm, half.split))
            continue
        steps = max(1, round(arm.steps * len(half.split.members) / arm.rows))
        made = _audit(base, arm.arm, NONE, half, steps, knobs, supervised, device, salt)
        audits.append(made)
        if not controlled:
            few = _first_members(half, knobs.over_fitted_examples)
            batches = math.ceil(len(few.split.members) / supervised.batch_size)
            steps = batches * knobs.over_fitted_epochs
            audits.append(
                _audit(base, arm.arm, OVER_FITTED, few, steps, knobs, supervised, device, salt)
            )
            controlled = True
    return audits


def _refused(arm: AuditedArm, split: AuditSplit) -> Audit:
    return Audit(arm.arm, NONE, split, 0, None, (), (), split.refusal)


def _halves(
    loaded: LoadedModel,
    arm: AuditedArm,
    knobs: PrivacyKnobs,
    supervised: SupervisedKnobs,
    salt: str,
) -> _Halves:
    """Part an arm's examples; where there are enough, read them with the base model."""
    fitting = [
        example
        for example in arm.examples
        if len(training_example(loaded.tokenizer, example.triple)["input_ids"])
        <= supervised.max_tokens
    ]
    split = split_examples(fitting, knobs.max_examples, salt)
    if split.refusal:
        return _Halves(split, (), ())
    return _Halves(split, _read(loaded, split.members), _read(loaded, split.others))


def _first_members(halves: _Halves, count: int) -> _Halves:
    split = AuditSplit(halves.split.members[:count], halves.split.others)
    return _Halves(split, halves.members[:count], halves.others)


def _audit(
    base: ModelRef,
    arm: str,
    control: str,
    halves: _Halves,
    steps: int,
    knobs: PrivacyKnobs,
    supervised: SupervisedKnobs,
    device: Device,
    salt: str,
) -> Audit:
    """Train a model on the members, read both halves with it, and attack."""
    split = halves.split
    triples = [example.triple for example in split.members]
    with tempfile.TemporaryDirectory(prefix="refine_audit_") as folder:
        out = Path(folder)
        training = train_supervised(base, triples, supervised, steps, out, device, salt)
        with loaded_model(with_adapter(base, out), device) as loaded:
            after = _read(loaded, split.members), _read(loaded, split.others)
    members = joined(_responses(split.members), after[0], halves.members)
    others = joined(_responses(split.others), after[1], halves.others)
    name = f"{salt}:{arm}:{control}"
    found = attack_results(
        members, others, samples=knobs.bootstrap_samples, salt=name, share=knobs.lowest_share
    )
    results = [(control, one) for one in found]
    if control == NONE:
        results += _negative_controls(halves, knobs, name)
    sides = ((split.members, members, True), (split.others, others, False))
    scores = [
        ExampleScores(example, member, attack_scores(response, knobs.lowest_share))
        for examples, responses, member in sides
        for example, response in zip(examples, responses, strict=True)
    ]
    return Audit(arm, control, split, steps, training, tuple(results), tuple(scores), None)


def _negative_controls(
    halves: _Halves, knobs: PrivacyKnobs, salt: str
) -> list[tuple[str, AttackResult]]:
    """What the base model's likelihoods, and the words alone, tell of membership."""
    split = halves.split
    before: tuple[list[TokenLikelihoods], list[TokenLikelihoods]] = (
        joined(_responses(split.members), halves.members, halves.members),
        joined(_responses(split.others), halves.others, halves.others),
    )
    base = attack_results(
        *before, samples=knobs.bootstrap_samples, salt=salt, share=knobs.lowest_share
    )
    told = bag_of_words_result(
        [example.triple.render() for example in split.members],
        [example.triple.render() for example in split.others],
        salt=salt,
    )
    return [
        *((BASE_MODEL, one) for one in base if one.attack != NOT_FOR_THE_BASE_MODEL),
        (BAG_OF_WORDS, told),
    ]


def _responses(examples: Sequence[Example]) -> list[str]:
    """Outputs as the arms learn them: after `Output:` and a space."""
    return [f" {example.triple.output}" for example in examples]


def _read(loaded: LoadedModel, examples: Sequence[Example]) -> list[Likelihoods]:
    prompts = [zero_shot_prompt(one.triple.instruction, one.triple.input) for one in examples]
    return read_likelihoods(loaded, prompts, _responses(examples))
