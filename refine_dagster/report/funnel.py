"""What became of everything that went into a stage, and examples of what each rule rejected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import duckdb

from refine_dagster.report.charts import Bar, bar
from refine_dagster.report.table import written

EXAMPLES = 3
# What could not be read at all; other rules reject what was read.
FAILED = ("unparsed", "format")
_POOL = "SELECT max(policy_round) FROM main.filtered_instructions"


@dataclass(frozen=True)
class Example:
    """A rejected text, with what the rule measured and the nearest text if it names one."""

    row_id: str
    text: str
    value: float | None
    threshold: float | None
    nearest: str | None


@dataclass(frozen=True)
class Rejected:
    """A rule and what it rejected in a stage: how many, and the first few by row id."""

    rule: str
    count: int
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Stage:
    """A stage's funnel: counts as a bar, whether they add up, and what was rejected."""

    name: str
    read: int
    kept: int
    bar: Bar
    unaccounted: int
    rejected: tuple[Rejected, ...]


def read_funnel(connection: duckdb.DuckDBPyConnection) -> list[Stage]:
    """The funnel of every stage of every policy round, in order; stages without rows left out."""
    rounds = connection.execute(
        "SELECT DISTINCT policy_round FROM main.instruction_decisions ORDER BY ALL"
    ).fetchall()
    stages = []
    for (number,) in rounds:
        suffix = f", policy round {number}" if len(rounds) > 1 else ""
        here = f"policy_round = {number}"
        # Seeds are evolved in the first round alone.
        evolved = " + (SELECT count(*) FROM main.evolved_instructions)" if number == 1 else ""
        stages.append(
            _stage(
                connection,
                f"Candidate instructions{suffix}",
                f"SELECT * FROM main.instruction_decisions WHERE {here}",
                f"(SELECT count(*) FROM main.raw_instructions WHERE {here}){evolved}",
            )
        )
        policy = "base" if number == 1 else "former"
        stages.append(
            _stage(
                connection,
                f"Answers of the {policy} policy{suffix}",
                f"SELECT * FROM main.reward_scored_instructions WHERE {here}",
                f"(SELECT count(*) FROM main.filtered_instructions WHERE {here})",
            )
        )
    last = f"(SELECT count(*) FROM main.filtered_instructions WHERE policy_round = ({_POOL}))"
    refined = "SELECT * FROM main.instance_decisions"
    stages.append(_stage(connection, "Answers of the refined policy", refined, last))
    return [stage for stage in stages if stage.bar.segments]


def _stage(connection: duckdb.DuckDBPyConnection, name: str, decisions: str, read: str) -> Stage:
    counts = connection.execute(
        f"SELECT rule, count(*) FROM ({decisions}) GROUP BY rule "
        "ORDER BY rule <> 'kept', count(*) DESC, rule"
    ).fetchall()
    (rows_in,) = connection.execute(f"SELECT {read}").fetchall()[0]
    kept = sum(count for rule, count in counts if rule == "kept")
    parts = [(rule, count, _mark(rule)) for rule, count in counts]
    share = f", {100 * kept / rows_in:.0f} %" if rows_in else ""
    text = f"{written(kept)} of {written(rows_in)} kept{share}"
    return Stage(
        name,
        rows_in,
        kept,
        bar(name, text, parts, max(rows_in, sum(count for _, count in counts))),
        rows_in - sum(count for _, count in counts),
        tuple(
            Rejected(rule, count, _examples(connection, decisions, rule))
            for rule, count in counts
            if rule != "kept"
        ),
    )


def _mark(rule: str) -> str:
    if rule == "kept":
        return "kept"
    return "failed" if rule.partition(":")[0] in FAILED else "rejected"


def _examples(
    connection: duckdb.DuckDBPyConnection, decisions: str, rule: str
) -> tuple[Example, ...]:
    found = connection.execute(
        f"SELECT * FROM ({decisions}) WHERE rule = ? ORDER BY row_id LIMIT {EXAMPLES}", [rule]
    )
    names = [column[0] for column in found.description or ()]
    rows: list[dict[str, Any]] = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
    return tuple(
        Example(
            row["row_id"],
            _text(row),
            row["value"],
            row["threshold"],
            _nearest(connection, row.get("nearest_id")),
        )
        for row in rows
    )


def _text(row: dict[str, Any]) -> str:
    """A decision's text: the instruction, with the answer where there is one."""
    answer = [row[name] for name in ("input", "output") if row.get(name)]
    return "\n".join([row["instruction"], *answer])


def _nearest(connection: duckdb.DuckDBPyConnection, row_id: str | None) -> str | None:
    if row_id is None:
        return None
    found = connection.execute(
        """
        SELECT instruction FROM history.seed_tasks WHERE row_id = $1
        UNION ALL SELECT instruction FROM history.raw_instructions WHERE row_id = $1
        UNION ALL SELECT instruction FROM history.evolved_instructions WHERE row_id = $1
        UNION ALL SELECT instruction FROM history.filtered_instructions WHERE row_id = $1
        LIMIT 1
        """,
        [row_id],
    ).fetchall()
    return str(found[0][0]) if found else None
