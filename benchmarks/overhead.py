"""What Dagster, DuckDB and lineage cost: the graph beside a plain script that does the same work.

Run it from the repository's root:

    python benchmarks/overhead.py tests/pipeline/small.yaml --repeats 3
    python benchmarks/overhead.py offline

The plain script (`plain_run.py`) and `refine-dagster run` in a new home start together, so that
both meet the same neighbours: this takes two cores that nothing else needs. Then `refine-dagster
run` again in that home, alone. CPU seconds are those of the whole process and its children, imports
included. The models of both must have the same
fingerprints, else the work was not the same, and nothing is printed. Rows have ids in the plain
script too; what naming them costs is measured there and counted as overhead.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

MODELS = {
    "base": "SELECT fingerprint FROM main.base_model",
    "policy": "SELECT policy FROM main.rl_policy_checkpoint",
    "seeds_only": "SELECT fingerprint FROM main.baseline_model WHERE arm = 'seeds_only'",
    "self_instruct": "SELECT fingerprint FROM main.baseline_model WHERE arm = 'self_instruct'",
    "refine_af": "SELECT fingerprint FROM main.fine_tuned_model",
}
RUN = "from refine_dagster.cli import main; main()"

console = Console(highlight=False, soft_wrap=True)


class Running:
    """A command under way; its output goes to files."""

    def __init__(self, command: list[str], home: Path, output: Path) -> None:
        environment = {**os.environ, "REFINE_HOME": str(home), "OMP_NUM_THREADS": "1"}
        self._output = output
        self._begun = time.monotonic()
        with output.open("wb") as out, output.with_suffix(".err").open("wb") as err:
            self._process = subprocess.Popen(command, env=environment, stdout=out, stderr=err)

    def end(self) -> tuple[float, float, str]:
        """Wait for it; CPU seconds, seconds on the clock and output."""
        _, status, usage = os.wait4(self._process.pid, 0)
        clock = time.monotonic() - self._begun
        self._process.returncode = os.waitstatus_to_exitcode(status)
        if self._process.returncode:
            raise SystemExit(self._output.with_suffix(".err").read_text("utf-8")[-3000:])
        return usage.ru_utime + usage.ru_stime, clock, self._output.read_text("utf-8")


def alone(profile: str, folder: Path) -> None:
    """Run the plain script in this process and print its result as JSON."""
    from plain_run import plain_run
    from refine_dagster.config.profile import load_profile

    print(json.dumps(plain_run(load_profile(profile), folder)))


def fingerprints(home: Path) -> dict[str, Any]:
    """Model -> fingerprint, as the warehouse has them."""
    from refine_dagster.warehouse.warehouse import Warehouse

    warehouse = Warehouse(home / "warehouse.duckdb")
    return {name: warehouse.query(sql).item() for name, sql in MODELS.items()}


def once(profile: str) -> dict[str, float]:
    """One plain run, one run of the graph, and one that finds nothing changed."""
    with tempfile.TemporaryDirectory() as name:
        folder, home = Path(name) / "plain", Path(name) / "home"
        folder.mkdir()
        command = [sys.executable, "-c", RUN, "run", "--profile", profile]
        of_graph = Running(command, home, Path(name) / "graph.txt")
        script = [sys.executable, __file__, profile, "--alone", name]
        plain, _, printed = Running(script, home, Path(name) / "plain.txt").end()
        result = json.loads(printed.splitlines()[-1])
        graph, _, _ = of_graph.end()
        if fingerprints(home) != result["models"]:
            raise SystemExit(f"other models: {fingerprints(home)} and {result['models']}")
        again, clock, _ = Running(command, home, Path(name) / "again.txt").end()
    console.print(
        f"plain {plain:.1f} s ({result['rows']} rows named in {result['naming_rows']:.2f} s, "
        f"{result['requests']} requests), graph {graph:.1f} s, again {again:.1f} s"
    )
    stages = sorted(result["stages"].items(), key=lambda stage: -stage[1])
    console.print(", ".join(f"{stage} {seconds:.1f}" for stage, seconds in stages))
    return {
        "plain": plain - result["naming_rows"],
        "graph": graph,
        "again": again,
        "again, clock": clock,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("profile", help="a packaged profile or a YAML file, of one policy round")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--alone", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone:
        alone(given.profile, given.alone / "plain")
        return
    runs = [once(given.profile) for _ in range(given.repeats)]
    middle = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    ratios = [run["graph"] / run["plain"] for run in runs]
    table = Table(title=f"{given.profile}, medians of {given.repeats}")
    for column in ("", "CPU seconds", "to the plain script"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row("plain script", f"{middle['plain']:.1f}", "1")
    spread = f" ({min(ratios):.3f} to {max(ratios):.3f})" if len(ratios) > 1 else ""
    table.add_row("graph", f"{middle['graph']:.1f}", f"{statistics.median(ratios):.3f}{spread}")
    table.add_row("graph, nothing changed", f"{middle['again']:.1f}", "")
    console.print(table)
    console.print(f"nothing changed: {middle['again, clock']:.1f} s on the clock")


if __name__ == "__main__":
    main()
