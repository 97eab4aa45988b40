"""The result of a run: funnels, reward, evaluation, privacy, cost per asset, where the files are.

Everything is read from the warehouse, so `refine-dagster status` prints the same later.
"""

from __future__ import annotations

from refine_dagster.commands.output import console, open_warehouse, rich_table, say
from refine_dagster.home import Home

FUNNELS = """
    SELECT 'instructions' AS stage, policy_round AS round, rule AS outcome, count(*) AS rows
    FROM instruction_decisions GROUP BY ALL
    UNION ALL
    SELECT if(policy_round = 1, 'instances, base policy', 'instances, former policy'),
           policy_round, rule, count(*)
    FROM reward_scored_instructions GROUP BY ALL
    UNION ALL
    SELECT 'instances, base policy', policy_round, rule, count(*)
    FROM base_scored_instructions GROUP BY ALL
    UNION ALL
    SELECT 'instances, refined policy',
           (SELECT max(policy_round) FROM filtered_instructions), rule, count(*)
    FROM instance_decisions GROUP BY ALL
    ORDER BY stage, round, outcome <> 'kept', rows DESC, outcome
"""
REWARD = """
    SELECT policy_round AS round, algorithm, preset, steps, held_out_prompts AS prompts,
           reward_before AS before, reward_after AS after,
           format('{:.4f} [{:.4f}, {:.4f}]', gain, gain_low, gain_high)
               AS "gain, 95 % interval"
    FROM rl_policy_checkpoint ORDER BY round
"""
JUDGE = """
    SELECT dimension, accuracy, chance, examples FROM feedback_judge_accuracy
    WHERE corruption = 'all' ORDER BY dimension
"""
EVALUATION = """
    SELECT arm, count(*) AS tasks, avg(rouge_l) AS rouge_l, avg(exact_match) AS exact_match
    FROM evaluation_report GROUP BY arm
    ORDER BY list_position(['base', 'seeds_only', 'self_instruct', 'refine_af'], arm)
"""
COMPARISONS = """
    SELECT arm, against, wins, ties, losses,
           format('{:+.2f} [{:+.2f}, {:+.2f}]', mean_delta, delta_low, delta_high)
               AS "ROUGE-L difference",
           format('{:.0f} % [{:.0f}, {:.0f}]', 100 * win_share, 100 * win_share_low,
                  100 * win_share_high)
               AS "tasks won"
    FROM evaluation_comparisons
    ORDER BY list_position(['base', 'seeds_only', 'self_instruct', 'refine_af'], arm),
             list_position(['base', 'seeds_only', 'self_instruct', 'refine_af'], against)
"""
# The strongest attack on each arm.
PRIVACY = """
    SELECT arm, members, others, if(auc IS NULL, NULL, attack) AS "strongest attack",
           format('{:.3f} [{:.3f}, {:.3f}]', auc, auc_low, auc_high) AS "AUC",
           tpr_at_low_fpr AS "TPR at 1 % FPR", refusal AS missing
    FROM privacy_report WHERE control = 'none'
    QUALIFY row_number() OVER (PARTITION BY arm ORDER BY advantage DESC, attack) = 1
    ORDER BY list_position(['seeds_only', 'self_instruct', 'refine_af'], arm)
"""
# The last materialization of each asset, in the order they were made.
COST = """
    SELECT asset, rows_total AS rows, rows_added AS added, rows_removed AS removed,
           requests_asked AS asked, requests_reused AS reused, requests_sent AS sent,
           date_diff('millisecond', started_at::TIMESTAMPTZ, finished_at::TIMESTAMPTZ) / 1000
               AS seconds,
           left(data_version, 12) AS version
    FROM lineage.materializations
    QUALIFY row_number() OVER (PARTITION BY asset ORDER BY sequence DESC) = 1
    ORDER BY sequence
"""


def show_summary(home: Home) -> None:
    """Print every section that has rows."""
    warehouse = open_warehouse(home)
    sections = (
        ("Funnel per stage", FUNNELS),
        ("Judge, accuracy on held-out tasks", JUDGE),
        ("Reward on held-out instructions, before and after RL", REWARD),
        ("Evaluation, mean ROUGE-L over held-out tasks", EVALUATION),
        ("Arms compared over held-out tasks", COMPARISONS),
        ("Privacy audit, telling members from non-members (0.5 is chance)", PRIVACY),
        ("Last materialization of each asset", COST),
    )
    for title, sql in sections:
        rows = warehouse.query(sql)
        if not rows.is_empty():
            console.print(rich_table(title, rows.columns, rows.rows()))
    for name in ("warehouse", "checkpoints", "dagster"):
        say(f"{name:<13}{getattr(home, name)}")
