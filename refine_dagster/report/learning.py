"""Curves of every training: reward and its parts, KL, entropy, diversity, losses."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

from refine_dagster.report.charts import LineChart, line_chart

_POLICY = {
    "reward": "Reward",
    "kl": "KL to where it began, nats",
    "entropy": "Entropy, nats",
    "diversity": "Distinct bigrams",
    "format_valid": "Share in the right format",
    "length": "Tokens of an answer",
}
_INSTRUCTOR = {
    "reward": "Instructor's reward",
    "valid_rate": "Share of rewrites kept",
    "diversity": "Vendi score of the rewrites",
}


@dataclass(frozen=True)
class Curves:
    """The charts of one training, and the asset that it belongs to."""

    title: str
    asset: str
    charts: tuple[LineChart, ...]


def read_curves(connection: duckdb.DuckDBPyConnection) -> list[Curves]:
    """The trainings that logged two steps or more, policies first."""
    rounds = connection.execute(
        "SELECT DISTINCT policy_round FROM main.rl_policy_checkpoint_steps ORDER BY ALL"
    ).fetchall()
    groups = []
    for (number,) in rounds:
        charts = _charts(
            connection,
            f"FROM main.rl_policy_checkpoint_steps WHERE policy_round = {number}",
            _POLICY,
        )
        title = "Reinforcement learning" + (f", round {number}" if len(rounds) > 1 else "")
        groups.append(Curves(title, "rl_policy_checkpoint", (*charts, *_parts(connection, number))))
    instructor = _charts(connection, "FROM main.instructor_policy_steps", _INSTRUCTOR)
    groups.append(Curves("The instructor's training", "instructor_policy", tuple(instructor)))
    groups.append(Curves("Fine-tuning", "fine_tuned_model", tuple(_losses(connection))))
    base = _charts(connection, "FROM main.base_model_steps", {"loss": "Loss of the base model"})
    groups.append(Curves("The base model", "base_model", tuple(base)))
    return [group for group in groups if group.charts]


def _charts(
    connection: duckdb.DuckDBPyConnection, source: str, titles: dict[str, str]
) -> list[LineChart]:
    rows = connection.execute(f"SELECT step, {', '.join(titles)} {source} ORDER BY step").fetchall()
    steps = [row[0] for row in rows]
    charts = [
        line_chart(title, steps, {title: [row[place] for row in rows]})
        for place, title in enumerate(titles.values(), 1)
    ]
    return [chart for chart in charts if chart is not None]


def _parts(connection: duckdb.DuckDBPyConnection, number: int) -> list[LineChart]:
    """A chart for each part of the reward: their scales differ."""
    rows = connection.execute(
        "SELECT step, parts FROM main.rl_policy_checkpoint_steps WHERE policy_round = ? "
        "ORDER BY step",
        [number],
    ).fetchall()
    names = sorted({name for _, parts in rows for name in parts or ()})
    charts = [
        line_chart(
            f"Part: {name}", [step for step, _ in rows], {name: [p.get(name) for _, p in rows]}
        )
        for name in names
    ]
    return [chart for chart in charts if chart is not None]


def _losses(connection: duckdb.DuckDBPyConnection) -> list[LineChart]:
    """The loss of each fine-tuned arm."""
    rows = connection.execute(
        "SELECT arm, list(step ORDER BY step), list(loss ORDER BY step) FROM ("
        "FROM main.fine_tuned_model_steps UNION ALL BY NAME FROM main.baseline_model_steps) "
        "GROUP BY arm ORDER BY arm"
    ).fetchall()
    charts = [line_chart(f"Loss: {arm}", steps, {arm: losses}) for arm, steps, losses in rows]
    return [chart for chart in charts if chart is not None]
