"""Reward parts beside the judge's own: plain functions that score examples.

A part is a function in the convention of TRL and verifiers,

    reward(prompts, completions, **columns) -> list[float]

registered in `registry.REWARD_PARTS` or, by another package, as an entry point of the group
`refine_dagster.rewards`, and named with its weight in the config field `reward.parts`.

`prompts` are instructions, each followed by its input on a new line where there is one;
`completions` are outputs; `columns` are `instruction`, `input` and `output`, one entry an example.
The value of an example must depend on that example alone, as it becomes part of a row. When a
part's values change, so must its attribute `version`, or its package's version.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields
from numbers import Real
from typing import Any

from refine_dagster.errors import RefineError
from refine_dagster.judge.judge import DECIMALS, PARTS, Judge, Part, Scores
from refine_dagster.prompts.example import Example
from refine_dagster.refine_af.reward import RewardRule
from refine_dagster.registry import REWARD_PARTS, Registered
from refine_dagster.warehouse.tables import TABLES

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


class ExtendedJudge:
    """A judge with further reward parts, after its own; it keeps the judge's fingerprint."""

    def __init__(self, judge: Judge, further: Sequence[Registered[RewardFunction]]) -> None:
        self._judge = judge
        self._further = further
        self.fingerprint = judge.fingerprint
        own = (Part(part.name, f"Reward part of {part.package}.") for part in further)
        self.parts = (*judge.parts, *own)

    def score(self, examples: Sequence[Example]) -> list[Scores]:
        """The scores of each example, rounded to six decimals; equal examples are scored once."""
        different = list(dict.fromkeys(examples))
        scores = [dict(of_judge) for of_judge in self._judge.score(different)]
        for part in self._further:
            for of_example, value in zip(scores, _values(part, different), strict=True):
                of_example[part.name] = value
        by_example = dict(zip(different, scores, strict=True))
        return [by_example[example] for example in examples]


def with_parts(judge: Judge, names: Collection[str]) -> Judge:
    """The judge with the reward parts of those names; the judge itself where there are none.

    Raises:
        RewardPartError: a name is the judge's own, or one of a column beside the parts.
    """
    taken = sorted(RESERVED.intersection(names))
    if taken:
        raise RewardPartError(
            f"no further reward part can be called {', '.join(taken)}: the name is in use",
            where="config field reward.parts",
            fix="register the part under another name",
        )
    further = [REWARD_PARTS.entry(name) for name in names]
    return ExtendedJudge(judge, further) if further else judge


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
