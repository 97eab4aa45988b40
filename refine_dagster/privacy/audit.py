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
fine-tuned on one half with the arm's own config and as many passes over each example as the arm
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

A control that reads the texts and no model: do members and non-members differ by themselves?

The classifier is naive Bayes on words, each text scored by what the others taught
(`membership.bag_of_words_scores`). Such scores hang together, since every text teaches the scores
of most others, and a bootstrap over texts takes them for independent: on the packaged seeds, its
95 % intervals left out one half for every sixth of sixty random splits. How far chance alone takes
the AUC is therefore asked of the same texts with the sides dealt anew (a permutation test): the
interval's width is the spread of those AUCs, and it contains one half where the split is no easier
to see than most others.

Which examples an audit trains on and which it keeps from training.

A membership attack is only worth something where members and non-members are alike in all but
having been trained on. They are alike where chance alone parts them, so an example's side is drawn
from the run's run seed and its instruction, before any training and without looking at a model:

- a side does not depend on the other examples, so an edited or removed seed moves none of them;
- all instances of an instruction lie on one side, as a model that learned one knows the others;
- the same instruction lies on the same side in every arm that has it.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist

import numpy as np

from refine_dagster.config.evaluation import PrivacyConfig
from refine_dagster.config.learning import SupervisedConfig
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
from refine_dagster.prompts.example import Example
from refine_dagster.prompts.zero_shot import zero_shot_prompt
from refine_dagster.seeding import request_seed
from refine_dagster.statistics import COVERAGE, auc
from refine_dagster.training.sft import SupervisedTraining, train_supervised, training_example

BAG_OF_WORDS = "bag_of_words"
# Deals of the sides: their spread is known to a tenth.
DEALS = 60


def bag_of_words_result(
    members: Sequence[str], others: Sequence[str], *, run_seed: str
) -> AttackResult:
    """The classifier as an attack; its interval is a permutation test's (see the module).

    Raises:
        MembershipError: there are no members or no others.
    """
    ours, theirs = bag_of_words_scores(members, others, run_seed=run_seed)
    found = attack_result(BAG_OF_WORDS, ours, theirs, samples=1, run_seed=run_seed)
    texts = np.array([*members, *others], dtype=object)
    random = np.random.default_rng(request_seed(run_seed, "deals", BAG_OF_WORDS))
    dealt = []
    for _ in range(DEALS):
        shuffled = random.permutation(texts).tolist()
        one, two = bag_of_words_scores(
            shuffled[: len(members)], shuffled[len(members) :], run_seed=run_seed
        )
        dealt.append(auc(one, two))
    reach = NormalDist().inv_cdf((1 + COVERAGE) / 2) * float(np.std(dealt))
    return replace(found, auc_low=max(0.0, found.auc - reach), auc_high=min(1.0, found.auc + reach))


# Examples a side under which nothing is told: an AUC's interval would be half a unit wide.
LEAST_A_SIDE = 20


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
        """Why membership cannot be measured with so few; None where it can."""
        if min(len(self.members), len(self.others)) >= LEAST_A_SIDE:
            return None
        return (
            f"{len(self.members)} members and {len(self.others)} non-members, "
            f"at least {LEAST_A_SIDE} of each are needed"
        )


def is_member(instruction: str, run_seed: str) -> bool:
    """Whether an audited model is trained on an instruction's instances; of many, on half."""
    return request_seed(run_seed, "privacy", "side", instruction) % 2 == 0


def split_examples(examples: Iterable[AuditExample], most: int, run_seed: str) -> AuditSplit:
    """Part the examples; the result does not depend on their order or ids.

    Args:
        most: examples kept in all, half of them on each side; which is drawn likewise.
    """

    def place(example: AuditExample) -> tuple[int, str]:
        text = example.example.render()
        return request_seed(run_seed, "privacy", "order", text), text

    ordered = sorted(examples, key=place)
    members = [one for one in ordered if is_member(one.example.instruction, run_seed)]
    others = [one for one in ordered if not is_member(one.example.instruction, run_seed)]
    return AuditSplit(tuple(members[: most // 2]), tuple(others[: most // 2]))


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
    examples: Sequence[AuditExample]
    steps: int
    rows: int


@dataclass(frozen=True)
class ExampleScores:
    """Every attack's score of one example, higher for members where the attack works."""

    example: AuditExample
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
    config: PrivacyConfig,
    supervised: SupervisedConfig,
    device: Device,
    run_seed: str,
) -> list[Audit]:
    """Audit every arm, in order, and the over-fitted control of the first that is not refused.

    Equal arguments on one machine give equal figures; the order of examples does not count.

    Args:
        base: the model that the arms were fine-tuned from.
        supervised: the config that they were fine-tuned with; examples that are too long for them
            are on neither side.
        run seed: seeds split, training and resampling.

    Raises:
        TrainingError: the loss of an audited model is no longer a number.
    """
    with loaded_model(base, device) as loaded:
        halves = [_halves(loaded, arm, config, supervised, run_seed) for arm in arms]
    audits = []
    controlled = False
    for arm, half in zip(arms, halves, strict=True):
        if half.split.refusal:
            audits.append(_refused(arm, half.split))
            continue
        steps = max(1, round(arm.steps * len(half.split.members) / arm.rows))
        made = _audit(base, arm.arm, NONE, half, steps, config, supervised, device, run_seed)
        audits.append(made)
        if not controlled:
            few = _first_members(half, config.over_fitted_examples)
            batches = math.ceil(len(few.split.members) / supervised.batch_size)
            steps = batches * config.over_fitted_epochs
            audits.append(
                _audit(base, arm.arm, OVER_FITTED, few, steps, config, supervised, device, run_seed)
            )
            controlled = True
    return audits


def _refused(arm: AuditedArm, split: AuditSplit) -> Audit:
    return Audit(arm.arm, NONE, split, 0, None, (), (), split.refusal)


def _halves(
    loaded: LoadedModel,
    arm: AuditedArm,
    config: PrivacyConfig,
    supervised: SupervisedConfig,
    run_seed: str,
) -> _Halves:
    """Part an arm's examples; where there are enough, read them with the base model."""
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


def _first_members(halves: _Halves, count: int) -> _Halves:
    split = AuditSplit(halves.split.members[:count], halves.split.others)
    return _Halves(split, halves.members[:count], halves.others)


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
    """Train a model on the members, read both halves with it, and attack."""
    split = halves.split
    learned = [example.example for example in split.members]
    with tempfile.TemporaryDirectory(prefix="refine_audit_") as folder:
        out = Path(folder)
        training = train_supervised(base, learned, supervised, steps, out, device, run_seed)
        with loaded_model(with_adapter(base, out), device) as loaded:
            after = _read(loaded, split.members), _read(loaded, split.others)
    members = joined(_responses(split.members), after[0], halves.members)
    others = joined(_responses(split.others), after[1], halves.others)
    name = f"{run_seed}:{arm}:{control}"
    found = attack_results(
        members, others, samples=config.bootstrap_samples, run_seed=name, share=config.lowest_share
    )
    results = [(control, one) for one in found]
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
    """What the base model's likelihoods, and the words alone, tell of membership."""
    split = halves.split
    before: tuple[list[TokenLikelihoods], list[TokenLikelihoods]] = (
        joined(_responses(split.members), halves.members, halves.members),
        joined(_responses(split.others), halves.others, halves.others),
    )
    base = attack_results(
        *before, samples=config.bootstrap_samples, run_seed=run_seed, share=config.lowest_share
    )
    told = bag_of_words_result(
        [example.example.render() for example in split.members],
        [example.example.render() for example in split.others],
        run_seed=run_seed,
    )
    return [
        *((BASE_MODEL, one) for one in base if one.attack != NOT_FOR_THE_BASE_MODEL),
        (BAG_OF_WORDS, told),
    ]


def _responses(examples: Sequence[AuditExample]) -> list[str]:
    """Outputs as the arms learn them: after `Output:` and a space."""
    return [f" {example.example.output}" for example in examples]


def _read(loaded: LoadedModel, examples: Sequence[AuditExample]) -> list[Likelihoods]:
    prompts = [zero_shot_prompt(one.example.instruction, one.example.input) for one in examples]
    return read_likelihoods(loaded, prompts, _responses(examples))
