"""What several assets read in the same form: models, seeds and prompts from their rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from assets.step import Step
from refine_dagster.device import Device
from refine_dagster.lineage.rows import Parent, Row
from refine_dagster.refine_af.instance_prompt import Triple
from refine_dagster.refine_af.instances import InstancePrompt, SeedTriple, instance_prompts
from refine_dagster.refine_af.judge import Scores
from refine_dagster.self_instruct.decisions import Demonstration


def triple_of(row: Row) -> Triple:
    """The instruction, input and output of a row."""
    return Triple(row["instruction"], row["input"], row["output"])


def triples(rows: list[Row]) -> list[Triple]:
    """Triples in an order that depends on their texts alone, not on ids or files."""
    return sorted((triple_of(row) for row in rows), key=Triple.render)


def demonstrations(step: Step) -> list[Demonstration]:
    """The seed tasks as demonstrations of the proposal prompt."""
    return [
        Demonstration("seed_tasks", row["row_id"], row["seed_id"], row["instruction"])
        for row in step.rows("seed_tasks")
    ]


def prompts(step: Step, count_tokens: Callable[[str], int]) -> list[InstancePrompt]:
    """The prompt of every accepted instruction, in slot order."""
    seeds = [
        SeedTriple(row["row_id"], row["seed_id"], triple_of(row)) for row in step.rows("seed_tasks")
    ]
    instructions = sorted(
        step.rows("filtered_instructions"), key=lambda row: (row["method"], row["slot"])
    )
    return instance_prompts(
        instructions, seeds, count_tokens, step.profile.instances, step.profile.salt
    )


def base_scores(step: Step) -> list[Scores]:
    """The judge's scores of the base policy's valid instances: the scale of whitened rewards."""
    return [
        Scores(**{part.name: row[part.name] for part in fields(Scores)})
        for row in step.rows("reward_scored_instructions")
        if row["format_valid"]
    ]


def as_parent(asset: str, row: Row, role: str) -> Parent:
    """A row as a parent in a role."""
    return Parent(asset, row["row_id"], role)


def device_manifest(device: Device) -> dict[str, Any]:
    """What of the device decides the bytes that training makes."""
    return {
        "name": device.name,
        "dtype": device.dtype,
        "threads": device.threads,
        "deterministic": device.deterministic,
        "quantization": device.quantization,
    }
