"""What it costs to start: the command's help, and loading Dagster's definitions.

Run it from the repository's root:

    python benchmarks/startup.py

Each line is a new Python process, started as often as asked, one kind after the other and round
after round; CPU seconds are those of the whole process by `getrusage`, medians. The first process
of each kind is not counted: it may have to compile files.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile

from rich.console import Console
from rich.table import Table

PROCESSES = {
    "python, nothing imported": "pass",
    "import typer, rich.console": "import typer, rich.console",
    "refine-dagster --help": "import sys; sys.argv[1:] = ['--help']\n"
    "from refine_dagster.cli import main; main()",
    "refine-dagster run --help": "import sys; sys.argv[1:] = ['run', '--help']\n"
    "from refine_dagster.cli import main; main()",
    "import dagster": "import dagster",
    "import dagster, dagster_duckdb, polars": "import dagster, dagster_duckdb, polars",
    "import refine_dagster.definitions": "import refine_dagster.definitions",
}
HEAVY = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "vllm",
    "numba",
    "stable_baselines3",
    "gymnasium",
    "matplotlib",
)
TELL = (
    "\nimport atexit, sys\n"
    f"atexit.register(lambda: print([n for n in {HEAVY!r} if n in sys.modules], file=sys.stderr))\n"
)


def cost(code: str, home: str) -> tuple[float, str]:
    """CPU seconds of a process that runs the code, and the last line of its standard error."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", TELL + code],
        env={**os.environ, "REFINE_HOME": home},
        capture_output=True,
        text=True,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, done.stderr.strip().splitlines()[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in PROCESSES}
    imported: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as home:
        for turn in range(given.repeats + 1):
            for name, code in PROCESSES.items():
                spent, imported[name] = cost(code, home)
                if turn:
                    seconds[name].append(spent)
    table = Table(title=f"medians of {given.repeats}")
    for column in ("process", "CPU seconds", "least", "heavy packages imported"):
        table.add_column(column, justify="right" if "s" in column[-1:] else "left")
    for name, measured in seconds.items():
        median, least = statistics.median(measured), min(measured)
        table.add_row(name, f"{median:.2f}", f"{least:.2f}", imported[name])
    Console(highlight=False).print(table)


if __name__ == "__main__":
    main()
