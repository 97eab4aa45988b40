"""The reward rule: parts weighed into one number, by a named preset (docs/methods.md, section 2.3).

`refine_af` is the published rule,

    R = 0.0078 Rew - 0.4421 Und + 0.3212 Nat + 0.1520 Coh - 0.0274

fitted to the loss of models from the means of whole datasets. Naturalness and understandability are
nearly one number there, so as a reward for single texts the rule pays for whatever drives the two
apart. It is kept for comparison with the paper; three presets stand beside it:

- `coherence_only`: the one part that looks at the task. It cannot be earned with fluent text that
  answers something else, but does not protect the wording.
- `balanced`, this project's own. Every part has the sign of its meaning. A question counts once,
  however many parts answer it: does the output answer the task (coherence, one half), would it be
  preferred (the Bradley-Terry reward, one quarter), does it read well (naturalness and
  understandability, one quarter). The weights assume whitened parts: raw, the Bradley-Terry reward
  outweighs the others.
- `influence`: the progress of a student alone, without the judge (`training/influence.py`).

Raw parts are stored beside every reward, so another rule can be applied without judging again.

Parts beside the judge's own are functions in the convention of TRL and verifiers,

    reward(prompts, completions, **columns) -> list[float]

registered in `registry.REWARD_PARTS` or, by another package, as an entry point of the group
`refine_dagster.rewards`, and named with its weight in the config field `reward.parts`.

`prompts` are instructions, each followed by its input on a new line where there is one;
`completions` are outputs; `columns` are `instruction`, `input` and `output`, one entry an example.
The value of an example must depend on that example alone, as it becomes part of a row. When a
part's values change, so must its attribute `version`, or its package's version.

A part that needs a model has an attribute `opened`: a context manager that loads it and gives the
function (`OpenedPart`). Its fingerprint names what decides the values.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from numbers import Real
from statistics import fmean, pstdev
from typing import Any, Protocol

from refine_dagster.errors import RefineError
from refine_dagster.judge.judge import DECIMALS, PARTS, Judge, Part, Scores
from refine_dagster.prompts.example import Example
from refine_dagster.registry import REWARD_PARTS, Registered
from refine_dagster.warehouse.tables import TABLES

# A part with a smaller deviation does not vary but by rounding; it is centred and not scaled.
LEAST_DEVIATION = 1e-6


@dataclass(frozen=True)
class Moments:
    """Mean and population standard deviation of a part."""

    mean: float
    deviation: float

    def standardised(self, value: float) -> float:
        centred = value - self.mean
        return centred / self.deviation if self.deviation > LEAST_DEVIATION else centred


# Part -> its moments over the base policy's scores.
Whitening = Mapping[str, Moments]


def fit_whitening(scores: Sequence[Scores]) -> Whitening:
    if not scores:
        raise ValueError("there are no scores to fit the whitening on")
    columns = {part: [row[part] for row in scores] for part in scores[0]}
    return {part: Moments(fmean(values), pstdev(values)) for part, values in columns.items()}


@dataclass(frozen=True)
class RewardRule:
    """A linear rule over reward parts.

    With whitening, an example of average parts has the constant as its reward.

    Attributes:
        weights: part -> weight, in the order in which the products are added.
        whitening: standardises the parts first; None weighs the raw parts, as published.
        diversity: this times a rollout's `repetition` is taken off its reward; 0 or more. Rows of a
            dataset are not charged, as the reward of a row must not depend on other rows.
    """

    name: str
    weights: Mapping[str, float]
    constant: float
    whitening: Whitening | None = None
    diversity: float = 0.0

    def reward(self, scores: Scores) -> float:
        # Not `sum`, which compensates rounding from Python 3.12 on: a reward is part of a row's id.
        total = 0.0
        for part, weight in self.weights.items():
            value = scores[part]
            if self.whitening:
                value = self.whitening[part].standardised(value)
            total += weight * value
        return total + self.constant

    def whitened(self, scores: Sequence[Scores]) -> RewardRule:
        return replace(self, whitening=fit_whitening(scores))

    def manifest(self) -> dict[str, Any]:
        """The rule as JSON values, for the manifests of checkpoints."""
        moments = {part: asdict(its) for part, its in (self.whitening or {}).items()}
        return {
            **self.weights,
            "name": self.name,
            "constant": self.constant,
            "whitening": moments or None,
            "diversity": self.diversity,
        }


def repetition(instructions: Sequence[str], texts: Sequence[str]) -> list[float]:
    """How much of each answer is also given to other instructions of its step, 0 to 1.

    This detects a policy that collapses to one text that the judge likes. An answer's repetition is
    the mean, over its different pairs of neighbouring words, of the share of other instructions
    with an answer that has the pair; 0 where it has no word or there is no other instruction. A
    single word counts as a pair, as small policies collapse to one. Answers to the same instruction
    do not count, as a task may have one right answer.

    >>> repetition(["Name a pet.", "Name a tree."], ["a big dog", "a big oak"])
    [0.5, 0.5]
    >>> repetition(["Name a pet.", "Name a tree."], ["6", "6"])
    [1.0, 1.0]
    >>> repetition(["Name a pet.", "Name a pet."], ["a big dog", "a big dog"])
    [0.0, 0.0]
    """
    pairs = [_word_pairs(text) for text in texts]
    written: dict[str, set[tuple[str, str]]] = {}
    for instruction, own in zip(instructions, pairs, strict=True):
        written.setdefault(instruction, set()).update(own)
    instructions_with = Counter(pair for own in written.values() for pair in own)
    others = len(written) - 1
    # The answer's own instruction is taken off each count.
    return [
        sum(instructions_with[pair] - 1 for pair in own) / (others * len(own))
        if others and own
        else 0.0
        for own in pairs
    ]


def _word_pairs(text: str) -> set[tuple[str, str]]:
    words = text.lower().split()
    return set(pairwise(words)) if len(words) != 1 else {(words[0], "")}


_PARTS = ("reward_model", "understandability", "naturalness", "coherence")
# Preset -> weights of those parts, and the constant.
_PRESETS = {
    "refine_af": (0.0078, -0.4421, 0.3212, 0.1520, -0.0274),
    "coherence_only": (0.0, 0.0, 0.0, 1.0, 0.0),
    "balanced": (0.25, 0.125, 0.125, 0.5, 0.0),
}
PRESETS: dict[str, RewardRule] = {
    name: RewardRule(name, dict(zip(_PARTS, weights, strict=True)), constant)
    for name, (*weights, constant) in _PRESETS.items()
}
PRESETS["influence"] = RewardRule(
    "influence", {**dict.fromkeys(_PARTS, 0.0), "influence": 1.0}, constant=0.0
)


RewardFunction = Callable[..., Sequence[float]]

# Ids of rows, records of training and manifests name a part beside these.
RESERVED = {
    *(part.name for part in PARTS),
    *TABLES["instance_decisions"].columns,
    *TABLES["rl_policy_checkpoint_steps"].columns,
    *(field.name for field in fields(RewardRule)),
}


class RewardPartError(RefineError):
    """A reward part has a name that is taken, or gives something else than a number an example."""


class OpenedPart(Protocol):
    """The function of a reward part whose model is loaded."""

    fingerprint: str

    def __call__(
        self, prompts: Sequence[str], completions: Sequence[str], **columns: Sequence[Any]
    ) -> Sequence[float]:
        """One finite number for each completion."""


class ExtendedJudge:
    """A judge with further reward parts, after its own; it keeps the judge's fingerprint.

    `opened` names what decides the values of parts with a model: name -> fingerprint.
    """

    def __init__(
        self,
        judge: Judge,
        further: Sequence[Registered[RewardFunction]],
        opened: Mapping[str, str] | None = None,
    ) -> None:
        self._judge = judge
        self._further = further
        self.fingerprint = judge.fingerprint
        self.opened = dict(opened or {})
        own = (Part(part.name, f"Reward part of {part.package}.") for part in further)
        self.parts = (*judge.parts, *own)

    def score(self, examples: Sequence[Example]) -> list[Scores]:
        different = list(dict.fromkeys(examples))
        scores = [dict(of_judge) for of_judge in self._judge.score(different)]
        for part in self._further:
            for of_example, value in zip(scores, _values(part, different), strict=True):
                of_example[part.name] = value
        by_example = dict(zip(different, scores, strict=True))
        return [by_example[example] for example in examples]


def with_parts(
    judge: Judge, names: Collection[str], opened: Mapping[str, OpenedPart] | None = None
) -> Judge:
    """The judge with the reward parts of those names; the judge itself where there are none.

    Args:
        opened: functions of the parts among them that need a model.

    Raises:
        RewardPartError: a name is the judge's own, or one of a column beside the parts, or a part
            needs a model and is not opened.
    """
    opened = opened or {}
    taken = sorted(RESERVED.intersection(names))
    if taken:
        raise RewardPartError(
            f"no further reward part can be called {', '.join(taken)}: the name is in use",
            where="config field reward.parts",
            fix="register the part under another name",
        )
    further = [REWARD_PARTS.entry(name) for name in names]
    closed = [part.name for part in further if needs_model(part) and part.name not in opened]
    if closed:
        raise RewardPartError(
            f"the reward part {', '.join(closed)} needs a model, and none is loaded here",
            where="config fields reward.preset and reward.parts",
            fix="leave it to `refine-dagster run` and `compare`, or open it first",
        )
    parts = [replace(part, value=opened.get(part.name, part.value)) for part in further]
    fingerprints = {
        part.name: opened[part.name].fingerprint for part in further if needs_model(part)
    }
    return ExtendedJudge(judge, parts, fingerprints) if parts else judge


def needs_model(part: Registered[RewardFunction]) -> bool:
    return hasattr(part.value, "opened")


def further_parts(rule: RewardRule) -> list[str]:
    """The parts of a rule that are not the judge's own, in the rule's order."""
    own = {part.name for part in PARTS}
    return [name for name in rule.weights if name not in own]


def _values(part: Registered[RewardFunction], examples: Sequence[Example]) -> list[float]:
    names = [field.name for field in fields(Example)]
    columns = {name: [getattr(example, name) for example in examples] for name in names}
    prompts = ["\n".join(filter(None, (row.instruction, row.input))) for row in examples]
    name = f"{part.name} of {part.package}"
    values = values_of(part.value, name, prompts, list(columns["output"]), columns)
    return [round(value, DECIMALS) for value in values]


def values_of(
    function: RewardFunction,
    name: str,
    prompts: Sequence[str],
    completions: Sequence[str],
    columns: Mapping[str, Sequence[Any]],
) -> list[float]:
    """What a reward function gives each completion.

    Raises:
        RewardPartError: there are more or fewer values than completions, or one is not finite.
    """
    values = list(function(prompts=prompts, completions=completions, **columns))
    wrong = [value for value in values if not (isinstance(value, Real) and math.isfinite(value))]
    if len(values) != len(completions) or wrong:
        raise RewardPartError(
            f"gave {wrong[0]!r} as the value of a completion"
            if wrong
            else f"gave {len(values)} values for {len(completions)} completions",
            where=f"reward part {name}",
            fix="return one finite number for each completion",
        )
    return [float(value) for value in values]
