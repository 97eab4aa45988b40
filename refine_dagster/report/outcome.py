"""What was made and how sure we are: the figures that a reader looks for first."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

from refine_dagster.lineage.target import read_targets
from refine_dagster.report.charts import IntervalChart, interval_chart
from refine_dagster.report.table import Table, interval_text, selected, written

ARMS = ("base", "seeds_only", "self_instruct", "refine_af")
ARM_NAMES = {
    "base": "base model as it was",
    "seeds_only": "model tuned on the seeds alone",
    "self_instruct": "model tuned on the base policy's answers",
}
_IN_ORDER = f"list_position({list(ARMS)}, {{}})"


@dataclass(frozen=True)
class Tile:
    """A headline figure; `asset` is what it was read from."""

    label: str
    value: str
    note: str
    asset: str


@dataclass(frozen=True)
class Finding:
    """A sentence on what the figures show, and whether that is `good`, `bad` or `plain` news."""

    text: str
    mark: str
    asset: str


def verdict(low: float, high: float, better: str, worse: str) -> tuple[str, str]:
    """What an interval of a difference says, and its mark.

    >>> verdict(-0.1, 0.4, "higher", "lower")
    ('no difference shown', 'plain')
    """
    if low > 0:
        return better, "good"
    return (worse, "bad") if high < 0 else ("no difference shown", "plain")


def read_tiles(connection: duckdb.DuckDBPyConnection) -> list[Tile]:
    """Seeds, candidates, pool, dataset and calls; then scores, where there are any."""
    counted = connection.execute(
        """
        SELECT (SELECT count(*) FROM main.seed_tasks),
               (SELECT count(*) FROM main.instruction_decisions),
               (SELECT count(*) FROM main.filtered_instructions WHERE policy_round =
                   (SELECT max(policy_round) FROM main.filtered_instructions)),
               (SELECT count(*) FROM main.instruction_dataset),
               (SELECT sum(requests_sent)::BIGINT FROM lineage.materializations)
        """
    ).fetchall()[0]
    seeds, decided, pool, dataset, sent = (value or 0 for value in counted)
    tiles = [
        Tile("Seed tasks", written(seeds), "written by people", "seed_tasks"),
        Tile(
            "Accepted instructions",
            written(pool),
            f"of {written(decided)} candidates decided on",
            "filtered_instructions",
        ),
        Tile(
            "Rows of the dataset",
            written(dataset),
            f"{written(round(dataset / seeds, 2))} for each seed" if seeds else "",
            "instruction_dataset",
        ),
        Tile(
            "Requests sent",
            written(sent),
            f"{written(round(sent / dataset, 1))} for each row, training included"
            if dataset
            else "in all runs",
            "instruction_dataset",
        ),
    ]
    scores = _mean_scores(connection)
    if "refine_af" in scores:
        base = scores.get("base")
        tiles.append(
            Tile(
                "ROUGE-L of the tuned model",
                f"{scores['refine_af']:.2f}",
                f"base model: {base:.2f}" if base is not None else "",
                "evaluation_report",
            )
        )
    return tiles


def _mean_scores(connection: duckdb.DuckDBPyConnection) -> dict[str, float]:
    return dict(
        connection.execute(
            "SELECT arm, avg(rouge_l) FROM main.evaluation_report GROUP BY arm"
        ).fetchall()
    )


def read_findings(connection: duckdb.DuckDBPyConnection) -> list[Finding]:
    """What was reached, and what the intervals show: gain in reward, arms, judge."""
    findings = [
        Finding(f"{one.label}.", "good" if one.is_reached else "bad", one.asset)
        for one in read_targets(connection)
    ]
    for number, prompts, gain, low, high in connection.execute(
        "SELECT policy_round, held_out_prompts, gain, gain_low, gain_high "
        "FROM main.rl_policy_checkpoint ORDER BY policy_round"
    ).fetchall():
        told, mark = verdict(low, high, "rose", "fell")
        findings.append(
            Finding(
                f"Policy round {number}: the judge's reward on {prompts} held-out instructions "
                f"{told}: {interval_text(gain, low, high, 3)}. The policy was trained on this "
                "judge, so this says that training worked, not that answers are right.",
                mark,
                "rl_policy_checkpoint",
            )
        )
    for against, tasks, delta, low, high in connection.execute(
        "SELECT against, tasks, mean_delta, delta_low, delta_high FROM main.evaluation_comparisons "
        f"WHERE arm = 'refine_af' ORDER BY {_IN_ORDER.format('against')}"
    ).fetchall():
        told, mark = verdict(low, high, "better", "worse")
        findings.append(
            Finding(
                f"The model tuned on the dataset against the {ARM_NAMES.get(against, against)}: "
                f"{told} on {tasks} held-out tasks, {interval_text(delta, low, high)} points of "
                "ROUGE-L.",
                mark,
                "evaluation_report",
            )
        )
    accuracies = connection.execute(
        "SELECT min(accuracy), max(accuracy), any_value(chance) FROM main.feedback_judge_accuracy "
        "WHERE corruption = 'all'"
    ).fetchall()[0]
    if accuracies[0] is not None:
        low, high, chance = accuracies
        findings.append(
            Finding(
                f"The judge tells good examples from corrupted ones with an accuracy of {low:.2f} "
                f"to {high:.2f}, by part of the reward; guessing gives {chance:.2f}.",
                "good" if low > chance else "bad",
                "feedback_judge",
            )
        )
    return findings


def read_arms(connection: duckdb.DuckDBPyConnection) -> tuple[IntervalChart | None, Table]:
    """Arm against arm with intervals, and every arm's mean scores."""
    rows = []
    for arm, against, delta, low, high, wins, ties, losses in connection.execute(
        "SELECT arm, against, mean_delta, delta_low, delta_high, wins, ties, losses "
        f"FROM main.evaluation_comparisons ORDER BY {_IN_ORDER.format('arm')} DESC, "
        f"{_IN_ORDER.format('against')}"
    ).fetchall():
        told, mark = verdict(low, high, "better", "worse")
        text = f"{interval_text(delta, low, high)}; {wins} won, {ties} tied, {losses} lost"
        rows.append((f"{arm} against {against}", text, delta, low, high, told, mark))
    chart = interval_chart(
        "Difference in mean ROUGE-L, 95 % interval over tasks", 0.0, "no difference", rows
    )
    table = selected(
        connection,
        "One arm, mean over held-out tasks",
        f"""
        SELECT arm, count(*) AS tasks, sum(instances)::BIGINT AS answers,
               round(avg(rouge_l), 2) AS "ROUGE-L", round(avg(exact_match), 2) AS "exact match"
        FROM main.evaluation_report GROUP BY arm ORDER BY {_IN_ORDER.format("arm")}
        """,
    )
    return chart, table


def read_privacy(connection: duckdb.DuckDBPyConnection) -> tuple[IntervalChart | None, Table]:
    """The strongest attack on each arm, and all attacks and controls."""
    rows: list[tuple[str, str, float, float, float, str, str]] = []
    for arm, attack, auc, low, high in connection.execute(
        f"""
        SELECT arm, attack, auc, auc_low, auc_high FROM main.privacy_report
        WHERE control = 'none' AND auc IS NOT NULL
        QUALIFY row_number() OVER (PARTITION BY arm ORDER BY advantage DESC, attack) = 1
        ORDER BY {_IN_ORDER.format("arm")}
        """
    ).fetchall():
        chance = low <= 0.5 <= high
        told = "no leak shown" if chance else "members can be told"
        text = f"{attack}: AUC {auc:.3f} [{low:.3f}, {high:.3f}]"
        rows.append((arm, text, auc, low, high, told, "plain" if chance else "bad"))
    chart = interval_chart("The strongest attack on each arm, 95 % interval", 0.5, "chance", rows)
    columns = ", ".join(f"round({name}, 3) AS {name}" for name in ("auc", "auc_low", "auc_high"))
    table = selected(
        connection,
        "One attack on an arm, or a control whose result is known in advance",
        f"""
        SELECT arm, if(control = 'none', 'audit', control) AS control, attack, members, others,
               {columns}, round(tpr_at_low_fpr, 3) AS "TPR at 1 % FPR", refusal AS missing
        FROM main.privacy_report
        ORDER BY {_IN_ORDER.format("arm")}, control <> 'none', control, attack
        """,
    )
    return chart, table


def read_judge(connection: duckdb.DuckDBPyConnection) -> Table:
    """The judge's held-out figures by reward part."""
    return selected(
        connection,
        "One part of the reward: the judge on held-out examples",
        """
        SELECT a.dimension AS part, a.examples, round(a.accuracy, 3) AS accuracy,
               round(a.chance, 3) AS chance,
               round(max(q.value) FILTER (q.measure = 'auc'), 3) AS "AUC",
               round(max(q.value) FILTER (q.measure = 'auc_correctness'), 3)
                   AS "AUC, right against wrong",
               round(max(q.value) FILTER (q.measure = 'ece'), 3) AS "calibration error"
        FROM main.feedback_judge_accuracy AS a
        LEFT JOIN main.feedback_judge_quality AS q ON q.dimension = a.dimension
        WHERE a.corruption = 'all' GROUP BY ALL ORDER BY a.dimension
        """,
    )
