"""Where the processor time of `refine-dagster run` goes, stage by stage, and what is the floor.

Run it from the repository's root:

    python benchmarks/where.py offline
    python benchmarks/where.py tests/pipeline/small.yaml --set reinforcement.steps=4

The command runs in this process, in a new home. A thread looks at the main thread's stack every
20 ms and books the process's CPU seconds since its last look on two names: the stage, which is the
asset whose body is on the stack, and the part, which is the innermost of the project's modules
there. Parts that `plain_run.py` has too are the floor: models at work, and what the engine imports
for them (PyTorch, transformers). The others are what Dagster, DuckDB and lineage cost.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import threading
import time
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.table import Table

ROOT = str(Path(__file__).resolve().parents[1]) + os.sep
INTERVAL_S = 0.02
START = "start, plan, summary"
CHECKS, SQL_MODELS = "asset checks", "SQL models"
WORK, IMPORTED = "work", "its imports"
FLOOR = (WORK, IMPORTED)
# Start of a module's path -> part, the first that fits; anything else of the engine is the work.
PARTS = (
    ("refine_dagster/generation/completions", "store"),
    ("refine_dagster/warehouse", "warehouse"),
    ("refine_dagster/lineage", "warehouse"),
    ("assets/preview", "plots"),
    ("refine_dagster/definitions", "Dagster"),
    ("refine_dagster/run", "Dagster"),
    ("resources/event_log", "Dagster"),
    *((start, "rest") for start in ("assets/", "resources/", "refine_dagster/sql_models")),
    *((f"refine_dagster/{name}", "rest") for name in ("cli", "commands", "progress")),
    ("refine_dagster/", WORK),
)


def part_of(path: str) -> str:
    """The part that a module of the project belongs to."""
    return next(part for start, part in PARTS if path.startswith(start))


class Sampler(threading.Thread):
    """Books CPU seconds on (stage, part) and on (part, function) until it is told to stop."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.spent: defaultdict[tuple[str, str], float] = defaultdict(float)
        self.places: defaultdict[tuple[str, str], float] = defaultdict(float)
        self.ended = threading.Event()

    def run(self) -> None:
        last = time.process_time()
        while not self.ended.wait(INTERVAL_S):
            frame = sys._current_frames().get(threading.main_thread().ident or 0)
            now = time.process_time()
            stage, part, place = named(frame)
            self.spent[stage, part] += now - last
            self.places[part, place] += now - last
            last = now


def named(frame: FrameType | None) -> tuple[str, str, str]:
    """Stage, part and place of a stack."""
    stage, part, place, importing, dagster = START, "", "", False, False
    while frame is not None:
        file = frame.f_code.co_filename
        # What is imported runs code of the project's modules too; the importer is what counts.
        if file.startswith("<frozen importlib"):
            importing, part = True, ""
        elif file.startswith(ROOT) and not file.startswith(f"{ROOT}benchmarks"):
            path = file.removeprefix(ROOT)
            if not part:
                part, place = part_of(path), f"{path}:{frame.f_code.co_name}"
            if path.startswith("assets/"):
                stage = stage_of(path, frame, stage)
        dagster = dagster or f"{os.sep}dagster{os.sep}" in file
        frame = frame.f_back
    if part == WORK and stage == START:
        part = "rest"
    if importing:
        return stage, IMPORTED if part == WORK else "other imports", place
    return stage, part or ("Dagster" if dagster else "rest"), place


def stage_of(path: str, frame: FrameType, inner: str) -> str:
    """The stage of an asset's body, known by its context."""
    if path.startswith("assets/checks"):
        return CHECKS
    if path.startswith("assets/marts"):
        return SQL_MODELS
    key = getattr(frame.f_locals.get("context"), "asset_key", None)
    return key.to_user_string() if key else inner


def show(sampler: Sampler, all_s: float) -> None:
    """Print the table of stages by parts, and the dearest places outside the floor."""
    console = Console(highlight=False, soft_wrap=True)
    found = {part for _, part in sampler.spent}
    parts = sorted(found, key=lambda part: (part not in FLOOR, part))
    table = Table("CPU seconds", "all", *parts)
    stages: defaultdict[str, float] = defaultdict(float)
    for (stage, _), seconds in sampler.spent.items():
        stages[stage] += seconds
    for stage, seconds in sorted(stages.items(), key=lambda one: -one[1]):
        cells = [f"{sampler.spent[stage, part]:.1f}" for part in parts]
        table.add_row(stage, f"{seconds:.1f}", *("" if cell == "0.0" else cell for cell in cells))
    sums = [sum(s for (_, one), s in sampler.spent.items() if one == part) for part in parts]
    table.add_row("all", f"{sum(sums):.1f}", *(f"{seconds:.1f}" for seconds in sums))
    console.print(table)
    floor = sum(seconds for (_, part), seconds in sampler.spent.items() if part in FLOOR)
    console.print(f"process {all_s:.1f} s, floor {floor:.1f} s, ratio {all_s / floor:.3f}")
    beside = {key: seconds for key, seconds in sampler.places.items() if key[0] not in FLOOR}
    for (part, place), seconds in sorted(beside.items(), key=lambda one: -one[1])[:25]:
        console.print(f"{seconds:7.2f} {part}: {place}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("profile", help="a packaged profile or a YAML file")
    parser.add_argument("--set", action="append", default=[], help="section.field=value")
    parser.add_argument("--again", action="store_true", help="and then with nothing changed")
    given = parser.parse_args()
    config = [argument for setting in given.set for argument in ("--set", setting)]
    command = ["refine-dagster", "run", "--profile", given.profile, *config]
    print(
        f"Python {platform.python_version()}, torch {version('torch')}, Dagster "
        f"{version('dagster')}, DuckDB {version('duckdb')}; {' '.join(command)}"
    )
    with tempfile.TemporaryDirectory() as home:
        os.environ["REFINE_HOME"], sys.argv = home, command
        for _ in range(1 + given.again):
            begun, sampler = time.process_time(), Sampler()
            sampler.start()
            from refine_dagster.cli import main as run

            try:
                run()
            except SystemExit as stop:
                print(f"ended with {stop.code}")
            sampler.ended.set()
            sampler.join()
            show(sampler, time.process_time() - begun)


if __name__ == "__main__":
    main()
