"""What one edit, one addition and one removal of a seed cost, against building from nothing.

Run it from the repository's root:

    python benchmarks/incremental.py SEEDS.jsonl --target 500
    python benchmarks/incremental.py SEEDS.jsonl --edits 6 --select "+filtered_instructions"

One home is built from the seed file. For each change a copy of it meets the changed file, and the
ledger tells what every stage asked, found in the completions store and sent, and how long it took.
The offline base model is trained without the seeds (`base_model.learn_seeds: false`), as a model
from a hub would be: were it retrained at every edit, every request would be another one.

`--pool all` runs the published draw of machine demonstrations, for comparison with the lanes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console

from refine_dagster.commands.terminal import showing_progress
from refine_dagster.home import Home
from refine_dagster.run import run_pipeline
from refine_dagster.warehouse.warehouse import Warehouse

Seed = dict[str, Any]
STAGE_1 = "raw_instructions"
STAGES = (
    "seed_tasks",
    "base_model",
    "feedback_judge",
    "raw_instructions",
    "instruction_decisions",
    "filtered_instructions",
    "reward_scored_instructions",
    "rl_policy_checkpoint",
    "instruction_dataset",
)


@dataclass(frozen=True)
class Change:
    """A changed seed file and what to call it."""

    name: str
    seeds: list[Seed]


def main() -> None:
    arguments = _arguments()
    console = Console(stderr=True)
    seeds = [json.loads(line) for line in arguments.seeds.read_text("utf-8").splitlines()]
    with tempfile.TemporaryDirectory() as folder, showing_progress(console):
        root = Path(folder)
        overrides = {
            "self_instruct.target": arguments.target,
            "self_instruct.machine_pool": arguments.pool,
            "base_model.learn_seeds": False,
        }
        built = root / "built"
        rebuild = _run(Home(built), seeds, overrides, arguments.select)
        shares: dict[str, list[float]] = {}
        for number, change in enumerate(_changes(seeds, arguments.edits)):
            copy = root / f"copy{number}"
            shutil.copytree(built, copy)
            cost = _run(Home(copy), change.seeds, overrides, arguments.select)
            shutil.rmtree(copy)
            print(f"\n## {change.name}\n\n{_table(cost, rebuild)}", flush=True)
            asked, sent = cost.filter(asset=STAGE_1).select("asked", "sent").row(0)
            shares.setdefault(change.name.split()[1], []).append(sent / asked)
    print("\n## Share of stage-1 requests sent\n")
    for kind, found in shares.items():
        print(f"- {kind}: {statistics.fmean(found):.1%} ({', '.join(f'{s:.1%}' for s in found)})")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("seeds", type=Path, help="a JSONL seed file in Self-Instruct's schema")
    parser.add_argument("--target", type=int, default=500, help="accepted instructions")
    parser.add_argument("--edits", type=int, default=1, help="how many seeds to edit, one by one")
    parser.add_argument("--pool", default="lane", help="self_instruct.machine_pool: lane or all")
    parser.add_argument("--select", default="+instruction_dataset", help="assets to materialise")
    return parser.parse_args()


def _changes(seeds: list[Seed], edits: int) -> list[Change]:
    """Seeds spread over the file, each edited in one word; one seed more; one seed less."""
    places = [round((number + 0.5) * len(seeds) / edits) for number in range(edits)]
    edited = [
        Change(
            f"one edit ({seeds[place]['id']})",
            [
                {**one, "instruction": f"{one['instruction']} Be brief."} if at == place else one
                for at, one in enumerate(seeds)
            ],
        )
        for place in places
    ]
    middle = len(seeds) // 3
    fresh = {
        **seeds[middle],
        "id": "added",
        "name": "added",
        "instruction": "Write two sentences about the first snow of winter.",
        "instances": [{"input": "", "output": "The snow fell softly. We went out to play."}],
        "is_classification": False,
    }
    return [
        *edited,
        Change("one addition", [*seeds, fresh]),
        Change(f"one removal ({seeds[middle]['id']})", seeds[:middle] + seeds[middle + 1 :]),
    ]


def _run(home: Home, seeds: list[Seed], overrides: dict[str, Any], select: str) -> pl.DataFrame:
    """Run on these seeds; what each asset's materialization cost, by the ledger."""
    path = home.root / "seeds.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(seed) + "\n" for seed in seeds), encoding="utf-8")
    os.environ["DAGSTER_HOME"] = str(home.dagster)
    before = 0
    if home.warehouse.exists():
        before = Warehouse(home.warehouse).query(_LAST).item()
    run_pipeline(home, "offline", {**overrides, "seeds.path": str(path)}, select)
    return Warehouse(home.warehouse).query(_COST, [before])


_LAST = "SELECT max(sequence) FROM lineage.materializations"
_COST = """
    SELECT asset, requests_asked AS asked, requests_reused AS reused, requests_sent AS sent,
           rows_total AS rows, rows_added AS added, rows_removed AS removed,
           date_diff('millisecond', started_at::TIMESTAMPTZ, finished_at::TIMESTAMPTZ) / 1000
               AS seconds
    FROM lineage.materializations WHERE sequence > ?
"""


def _table(cost: pl.DataFrame, rebuild: pl.DataFrame) -> str:
    """Stage by stage as Markdown; the last two columns are seconds against the rebuild's."""
    by_asset = {row["asset"]: row for row in rebuild.to_dicts()}
    lines = [
        "| stage | rows | added | removed | asked | reused | sent | seconds | rebuild, seconds |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    total = anew = 0.0
    for row in sorted(
        (row for row in cost.to_dicts() if row["asset"] in STAGES),
        key=lambda row: STAGES.index(row["asset"]),
    ):
        built = by_asset[row["asset"]]["seconds"]
        total, anew = total + row["seconds"], anew + built
        counts = " | ".join(
            str(row[name]) for name in ("rows", "added", "removed", "asked", "reused", "sent")
        )
        lines.append(f"| {row['asset']} | {counts} | {row['seconds']:.1f} | {built:.1f} |")
    lines.append(f"| all | | | | | | | {total:.1f} | {anew:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
