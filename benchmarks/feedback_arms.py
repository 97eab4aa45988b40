"""Does learning from automated feedback make a better dataset? All arms on the offline model.

Run it from the repository's root, any number of times; it goes on where it was stopped:

    python benchmarks/feedback_arms.py --home /tmp/feedback_arms --workers 1

It makes the base model (which learns no seeds here), the judge and the pool of the offline profile
in a home of its own, or finds them there, and runs `refine-dagster compare` twice, over five random
seeds:

    arms     the two ends (`own_answers`, `seeds_only`) and base; `self_instruct`; the best of 8
             answers by each criterion; REFINE-AF by GRPO and PPO, published rule and `balanced`;
             student progress by GRPO and DPO; DPO on the judge
    methods  Self-Instruct, TeaMs-RL and both at equal numbers of calls, beside the ends

It writes `docs/results/feedback_arms.md` and `feedback_methods.md`, with plots and scores of every
task. `--tasks FOLDER` evaluates on any SUPER-NI folder. Tune on nothing but held-out seeds.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console

from refine_dagster.cli import app
from refine_dagster.commands.terminal import showing_progress
from refine_dagster.comparison.arms import BASE, OWN_ANSWERS, SEEDS_ONLY, SELF_INSTRUCT
from refine_dagster.home import Home
from refine_dagster.refine_af.candidates import CRITERIA
from refine_dagster.run import run_pipeline

ENDS = (BASE, OWN_ANSWERS, SEEDS_ONLY)
ARMS = (
    *ENDS,
    SELF_INSTRUCT,
    *(f"best/{criterion}" for criterion in CRITERIA),
    *(f"{algorithm}/{rule}" for algorithm in ("grpo", "ppo") for rule in ("refine_af", "balanced")),
    *("grpo/influence", "dpo/influence", "dpo/balanced"),
)
MATERIAL = "+feedback_judge or +filtered_instructions"
# The seeds that temperatures and influence are measured on are then new to every model.
SETTINGS = ("base_model.learn_seeds=false",)


def main() -> None:
    arguments = _arguments()
    home = Home(arguments.home.resolve())
    os.environ["REFINE_HOME"] = str(home.root)
    settings = [*SETTINGS, *arguments.set]
    if not home.warehouse.is_file():
        overrides = dict(setting.split("=", 1) for setting in settings)
        with showing_progress(Console()):
            run_pipeline(home, arguments.profile, overrides, select=MATERIAL)
    common = ["--random-seeds", str(arguments.random_seeds), "--workers", str(arguments.workers)]
    common += ["--out", str(arguments.out)]
    if arguments.profile:
        common += ["--profile", arguments.profile]
    if arguments.tasks:
        common += ["--tasks", arguments.tasks]
    for setting in settings:
        common += ["--set", setting]
    arms = ["--arms", arguments.arms, "--name", "feedback_arms"]
    _compare([*arms, "--title", "Learning from automated feedback", *common])
    if arguments.methods:
        methods = ["--methods", arguments.methods, "--arms", ",".join(ENDS)]
        title = "Methods of making instructions, by reference loss"
        _compare([*methods, "--name", "feedback_methods", "--title", title, *common])


def _compare(words: list[str]) -> None:
    # The report shows the command as it would be typed.
    sys.argv = ["refine-dagster", "compare", *words]
    app(standalone_mode=False)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", type=Path, required=True, help="kept folder of the comparison")
    parser.add_argument("--profile", help="offline, laptop, gpu, or a YAML file")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--methods", default="self_instruct,teams_rl,both", help="empty: none")
    parser.add_argument("--random-seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--tasks", help="a folder of SUPER-NI tasks; default: the packaged ones")
    parser.add_argument("--set", action="append", default=[], help="a config field, as for compare")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
