"""Config of the dataset: seeds, proposed instructions, their instances, and the selection."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from refine_dagster.config.section import ConfigSection


class SeedsConfig(ConfigSection):
    path: str = Field(
        "packaged",
        description="`packaged`, a seed file (.jsonl, Alpaca .json, .csv, .parquet), or a folder "
        "of SUPER-NI task files.",
    )


class SelfInstructConfig(ConfigSection):
    target: int = Field(
        160, ge=1, description="Accepted instructions at which the loop of a policy round ends."
    )
    requests_per_round: int = Field(
        48, ge=1, description="Requests sent before the filters run again."
    )
    max_rounds: int = Field(40, ge=1, description="Limit on rounds, and so on requests.")
    stall_rounds: int = Field(
        4,
        ge=1,
        description="Rounds in a row with no accepted instruction after which the loop ends.",
    )
    human_demonstrations: int = Field(
        6, ge=1, description="Seeds shown beside machine-written instructions."
    )
    machine_demonstrations: int = Field(
        2,
        ge=0,
        description="Accepted instructions of earlier rounds shown; seeds stand in while "
        "there are too few.",
    )
    machine_pool: Literal["lane", "all"] = Field(
        "lane",
        description="Where machine-written demonstrations are drawn from: `lane`, what "
        "requests of the same number wrote in earlier rounds, so that a changed "
        "seed affects only the lanes that showed it; `all`, every accepted "
        "instruction, as published.",
    )
    lane_rounds: int = Field(
        3,
        ge=1,
        description="Rounds after which a lane starts again with seeds alone; the fewer, the "
        "less is generated again when a seed changes.",
    )
    max_demonstration_tokens: int = Field(
        80, ge=8, description="Longer instructions are never shown as demonstrations."
    )
    temperature: float = Field(0.9, ge=0, description="Sampling temperature; 0 is greedy.")
    top_p: float = Field(0.95, gt=0, le=1, description="Nucleus of the next-token distribution.")
    presence_penalty: float = Field(
        0.0, description="Subtracted from the logit of every token already written."
    )
    max_new_tokens: int = Field(128, ge=1, description="Longest completion in tokens.")
    novelty_threshold: float = Field(
        0.7,
        gt=0,
        le=1,
        description="ROUGE-L F at which a candidate is too close to an accepted one.",
    )
    refuse_at: Literal["reaches", "exceeds"] = Field(
        "reaches",
        description="`reaches` refuses at the threshold, as REFINE-AF does; `exceeds` only "
        "above it, as Self-Instruct's code does.",
    )


class InstanceConfig(ConfigSection):
    demonstrations: int = Field(3, ge=0, description="Seed examples shown before the instruction.")
    max_demonstration_tokens: int = Field(
        96, ge=8, description="Longer examples are never shown as demonstrations."
    )
    temperature: float = Field(0.7, ge=0, description="Sampling temperature; 0 is greedy.")
    top_p: float = Field(0.95, gt=0, le=1, description="Nucleus of the next-token distribution.")
    max_new_tokens: int = Field(64, ge=1, description="Longest completion in tokens.")


class SelectionConfig(ConfigSection):
    keep_share: float = Field(
        0.9, gt=0, le=1, description="Share of valid instances kept, by reward, per dataset."
    )
