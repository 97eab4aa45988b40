"""`refine-dagster run`, `status` and `ui`: materialise the graph, show the result, open the UI."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

import refine_dagster
from refine_dagster.commands.output import (
    ProfileOption,
    SeedsOption,
    SetOption,
    console,
    existing_home,
    open_warehouse,
    overrides_of,
    rich_table,
    say,
)
from refine_dagster.errors import RefineError
from refine_dagster.home import Home, find_home

DEFINITIONS = "refine_dagster.definitions"
# Titles of the summary -> queries; a section without rows is left out.
SUMMARY = {
    "Funnel per stage": """
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
    """,
    "Judge, accuracy on held-out tasks": """
        SELECT dimension, accuracy, chance, examples FROM feedback_judge_accuracy
        WHERE corruption = 'all' ORDER BY dimension
    """,
    "Reward on held-out instructions, before and after RL": """
        SELECT policy_round AS round, algorithm, preset, steps, held_out_prompts AS prompts,
               reward_before AS before, reward_after AS after,
               format('{:.4f} [{:.4f}, {:.4f}]', gain, gain_low, gain_high)
                   AS "gain, 95 % interval"
        FROM rl_policy_checkpoint ORDER BY round
    """,
    "Evaluation, mean ROUGE-L over held-out tasks": """
        SELECT arm, count(*) AS tasks, avg(rouge_l) AS rouge_l, avg(exact_match) AS exact_match
        FROM evaluation_report GROUP BY arm
        ORDER BY list_position(['base', 'seeds_only', 'self_instruct', 'refine_af'], arm)
    """,
    "Arms compared over held-out tasks": """
        SELECT arm, against, wins, ties, losses,
               format('{:+.2f} [{:+.2f}, {:+.2f}]', mean_delta, delta_low, delta_high)
                   AS "ROUGE-L difference",
               format('{:.0f} % [{:.0f}, {:.0f}]', 100 * win_share, 100 * win_share_low,
                      100 * win_share_high)
                   AS "tasks won"
        FROM evaluation_comparisons
        ORDER BY list_position(['base', 'seeds_only', 'self_instruct', 'refine_af'], arm),
                 list_position(['base', 'seeds_only', 'self_instruct', 'refine_af'], against)
    """,
    # The strongest attack on each arm.
    "Privacy audit, telling members from non-members (0.5 is chance)": """
        SELECT arm, members, others, if(auc IS NULL, NULL, attack) AS "strongest attack",
               format('{:.3f} [{:.3f}, {:.3f}]', auc, auc_low, auc_high) AS "AUC",
               tpr_at_low_fpr AS "TPR at 1 % FPR", refusal AS missing
        FROM privacy_report WHERE control = 'none'
        QUALIFY row_number() OVER (PARTITION BY arm ORDER BY advantage DESC, attack) = 1
        ORDER BY list_position(['seeds_only', 'self_instruct', 'refine_af'], arm)
    """,
    # The last materialization of each asset, in the order they were made.
    "Last materialization of each asset": """
        SELECT asset, rows_total AS rows, rows_added AS added, rows_removed AS removed,
               requests_asked AS asked, requests_reused AS reused, requests_sent AS sent,
               date_diff('millisecond', started_at::TIMESTAMPTZ, finished_at::TIMESTAMPTZ) / 1000
                   AS seconds,
               left(data_version, 12) AS version
        FROM lineage.materializations
        QUALIFY row_number() OVER (PARTITION BY asset ORDER BY sequence DESC) = 1
        ORDER BY sequence
    """,
}


def run(
    select: Annotated[
        str, typer.Option(help="Assets to materialise, in Dagster's selection syntax.")
    ] = "*",
    profile: ProfileOption = None,
    seeds: SeedsOption = None,
    target: Annotated[
        int | None,
        typer.Option(help="Accepted instructions at which stage 1 ends: self_instruct.target."),
    ] = None,
    settings: SetOption = None,
    wait: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for another run in this home to end.")
    ] = 0.0,
) -> None:
    """Materialise the graph and print a summary.

    Example: refine-dagster run --seeds my_seeds.jsonl --target 200
    """
    from refine_dagster.commands.terminal import showing_progress
    from refine_dagster.run import run_pipeline

    overrides = overrides_of(settings, seeds__path=seeds, self_instruct__target=target)
    home = find_home()
    with showing_progress(console):
        run_pipeline(home, profile, overrides, select, wait)
    _show_summary(home)


def status() -> None:
    """Show the result of the last run: funnels, reward, evaluation, cost per asset.

    Example: refine-dagster status
    """
    _show_summary(existing_home())


def _show_summary(home: Home) -> None:
    """Print every section that has rows, read from the warehouse, and where the files are."""
    warehouse = open_warehouse(home)
    for title, sql in SUMMARY.items():
        rows = warehouse.query(sql)
        if not rows.is_empty():
            console.print(rich_table(title, rows.columns, rows.rows()))
    for name in ("warehouse", "checkpoints", "dagster"):
        say(f"{name:<13}{getattr(home, name)}")


def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the web server.")] = 3000,
    host: Annotated[str, typer.Option(help="Address of the web server.")] = "127.0.0.1",
) -> None:
    """Open the Dagster UI on this project, with runs kept under REFINE_HOME.

    Example: refine-dagster ui --port 3001
    """
    from refine_dagster.run import prepare_dagster_home

    _require_free(host, port)
    home = find_home()
    prepare_dagster_home(home)
    os.environ["REFINE_HOME"] = str(home.root)
    # Nothing is imported from the folder that this is called in, by Dagster's processes either.
    os.environ["PYTHONSAFEPATH"] = "1"
    code = ["-m", DEFINITIONS, "-d", str(Path(refine_dagster.__file__).parents[1])]
    dagster = [sys.executable, "-P", "-m", "dagster", "dev", *code]
    os.execv(sys.executable, [*dagster, "--host", host, "--port", str(port)])


def _require_free(host: str, port: int) -> None:
    """Refuse an address that cannot be listened on: Dagster says so only after its start."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as listener:
            # As the web server does: a port whose connections are just closed is free.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        raise RefineError(
            f"cannot listen on {host}, port {port}: {error.strerror}",
            fix="choose another with --port or --host, or stop what listens there",
        ) from error
