"""Natural keys: what stays the same when a row is made anew, so that new and old can be compared.

A row id is a hash of everything behind the row, so a row made anew has another id. Its natural key
says which place it fills: a seed's id, a candidate's slot, an arm and a task. The old and the new
row of one key are the two versions of one thing; a key is data, declared here for every table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from refine_dagster.lineage.tables import ROUND_TABLES
from refine_dagster.policy_round import FIRST_ROUND, later_rounds

# Payload columns that name a row of another table: they follow that row and say nothing new.
REFERENCES = frozenset({"candidate_id", "nearest_id", "instruction_id"})


@dataclass(frozen=True)
class NaturalKey:
    """What identifies a row of one table across its versions; empty for a table of one row.

    Attributes:
        columns: payload columns, in the order in which they are shown.
        owner: (payload column with a row id, the table of that row, in whatever policy round): the
            natural key of that row comes first, because the id itself changes with every version.
    """

    columns: tuple[str, ...] = ()
    owner: tuple[str, str] | None = None


_SLOT = NaturalKey(("method", "slot"))
_INSTANCE = NaturalKey(owner=("instruction_id", "filtered_instructions"))

_KEYS = {
    "seed_tasks": NaturalKey(("seed_id",)),
    "base_model": NaturalKey(),
    "base_model_steps": NaturalKey(("step",)),
    "feedback_judge": NaturalKey(),
    "feedback_judge_accuracy": NaturalKey(("dimension", "corruption")),
    "feedback_judge_quality": NaturalKey(("dimension", "measure")),
    "feedback_judge_calibration": NaturalKey(("dimension", "bin")),
    "instructor_policy": NaturalKey(),
    "instructor_policy_steps": NaturalKey(("step",)),
    "evolved_instructions": _SLOT,
    "raw_instructions": _SLOT,
    "instruction_decisions": _SLOT,
    "filtered_instructions": _SLOT,
    "reward_scored_instructions": _INSTANCE,
    "base_scored_instructions": _INSTANCE,
    "rl_policy_checkpoint": NaturalKey(("algorithm", "preset")),
    "rl_policy_checkpoint_steps": NaturalKey(("step",)),
    "instruction_dataset": _INSTANCE,
    "instance_decisions": _INSTANCE,
    "fine_tuned_model": NaturalKey(("arm",)),
    "fine_tuned_model_steps": NaturalKey(("arm", "step")),
    "baseline_model": NaturalKey(("arm",)),
    "baseline_model_steps": NaturalKey(("arm", "step")),
    "evaluation_report": NaturalKey(("arm", "task")),
    "evaluation_comparisons": NaturalKey(("arm", "against")),
    "evaluation_predictions": NaturalKey(("arm", "task", "instance")),
    "privacy_report": NaturalKey(("arm", "control", "attack")),
    "privacy_audits": NaturalKey(("arm", "control")),
    "privacy_scores": NaturalKey(("arm", "instruction", "input")),
    "exports": NaturalKey(("path",)),
}
# A table of a later policy round has the key of its kind: slots differ from round to round.
NATURAL_KEYS: Mapping[str, NaturalKey] = MappingProxyType(
    {name: key for name, key in _KEYS.items() if name != "base_scored_instructions"}
    | {one.name(base): _KEYS[base] for one in later_rounds() for base in ROUND_TABLES}
)


def key_sql(table: str, source: str) -> tuple[str, str]:
    """SQL for the natural key of rows of a table, as text.

    Args:
        table: the rows' table.
        source: the alias that rows of `history.<table>` have in the query.

    Returns:
        The expression, and the JOIN that it needs; empty where it needs none.
    """
    key = NATURAL_KEYS[table]
    parts = [f"{source}.{column}" for column in key.columns]
    if key.owner is None:
        return (f"concat_ws(' ', {', '.join(parts)})" if parts else "''"), ""
    column, owner = key.owner
    parts = [f"coalesce(owner.key, {source}.{column})", *parts]
    named = []
    for one in (FIRST_ROUND, *later_rounds()):
        owned, join = key_sql(one.name(owner), "named")
        named.append(
            f"SELECT named.row_id, any_value({owned}) AS key "
            f"FROM history.{one.name(owner)} AS named {join} GROUP BY named.row_id"
        )
    return f"concat_ws(' ', {', '.join(parts)})", (
        f"LEFT JOIN ({' UNION ALL '.join(named)}) AS owner ON owner.row_id = {source}.{column}"
    )
