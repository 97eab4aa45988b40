"""The arms of a comparison, and how the command line names them.

base            the base model as it is
seeds_only      fine-tuned on the seed tasks alone: people's answers
own_answers     fine-tuned on the base policy's answers to the same seed tasks, one sample each
self_instruct   fine-tuned on the base policy's instances of the pool
best/judge      fine-tuned on the best of 8 answers of the base policy to the questions of
                self_instruct, by a criterion: `judge`, `agreement`, `likelihood`, `influence`
                (`refine_af/candidates.py`)
grpo            fine-tuned on the instances of a policy refined by GRPO, with the profile's preset;
                `rloo`, `ppo` and `dpo` likewise
ppo/balanced    the same with a named preset of the reward rule

In a comparison of methods, `method/self_instruct`, `method/teams_rl` and `method/both` are
fine-tuned on the base policy's instances of what a method's first calls made (`methods.py`).

`own_answers` and `seeds_only` differ in whose answers are learned from and in nothing else. They
are the two ends between which the reference loss of every other arm is placed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from refine_dagster.config.learning import RewardConfig
from refine_dagster.config.profile import Profile
from refine_dagster.errors import RefineError
from refine_dagster.refine_af.candidates import CRITERIA, Criterion
from refine_dagster.registry import ALGORITHMS

Kind = Literal["base", "seeds_only", "own_answers", "self_instruct", "best", "refined", "method"]
Method = Literal["self_instruct", "teams_rl", "both"]
BASE = "base"
SEEDS_ONLY = "seeds_only"
OWN_ANSWERS = "own_answers"
SELF_INSTRUCT = "self_instruct"
BEST = "best"
# Arms without an algorithm; each is its own kind.
PLAIN: Mapping[str, Kind] = {
    BASE: "base",
    SEEDS_ONLY: "seeds_only",
    OWN_ANSWERS: "own_answers",
    SELF_INSTRUCT: "self_instruct",
}
METHODS: tuple[Method, ...] = get_args(Method)
PRESETS: tuple[str, ...] = get_args(RewardConfig.model_fields["preset"].annotation)


class ArmError(RefineError):
    """No arm or method has this name, or it cannot be compared here."""


@dataclass(frozen=True)
class Arm:
    """What a model learns from; `algorithm` and `preset` are a refined policy's.

    `criterion` is that of the best answers.
    """

    name: str
    kind: Kind
    algorithm: str | None = None
    preset: str | None = None
    method: Method | None = None
    criterion: Criterion | None = None

    def profile(self, profile: Profile) -> Profile:
        """The profile with the arm's algorithm and preset in it."""
        if self.kind != "refined":
            return profile
        values = profile.model_dump()
        values["reinforcement"]["algorithm"] = self.algorithm
        values["reward"]["preset"] = self.preset
        return Profile.model_validate(values)


def parse_arms(names: str, profile: Profile) -> list[Arm]:
    """Arms from `base,self_instruct,ppo/balanced`, without repetition, in the order given.

    Raises:
        ArmError: naming every part that is no arm.
    """
    arms: dict[str, Arm] = {}
    unknown = []
    for text in filter(None, (part.strip() for part in names.split(","))):
        arm = _arm(text, profile)
        if arm is None:
            unknown.append(text)
        else:
            arms[arm.name] = arm
    if unknown or not arms:
        raise ArmError(
            f"no such arm: {', '.join(unknown)}" if unknown else "no arms to compare",
            where="--arms",
            fix=f"name {', '.join(PLAIN)}, {BEST}/CRITERION with CRITERION one of "
            f"{', '.join(CRITERIA)}, or ALGORITHM[/PRESET] with "
            f"ALGORITHM one of {', '.join(ALGORITHMS.names())} "
            f"and PRESET one of {', '.join(PRESETS)}",
        )
    return list(arms.values())


def _arm(text: str, profile: Profile) -> Arm | None:
    if text in PLAIN:
        return Arm(text, PLAIN[text])
    first, _, criterion = text.partition("/")
    if first == BEST:
        found = next((one for one in CRITERIA if one == criterion), None)
        return Arm(text, "best", criterion=found) if found else None
    algorithm, _, preset = text.partition("/")
    preset = preset or profile.reward.preset
    if algorithm not in ALGORITHMS.names() or preset not in PRESETS:
        return None
    return Arm(f"{algorithm}/{preset}", "refined", algorithm, preset)


def method_arm(method: Method) -> Arm:
    return Arm(f"method/{method}", "method", method=method)


def parse_methods(methods: str, arms: str, profile: Profile) -> list[Arm]:
    """Arms of a comparison of methods: `arms` (may be empty), then `methods` in order.

    Raises:
        ArmError: naming every part that is no method, or an arm that learns from the pool.
    """
    named = {part.strip() for part in methods.split(",") if part.strip()}
    unknown = sorted(named.difference(METHODS))
    if unknown or not named:
        raise ArmError(
            f"no such method: {', '.join(unknown)}" if unknown else "no methods to compare",
            where="--methods",
            fix=f"name {', '.join(METHODS)}",
        )
    beside = parse_arms(arms, profile) if arms.strip() else []
    of_pool = [arm.name for arm in beside if arm.name not in (BASE, SEEDS_ONLY, OWN_ANSWERS)]
    if of_pool:
        raise ArmError(
            f"{', '.join(of_pool)} cannot stand beside methods: it learns from a number of "
            "instructions of the pool, methods from a number of calls",
            where="--arms",
            fix=f"leave {BASE}, {SEEDS_ONLY} and {OWN_ANSWERS} there, and compare the others "
            "without --methods",
        )
    return [*beside, *(method_arm(method) for method in METHODS if method in named)]
