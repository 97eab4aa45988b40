"""How long trace and impact take on a warehouse of a million rows.

Run it from the repository's root:

    python benchmarks/trace.py
    python benchmarks/trace.py --candidates 30000 --keep small_trace

It fills a warehouse through the real schema, in bulk, with the layers of the real graph: seeds, one
base model, one judge, candidates over twenty rounds (six seeds and two earlier candidates shown to
each), decisions, accepted instructions, scored instances, one policy, the dataset, one fine-tuned
model. Then it times the engine's own functions, opening the file included, each several times, and
the filtered views. The aim: the trace of one row in under one second.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
from rich.console import Console
from rich.table import Table

from refine_dagster.lineage.impact import impact
from refine_dagster.lineage.trace import trace
from refine_dagster.lineage.trace_text import as_tree
from refine_dagster.warehouse.tables import TABLES
from refine_dagster.warehouse.warehouse import Warehouse

SEEDS = 1000
ROUNDS = 20
# Three candidates of seven are accepted, and of those four of five make it into the dataset.
ACCEPTED = "i % 7 IN (0, 2, 4)"
KEPT = f"{ACCEPTED} AND i % 5 > 0"
# Instructions that the policy learns from.
POLICY_PROMPTS = 5000


def fill(warehouse: Warehouse, candidates: int) -> None:
    """Fill an empty warehouse with the layers described above.

    Args:
        warehouse: a new one.
        candidates: rows of `raw_instructions`; all tables together have about 3.5 times as many.
    """
    every = f"range({candidates}) AS n(i)"
    a_round = max(1, candidates // ROUNDS)
    base = edge("base_model", "0", "generator")
    judge = edge("feedback_judge", "0", "judge")
    shown = [
        edge("seed_tasks", f"hash(i, 'shown', {slot}) % {SEEDS}", "demonstration")
        for slot in range(3)
    ]
    earlier = f"i // {a_round} * {a_round}"
    machine = [
        edge(
            "raw_instructions",
            f"(hash(i, 'machine', {slot}) % ({earlier}))::BIGINT // 7 * 7",
            "demonstration",
            f"i >= {a_round}",
        )
        for slot in range(2)
    ]
    drawn = [edge("seed_tasks", f"hash(i, {slot}) % {SEEDS}", "demonstration") for slot in range(6)]
    candidate = edge("raw_instructions", "i", "candidate")
    instance = [edge("filtered_instructions", "i", "instruction"), judge, *shown]
    policy = edge("rl_policy_checkpoint", "0", "policy")
    all_seeds = f"SELECT 0 AS i, j FROM range({SEEDS}) AS s(j)"
    prompts = (
        f"SELECT 0 AS i, n.i AS j FROM {every} WHERE {ACCEPTED} "
        f"ORDER BY hash(n.i, 'prompt') LIMIT {POLICY_PROMPTS}"
    )
    learnt = f"SELECT 0 AS i, n.i AS j FROM {every} WHERE {KEPT}"
    with warehouse.connect() as connection:
        layer(connection, 1, "seed_tasks", f"range({SEEDS}) AS n(i)", [])
        layer(connection, 2, "base_model", "range(1) AS n(i)", [many("seed_tasks", all_seeds)])
        layer(connection, 3, "feedback_judge", "range(1) AS n(i)", [many("seed_tasks", all_seeds)])
        layer(connection, 4, "raw_instructions", every, [base, *drawn, *machine])
        nearest = edge("seed_tasks", f"hash(i, 'near') % {SEEDS}", "nearest")
        layer(connection, 5, "instruction_decisions", every, [candidate, nearest])
        accepted = f"{every} WHERE {ACCEPTED}"
        decision = edge("instruction_decisions", "i", "decision")
        layer(connection, 6, "filtered_instructions", accepted, [candidate, decision])
        by_base = edge("base_model", "0", "policy")
        layer(connection, 7, "reward_scored_instructions", accepted, [*instance, by_base])
        layer(
            connection,
            8,
            "rl_policy_checkpoint",
            "range(1) AS n(i)",
            [edge("base_model", "0", "base"), judge, many("filtered_instructions", prompts)],
        )
        layer(connection, 9, "instance_decisions", accepted, [*instance, policy])
        decided = edge("instance_decisions", "i", "decision")
        rows = f"{every} WHERE {KEPT}"
        layer(connection, 9, "instruction_dataset", rows, [*instance, policy, decided])
        layer(
            connection,
            10,
            "fine_tuned_model",
            "range(1) AS n(i)",
            [edge("base_model", "0", "base"), many("instruction_dataset", learnt)],
        )
        for table in ("raw_instructions", "reward_scored_instructions", "instance_decisions"):
            completions(connection, table)
        connection.execute("CHECKPOINT")


def edge(table: str, number: str, role: str, where: str = "true") -> str:
    """SELECT of one parent for each row `i` of a layer: (i, parent table, its number, role)."""
    return f"SELECT i, '{table}' AS asset, {number} AS j, '{role}' AS role FROM made WHERE {where}"


def many(table: str, pairs: str) -> str:
    """The same for a row that learnt from many: `pairs` selects (i, j)."""
    return f"SELECT i, '{table}' AS asset, j, 'trained_on' AS role FROM ({pairs})"


def layer(
    connection: duckdb.DuckDBPyConnection, sequence: int, table: str, rows: str, edges: list[str]
) -> None:
    """Insert one table's rows (`rows`: a FROM clause that yields i), its edges and a ledger row."""
    connection.execute(f"CREATE OR REPLACE TEMP TABLE made AS SELECT i FROM {rows}")
    union = " UNION ".join(edges) or "SELECT 0 AS i, '' AS asset, 0 AS j, '' AS role WHERE false"
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE made_edges AS "
        f"SELECT i, asset, md5(asset || j) AS row_id, role FROM ({union})"
    )
    connection.execute(
        "INSERT INTO lineage.parents "
        f"SELECT '{table}', 1, md5('{table}' || i)::UUID, asset, 1, row_id::UUID, role "
        "FROM made_edges ORDER BY ALL"
    )
    structural = "1 AS policy_round, " if TABLES[table].rounds_from else ""
    payload = structural + ", ".join(
        f"{value(name, kind, table)} AS {name}" for name, (kind, _) in TABLES[table].columns.items()
    )
    connection.execute(
        f"""
        INSERT INTO history.{table} BY NAME
        SELECT md5('{table}' || made.i) AS row_id, {payload}, coalesce(parents, []) AS parents,
               sha256(made.i::VARCHAR) AS row_hash, {sequence} AS added_in
        FROM made LEFT JOIN (
            SELECT i, list({{'asset': asset, 'row_id': row_id, 'role': role}}) AS parents
            FROM made_edges GROUP BY i
        ) AS listed ON listed.i = made.i
        ORDER BY row_id
        """
    )
    connection.execute(
        f"""
        INSERT OR REPLACE INTO lineage.materializations BY NAME
        SELECT {sequence} AS sequence, 'benchmark' AS run_id, '{TABLES[table].asset}' AS asset,
               sha256('{table}') AS data_version, '1' AS code_version, '' AS config_hash,
               count(*) AS rows_total, count(*) AS rows_added, 0 AS rows_removed, 0 AS rows_reused,
               0 AS requests_asked, 0 AS requests_reused, 0 AS requests_sent, '{{}}' AS tables,
               '' AS completions, '{{}}' AS metrics, '{{}}' AS device, '' AS started_at,
               '' AS finished_at, '' AS previous_digest, '' AS digest
        FROM made
        """
    )


def completions(connection: duckdb.DuckDBPyConnection, table: str) -> None:
    """Store the completion behind each row of a table, with a prompt of some hundred characters."""
    connection.execute(
        f"""
        INSERT INTO store.completions BY NAME
        SELECT completion_key AS key, 'propose' AS role, sha256('model') AS model,
               repeat('Instruction: ' || instruction, 8) AS prompt, '{{}}' AS sampling, 1 AS seed,
               instruction AS text, 'stop' AS finish_reason, 100 AS prompt_tokens,
               20 AS completion_tokens, 0.1 AS seconds, 'benchmark' AS run_id
        FROM history.{table}
        """
    )


def value(name: str, kind: str, table: str) -> str:
    """A plausible payload for a column, as SQL over `made.i`."""
    if name == "completion_key":
        home = "instance_decisions" if table == "instruction_dataset" else table
        return f"sha256('{home}' || made.i)"
    if kind == "VARCHAR":
        long = "'Write a few words about thing number ' || made.i || ' and say why it matters.'"
        return long if name in ("instruction", "output") else f"'{name} ' || made.i"
    if kind in ("BIGINT", "DOUBLE"):
        return f"(made.i % 1000)::{kind}"
    return "made.i % 2 = 0" if kind == "BOOLEAN" else f"[]::{kind}"


def measure(warehouse: Warehouse, repeats: int, console: Console) -> None:
    """Time each question, and print a table: rows found, first time, medians of the repeats.

    CPU seconds are this process's, all threads together: on a busy machine they tell more.
    """
    row_id = one(warehouse, "SELECT max(row_id) FROM main.instruction_dataset")
    candidate = one(warehouse, "SELECT max(row_id) FROM main.raw_instructions")
    seed = one(warehouse, "SELECT max(row_id) FROM main.seed_tasks")
    ancestors, descendants = "lineage.ancestors", "lineage.descendants"
    counted = "SELECT count(*) FROM"
    questions: list[tuple[str, Callable[[], int]]] = [
        ("trace(dataset row)", lambda: trace(warehouse, row_id).rows.height),
        ("trace(dataset row), by 12 digits", lambda: trace(warehouse, row_id[:12]).rows.height),
        ("trace and draw the tree", lambda: drawn(warehouse, row_id)),
        ("trace(candidate)", lambda: trace(warehouse, candidate).rows.height),
        (
            "ancestors_of(dataset row)",
            lambda: one(warehouse, f"{counted} {ancestors}_of('{row_id}')"),
        ),
        (
            "ancestors WHERE row_id = dataset row",
            lambda: one(warehouse, f"{counted} {ancestors} WHERE row_id = '{row_id}'"),
        ),
        ("descendants_of(seed)", lambda: one(warehouse, f"{counted} {descendants}_of('{seed}')")),
        (
            "descendants WHERE row_id = seed",
            lambda: one(warehouse, f"{counted} {descendants} WHERE row_id = '{seed}'"),
        ),
        ("impact(seed)", lambda: impact(warehouse, seed).rows.height),
        ("trace(seed, down)", lambda: trace(warehouse, seed, down=True).rows.height),
    ]
    table = Table(title="opening the file included")
    for name in ("question", "rows found", "first, s", "median, s", "CPU, s"):
        table.add_column(name, justify="left" if name == "question" else "right")
    for name, ask in questions:
        found, seconds, cpu = 0, list[float](), list[float]()
        for _ in range(repeats):
            begun, working = time.perf_counter(), time.process_time()
            found = ask()
            seconds.append(time.perf_counter() - begun)
            cpu.append(time.process_time() - working)
        figures = (seconds[0], statistics.median(seconds), statistics.median(cpu))
        table.add_row(name, str(found), *(f"{figure:.2f}" for figure in figures))
    console.print(table)


def one(warehouse: Warehouse, sql: str) -> Any:
    """The single value of a query."""
    return warehouse.query(sql).item()


def drawn(warehouse: Warehouse, row_id: str) -> int:
    """Trace a row and lay it out for the terminal; the number of its parents."""
    return len(as_tree(trace(warehouse, row_id)).children)


def main() -> None:
    """Make the warehouse, or take the one that is kept, and measure."""
    parser = argparse.ArgumentParser(description="Time trace and impact on a million rows.")
    parser.add_argument("--candidates", type=int, default=300_000, help="rows of raw_instructions")
    parser.add_argument("--repeats", type=int, default=5, help="times each question is asked")
    parser.add_argument("--keep", type=Path, help="folder that keeps the warehouse for a next time")
    asked = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as passing:
        folder = asked.keep or Path(passing)
        warehouse = Warehouse(folder / "warehouse.duckdb")
        if not warehouse.path.exists():
            begun = time.perf_counter()
            fill(warehouse, asked.candidates)
            console.print(f"filled in {time.perf_counter() - begun:.0f} s", highlight=False)
        rows = one(warehouse, "SELECT count(*) FROM lineage.rows")
        edges = one(warehouse, "SELECT count(*) FROM lineage.parents")
        size = warehouse.path.stat().st_size / 1e6
        console.print(f"{rows:,} rows, {edges:,} edges, {size:.0f} MB", highlight=False)
        measure(warehouse, asked.repeats, console)


if __name__ == "__main__":
    main()
