"""A profile: a value for every config field of the pipeline, typed and validated in one place.

The three packaged profiles (`profiles/offline.yaml`, `laptop.yaml`, `gpu.yaml`) hold values; the
sections hold meaning. A config field is named by its section and name, `reinforcement.steps`,
and is set by, in rising order of precedence: the default there, the profile's YAML, the environment
(`REFINE_REINFORCEMENT__STEPS=60`, and `REFINE_BASE_MODEL=/path` as a short form of
`REFINE_BASE_MODEL__ID`), and the overrides of a run (command line options, launchpad config). An
unknown profile, section or config field, or a value out of range, is one `ProfileError` that lists
every problem at once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from refine_dagster.config.dataset import (
    InstanceConfig,
    SeedsConfig,
    SelectionConfig,
    SelfInstructConfig,
)
from refine_dagster.config.evaluation import EvaluationConfig, PrivacyConfig
from refine_dagster.config.learning import (
    JudgeConfig,
    ReinforcementConfig,
    RewardConfig,
    SupervisedConfig,
)
from refine_dagster.config.models import BaseModelConfig, DeviceConfig, GeneratorConfig
from refine_dagster.config.policy_round import MOST_ROUNDS
from refine_dagster.config.section import ConfigSection
from refine_dagster.config.teams_rl import TeamsRLConfig
from refine_dagster.errors import RefineError

PROFILE_VARIABLE = "REFINE_PROFILE"
DEFAULT_PROFILE = "offline"
SHORT_VARIABLES = {"REFINE_BASE_MODEL": "base_model.id", "REFINE_SEEDS": "seeds.path"}
# Read by the doors, not config of a profile.
OTHER_VARIABLES = {PROFILE_VARIABLE, "REFINE_HOME"}


class ProfileError(RefineError):
    """The profile, or one of its config, does not exist or has a value out of range."""


class Profile(ConfigSection):
    """All config of a run. `run_seed` seeds every draw: equal profiles give equal runs."""

    name: str = Field(description="The profile's name.")
    run_seed: str = Field("refine", description="Seeds every draw of the run.")
    rounds: int = Field(
        1,
        ge=1,
        le=MOST_ROUNDS,
        description="Policy rounds. From the second on, the policy of the round before proposes "
        "instructions, up to `self_instruct.target` more in each round, and is trained on. Fixed "
        "when the code location is loaded: each round has assets of its own.",
    )
    seeds: SeedsConfig = SeedsConfig()
    device: DeviceConfig = DeviceConfig()
    base_model: BaseModelConfig = BaseModelConfig()
    generator: GeneratorConfig = GeneratorConfig()
    self_instruct: SelfInstructConfig = SelfInstructConfig()
    teams_rl: TeamsRLConfig = TeamsRLConfig()
    instances: InstanceConfig = InstanceConfig()
    judge: JudgeConfig = JudgeConfig()
    reward: RewardConfig = RewardConfig()
    reinforcement: ReinforcementConfig = ReinforcementConfig()
    selection: SelectionConfig = SelectionConfig()
    supervised: SupervisedConfig = SupervisedConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    privacy: PrivacyConfig = PrivacyConfig()


def packaged_profiles() -> list[str]:
    """Names of the profiles that come with the package, sorted."""
    folder = files("refine_dagster.config") / "profiles"
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml")
    )


def load_profile(
    name: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Profile:
    """Read a profile and apply the environment and the overrides of a run.

    Args:
        name: a packaged profile, or the path of a YAML file; None reads `REFINE_PROFILE`, then
            takes `offline`.
        overrides: dotted config field -> value, `{"self_instruct.target": 200}`.
        environment: None reads `os.environ`.

    Raises:
        ProfileError: the profile is unknown or unreadable, or any config field is unknown or out of
        range.
    """
    environment = os.environ if environment is None else environment
    name = name or environment.get(PROFILE_VARIABLE) or DEFAULT_PROFILE
    values = _read(name)
    problems: list[str] = []
    for variable, text in sorted(environment.items()):
        knob = _knob_of(variable)
        if knob:
            _set(values, knob, _parse(text), source=variable, problems=problems)
    for knob, value in (overrides or {}).items():
        _set(values, knob, value, source="override", problems=problems)
    try:
        profile = Profile.model_validate(values)
    except ValidationError as error:
        problems += [_describe(item) for item in error.errors()]
    if problems:
        raise ProfileError(
            "; ".join(problems),
            where=f"profile {name}",
            fix="`refine-dagster config describe` prints every field, its meaning and its range",
        )
    return profile


def _read(name: str) -> dict[str, Any]:
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise ProfileError("no such file", where=name, fix="name an existing YAML file")
        text, default_name = path.read_text(encoding="utf-8"), path.stem
    elif name in packaged_profiles():
        entry = files("refine_dagster.config") / "profiles" / f"{name}.yaml"
        text, default_name = entry.read_text(encoding="utf-8"), name
    else:
        known = packaged_profiles()
        near = get_close_matches(name, known, n=1)
        guess = f"did you mean {near[0]!r}? " if near else ""
        raise ProfileError(
            f"there is no profile {name!r}",
            fix=f"{guess}choose one of {', '.join(known)}, or name a YAML file",
        )
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ProfileError(f"not YAML: {error}", where=name, fix="mend the file") from error
    if not isinstance(values, dict):
        raise ProfileError("a profile is a mapping of sections", where=name, fix="mend the file")
    return {"name": default_name, **values}


def _knob_of(variable: str) -> str | None:
    if variable in SHORT_VARIABLES:
        return SHORT_VARIABLES[variable]
    if not variable.startswith("REFINE_") or variable in OTHER_VARIABLES:
        return None
    return variable.removeprefix("REFINE_").lower().replace("__", ".")


def _parse(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _set(
    values: dict[str, Any], knob: str, value: Any, *, source: str, problems: list[str]
) -> None:
    section, _, name = knob.rpartition(".")
    field = Profile.model_fields.get(section or name)
    known: list[str] = []
    if field is None or (section and not _is_section(field.annotation)):
        known = list(Profile.model_fields)
    elif section and name not in field.annotation.model_fields:  # type: ignore[union-attr]
        known = [f"{section}.{other}" for other in field.annotation.model_fields]  # type: ignore[union-attr]
    if known:
        near = get_close_matches(knob, known, n=1)
        guess = f", did you mean {near[0]!r}?" if near else ""
        problems.append(f"unknown knob {knob!r} ({source}){guess}")
        return
    if not section:
        values[name] = value
        return
    values[section] = {**(values.get(section) or {}), name: value}


def _is_section(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, ConfigSection)


def _describe(item: Any) -> str:
    knob = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"unknown knob {knob!r}"
    return f"{knob} = {item['input']!r}: {item['msg']}"
