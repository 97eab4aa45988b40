"""The paper's comparison in miniature: every algorithm and reward preset beside the baselines.

Run it from the repository's root; it takes about an hour and a half of one core:

    python benchmarks/refine_af.py --home /tmp/refine_af --workers 2

It makes the base model, the judge and the pool of the offline profile in a home of its own (or
finds them there), and then runs `refine-dagster compare` over

    arms          base, seeds_only, self_instruct, and {grpo, rloo, ppo} x {refine_af,
                  coherence_only, balanced}
    sizes         a quarter, a half, and all of the pool
    random seeds  5

and writes `docs/results/refine_af.md` with its plots and scores. Stop it at any time and start it
again. REFINE-AF reports 63 to 66 % of tasks won against Self-Instruct; `docs/results/README.md`
says what was measured here, and why. `--tasks` names other held-out tasks, as for `compare`.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console

from refine_dagster.cli import app
from refine_dagster.commands.terminal import showing_progress
from refine_dagster.comparison.arms import BASE, PRESETS, SEEDS_ONLY, SELF_INSTRUCT
from refine_dagster.home import Home
from refine_dagster.registry import ALGORITHMS
from refine_dagster.run import run_pipeline
from refine_dagster.warehouse.warehouse import Warehouse

TITLE = "REFINE-AF beside its baselines"
MATERIAL = "+feedback_judge or +filtered_instructions"


def main() -> None:
    arguments = _arguments()
    home = Home(arguments.home.resolve())
    os.environ["REFINE_HOME"] = str(home.root)
    if not home.warehouse.is_file():
        with showing_progress(Console()):
            run_pipeline(home, arguments.profile, select=MATERIAL)
    pool = Warehouse(home.warehouse).read("filtered_instructions").height
    sizes = arguments.sizes or ",".join(str(pool // part) for part in (4, 2, 1))
    command = [
        *("compare", "--arms", arguments.arms, "--sizes", sizes),
        *("--random-seeds", str(arguments.random_seeds), "--workers", str(arguments.workers)),
        *("--out", str(arguments.out), "--name", "refine_af", "--title", TITLE),
    ]
    if arguments.profile:
        command += ["--profile", arguments.profile]
    for setting in arguments.set:
        command += ["--set", setting]
    if arguments.tasks:
        command += ["--tasks", arguments.tasks]
    # The report shows the command as it would be typed.
    sys.argv = ["refine-dagster", *command]
    app(command)


def _arguments() -> argparse.Namespace:
    refined = [f"{algorithm}/{preset}" for algorithm in ALGORITHMS.own for preset in PRESETS]
    arms = ",".join([BASE, SEEDS_ONLY, SELF_INSTRUCT, *refined])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", type=Path, required=True, help="kept folder of the comparison")
    parser.add_argument("--profile", help="offline, laptop, gpu, or a YAML file")
    parser.add_argument("--arms", default=arms)
    parser.add_argument("--sizes", help="default: a quarter, a half, and all of the pool")
    parser.add_argument("--random-seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tasks", help="packaged, packaged_all, or a folder of SUPER-NI tasks")
    parser.add_argument("--set", action="append", default=[], help="a config field, as for compare")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
