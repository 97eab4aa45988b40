"""Config of the evaluation on held-out tasks and of the privacy audit."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from refine_dagster.config.section import ConfigSection


class EvaluationConfig(ConfigSection):
    tasks: str = Field(
        "packaged",
        description="`packaged`, a folder of SUPER-NI task files, or a clone of the benchmark's "
        "repository with its split lists.",
    )
    split: Literal["train", "test", "excluded"] = Field(
        "test", description="In a repository with split lists, the list whose tasks are used."
    )
    max_instances: int = Field(
        100, ge=1, description="Instances used of each task: its first ones."
    )
    max_source_tokens: int = Field(1024, ge=16, description="Longer prompts are cut.")
    max_new_tokens: int = Field(128, ge=1, description="Longest greedy answer in tokens.")
    bootstrap_samples: int = Field(2000, ge=100, description="Resamples of every interval.")
    tie_margin: float = Field(
        0.0,
        ge=0,
        description="Difference of mean ROUGE-L (points of 100) up to which a task is tied.",
    )


class PrivacyConfig(ConfigSection):
    max_examples: int = Field(
        240,
        ge=2,
        description="Examples of an arm in its audit, half of them trained on; larger "
        "datasets are sampled. Bounds the audit's cost.",
    )
    over_fitted_examples: int = Field(
        24, ge=1, description="Positive control: examples that a model is made to memorise."
    )
    over_fitted_epochs: int = Field(30, ge=1, description="Positive control: passes over them.")
    lowest_share: float = Field(
        0.2,
        gt=0,
        le=1,
        description="Min-K% and Min-K%++: share of a response's tokens that count, the least "
        "likely ones; one token at least.",
    )
    bootstrap_samples: int = Field(1000, ge=100, description="Resamples of every interval.")
