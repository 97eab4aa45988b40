"""An operation: the same request in fewer words."""

from __future__ import annotations

from refine_dagster.teams_rl.operations import Operation

SHORTEN = Operation(
    name="shorten",
    description="Asks for the same in fewer words.",
    instruction="Say the instruction in fewer words.",
    demonstrations=(
        ("Please write a sentence that describes a boat.", "Describe a boat in a sentence."),
        ("Tell me what the name of a fruit could be.", "Name a fruit."),
    ),
)
