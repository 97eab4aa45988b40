"""A profile: all config of a run, typed and validated in one place.

The packaged profiles (`profiles/offline.yaml`, `laptop.yaml`, `gpu.yaml`) hold values; the sections
hold types, ranges, defaults and meanings. `read_config` lists the sources of values in order of
precedence.
"""

from __future__ import annotations

import os
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

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
from refine_dagster.config.problems import profile_error, refused
from refine_dagster.config.sources import (
    PROFILE_VARIABLE,
    ProfileSource,
    of_environment,
    of_file,
    of_mapping,
)
from refine_dagster.config.teams_rl import TeamsRLConfig

DEFAULT_PROFILE = "offline"


class Profile(BaseSettings):
    """All config of a run. `run_seed` seeds every draw: equal profiles give equal runs."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="The profile's name; by default that of its file.")
    run_seed: str = Field(
        "refine",
        description="Text from which every random draw and all noise of the run is derived.",
    )
    rounds: int = Field(
        1,
        ge=1,
        le=MOST_ROUNDS,
        description="Policy rounds. From the second on, the policy of the round before "
        "proposes instructions, up to `self_instruct.target` more in each round, "
        "and the next policy is trained on them. Each round has its own assets, "
        "so this is fixed when the code location is loaded.",
    )
    seeds: SeedsConfig = Field(SeedsConfig(), description="The seed file.")
    device: DeviceConfig = Field(
        DeviceConfig(), description="CPU or GPU, dtype, threads, determinism, four-bit weights."
    )
    base_model: BaseModelConfig = Field(
        BaseModelConfig(), description="The model's id or folder; offline, its size and training."
    )
    generator: GeneratorConfig = Field(
        GeneratorConfig(), description="What runs the language model, and what a run may send."
    )
    self_instruct: SelfInstructConfig = Field(
        SelfInstructConfig(),
        description="Proposed instructions: target, demonstrations, sampling, novelty threshold.",
    )
    teams_rl: TeamsRLConfig = Field(
        TeamsRLConfig(), description="TeaMs-RL: instructor, executor, reviewer, guard."
    )
    instances: InstanceConfig = Field(
        InstanceConfig(), description="Prompt and sampling of instances."
    )
    judge: JudgeConfig = Field(
        JudgeConfig(), description="Offline or published judge, and the offline judge's training."
    )
    reward: RewardConfig = Field(
        RewardConfig(), description="Weights of the reward parts, and what is taken off."
    )
    reinforcement: ReinforcementConfig = Field(
        ReinforcementConfig(),
        description="Training of the policy: algorithm, steps, KL, LoRA, guards, rollout engine.",
    )
    selection: SelectionConfig = Field(
        SelectionConfig(), description="The share of valid instances that is kept, by reward."
    )
    supervised: SupervisedConfig = Field(SupervisedConfig(), description="Fine-tuning of the arms.")
    evaluation: EvaluationConfig = Field(
        EvaluationConfig(), description="Held-out tasks, limits, intervals."
    )
    privacy: PrivacyConfig = Field(
        PrivacyConfig(), description="Size and controls of the privacy audit."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let a profile made in code have the values given there; `read_config` has its sources."""
        return (init_settings,)


@dataclass(frozen=True)
class EffectiveConfig:
    """A profile, and where its values are written.

    Attributes:
        origins: name of a field -> the place of its value; fields without one have their default.
    """

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
        name: a packaged profile, or the path of a YAML file; None reads `REFINE_PROFILE`, then
            takes `offline`.
        overrides: field -> value of this run, `{"self_instruct.target": 200}`.
        environment: None reads `os.environ`.
        launchpad: field -> value from the run config in Dagster.

    Raises:
        ProfileError: the profile is unknown or unreadable, or any value is for an unknown field or
            out of range; with every such value.
    """
    environment = os.environ if environment is None else environment
    name = name or environment.get(PROFILE_VARIABLE) or DEFAULT_PROFILE
    # Precedence: the first source with a value wins, the fields' defaults come last.
    sources = tuple(
        ProfileSource(Profile, values)
        for values in (
            of_mapping(launchpad, "launchpad"),
            of_mapping(overrides, "--set"),
            of_environment(environment),
            of_file(name),
        )
    )
    problems = [problem for source in sources for problem in source.problems]
    origins = {
        field: value.origin for field, value in ChainMap(*(one.values for one in sources)).items()
    }
    try:
        profile = Profile(_build_sources=(sources, {}))
    except ValidationError as error:
        problems += refused(error, origins)
    if problems:
        raise profile_error(f"profile {name}", problems)
    return EffectiveConfig(profile, origins)


def load_profile(
    name: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    launchpad: Mapping[str, Any] | None = None,
) -> Profile:
    """The profile of `read_config`."""
    return read_config(name, overrides, environment, launchpad).profile
