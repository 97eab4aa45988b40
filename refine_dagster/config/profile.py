"""A profile: all config of a run, typed and validated in one place.

The packaged profiles (`profiles/*.yaml`) hold values; the sections hold types, ranges, defaults and
meanings. `read_config` lists the sources of values in order of precedence.
"""

from __future__ import annotations

import os
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from refine_dagster.config import credentials
from refine_dagster.config.audit import AuditConfig
from refine_dagster.config.dataset import (
    InstanceConfig,
    SeedsConfig,
    SelectionConfig,
    SelfInstructConfig,
    TeamsRLConfig,
)
from refine_dagster.config.learning import (
    EvaluationConfig,
    JudgeConfig,
    PrivacyConfig,
    ReinforcementConfig,
    RewardConfig,
    SupervisedConfig,
)
from refine_dagster.config.models import BaseModelConfig, DeviceConfig, GeneratorConfig
from refine_dagster.config.policy_round import MOST_ROUNDS
from refine_dagster.config.section import profile_error, refused, setting
from refine_dagster.config.sources import (
    PROFILE_VARIABLE,
    ProfileSource,
    of_environment,
    of_file,
    of_mapping,
)
from refine_dagster.errors import RefineError
from refine_dagster.language import language_of

DEFAULT_PROFILE = "offline"


def _known_language(code: str) -> str:
    try:
        return language_of(code).code
    except RefineError as error:
        raise PydanticCustomError("language", "{what}", {"what": error.what}) from error


class Profile(BaseSettings):
    """All config of a run. `run_seed` seeds every draw: equal profiles give equal runs."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="The profile's name; by default that of its file.")
    run_seed: str = setting(
        "refine", "Text from which every random draw and all noise of the run is derived."
    )
    language: Annotated[str, AfterValidator(_known_language)] = setting(
        "en",
        "Code of the language of seeds and instructions: wording of prompts, rules for texts, and "
        "tokens of the novelty filter follow it (docs/languages.md).",
    )
    rounds: int = setting(
        1,
        "Policy rounds. From the second on, the policy of the round before proposes "
        "instructions, up to `self_instruct.target` more in each round, and the next policy is "
        "trained on them. Each round has its own assets, so this is fixed when the code location "
        "is loaded.",
        ge=1,
        le=MOST_ROUNDS,
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
    audit: AuditConfig = AuditConfig()

    @classmethod
    def settings_customise_sources(
        cls, *args: Any, **sources: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let a profile made in code have the values given there; `read_config` has its sources."""
        return (sources["init_settings"],)


@dataclass(frozen=True)
class EffectiveConfig:
    """A profile, and field -> where its value is written; other fields have their default."""

    profile: Profile
    origins: Mapping[str, str]


def read_config(
    name: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    launchpad: Mapping[str, Any] | None = None,
) -> EffectiveConfig:
    """Read all sources of config.

    Args:
        name: a packaged profile, or a YAML file; None takes `REFINE_PROFILE`, then `offline`.
        overrides: field -> value of this run, `{"self_instruct.target": 200}`.
        environment: None takes `os.environ`.
        launchpad: field -> value from the run config in Dagster.

    Raises:
        ProfileError: with every problem of the profile and of the values at once.
    """
    environment = os.environ if environment is None else environment
    name = name or environment.get(PROFILE_VARIABLE) or DEFAULT_PROFILE
    # Precedence: the first source with a value wins, the fields' defaults come last.
    sources = tuple(
        ProfileSource(Profile, given)
        for given in (
            of_mapping(launchpad, "launchpad"),
            of_mapping(overrides, "--set"),
            of_environment(environment),
            of_file(name),
        )
    )
    problems = [problem for source in sources for problem in source.problems]
    values = ChainMap(*(source.values for source in sources))
    origins = {name: value.origin for name, value in values.items()}
    if named := [
        name for name, value in values.items() if credentials.CREDENTIAL.search(str(value.value))
    ]:
        # The only problem that is told: messages about other problems have the values in them.
        raise credentials.refusal({field: origins[field] for field in named})
    try:
        profile = Profile(_build_sources=(sources, {}))
    except ValidationError as error:
        problems += refused(error, origins)
    if problems:
        shown = [replace(one, text=credentials.hidden(one.text)) for one in problems]
        raise profile_error(f"profile {name}", shown)
    return EffectiveConfig(profile, origins)


def load_profile(
    name: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    launchpad: Mapping[str, Any] | None = None,
) -> Profile:
    """The profile of `read_config`."""
    return read_config(name, overrides, environment, launchpad).profile
