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
    requests_per_round: int = Field(48, ge=1, description="Requests sent before filters run again.")
    max_rounds: int = Field(40, ge=1, description="Bound on rounds, and so on requests.")
    stall_rounds: int = Field(
        4,
        ge=1,
        description="Rounds in a row with no accepted instruction after which the loop ends.",
    )
    human_demonstrations: int = Field(6, ge=1, description="Seeds shown beside machine ones.")
    machine_demonstrations: int = Field(
        2,
        ge=0,
        description="Accepted instructions of earlier rounds shown; seeds stand in for "
        "those that do not exist yet.",
    )
    machine_pool: Literal["lane", "all"] = Field(
        "lane",
        description="Where machine demonstrations are drawn from: `lane`, what requests of the "
        "same number wrote in earlier rounds, which keeps a changed seed to the lanes that showed "
        "it; `all`, every accepted instruction, as published.",
    )
    lane_rounds: int = Field(
        3,
        ge=1,
        description="Rounds after which a lane begins afresh, with seeds alone: what is shared by "
        "fewer rounds is made anew less often when a seed changes.",
    )
    max_demonstration_tokens: int = Field(
        80, ge=8, description="Longer instructions are never shown as demonstrations."
    )
    temperature: float = Field(0.9, ge=0, description="Sampling temperature; 0 is greedy.")
    top_p: float = Field(0.95, gt=0, le=1, description="Nucleus of the next-token distribution.")
    presence_penalty: float = Field(
        0.0, description="Taken off the logit of a token already written."
    )
    max_new_tokens: int = Field(128, ge=1, description="Longest completion in tokens.")
    novelty_threshold: float = Field(
        0.7,
        gt=0,
        le=1,
        description="ROUGE-L F at which a candidate is too near to an accepted one.",
    )
    refuse_at: Literal["reaches", "exceeds"] = Field(
        "reaches",
        description="REFINE-AF refuses at the threshold, Self-Instruct's code only above it.",
    )


class InstanceConfig(ConfigSection):
    demonstrations: int = Field(3, ge=0, description="Seed triples shown before the instruction.")
    max_demonstration_tokens: int = Field(
        96, ge=8, description="Longer triples are never shown as demonstrations."
    )
    temperature: float = Field(0.7, ge=0, description="Sampling temperature; 0 is greedy.")
    top_p: float = Field(0.95, gt=0, le=1, description="Nucleus of the next-token distribution.")
    max_new_tokens: int = Field(64, ge=1, description="Longest completion in tokens.")


class SelectionConfig(ConfigSection):
    keep_share: float = Field(
        0.9, gt=0, le=1, description="Share of rule-abiding instances kept, by reward, per dataset."
    )
