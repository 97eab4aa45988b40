"""`refine-dagster compare`: arms x sizes x random seeds on one pool, with intervals."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from refine_dagster.commands.output import (
    ProfileOption,
    SetOption,
    console,
    existing_home,
    open_warehouse,
    overrides_of,
    say,
)
from refine_dagster.errors import RefineError

DEFAULT_ARMS = "base,seeds_only,own_answers,self_instruct,grpo"
# Arms beside methods, which learn from a number of calls.
BESIDE_METHODS = "base,seeds_only"


def compare(
    arms: Annotated[
        str | None,
        typer.Option(
            help="Arms, comma-separated: base, seeds_only, own_answers, self_instruct, best/ and "
            "judge, agreement, likelihood or influence, and grpo, rloo, ppo or dpo, alone or "
            "with a reward preset: ppo/balanced. "
            f"Default: {DEFAULT_ARMS}; with --methods, {BESIDE_METHODS}, the only ones possible."
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Methods of making instructions, compared at equal numbers of model calls: "
            "self_instruct, teams_rl, both, comma-separated."
        ),
    ] = None,
    sizes: Annotated[
        str,
        typer.Option(
            help="Dataset sizes, comma-separated; by default the whole pool. With --methods, "
            "numbers of calls; by default as many as the method with fewer calls has made."
        ),
    ] = "",
    random_seeds: Annotated[int, typer.Option(min=1, help="How many random seeds.")] = 5,
    workers: Annotated[int, typer.Option(min=1, help="Random seeds computed in parallel.")] = 1,
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Sets evaluation.tasks: `packaged` (35 tasks), `packaged_all` (98, so narrower "
            "intervals), or a folder of SUPER-NI tasks."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the report; by default that of the results.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the report's files.")] = "comparison",
    title: Annotated[str, typer.Option(help="Heading of the report.")] = "Comparison of arms",
    profile: ProfileOption = None,
    settings: SetOption = None,
) -> None:
    """Compare arms on the home's pool over random seeds; resumes where it was stopped.

    Every arm starts from the home's base model and pool and has the same fine-tuning budget. The
    home's own rows are only read. Results, completions and checkpoints go to `comparisons/` in the
    home.

    Example: refine-dagster compare --arms self_instruct,grpo,ppo/balanced --sizes 75,300

    With --methods, each method has the instructions that its first calls gave, out of those that
    the home has made, and the report counts calls, instructions and examples.

    Example: refine-dagster compare --methods self_instruct,teams_rl,both
    """
    from refine_dagster.commands.terminal import showing_progress
    from refine_dagster.comparison import report
    from refine_dagster.comparison.arms import (
        BASE,
        SEEDS_ONLY,
        SELF_INSTRUCT,
        method_arm,
        parse_arms,
        parse_methods,
    )
    from refine_dagster.comparison.figures import figures_of
    from refine_dagster.comparison.methods import read_method_calls
    from refine_dagster.comparison.study import plan_study, read_inputs
    from refine_dagster.comparison.trial import run_study
    from refine_dagster.config.profile import load_profile
    from refine_dagster.evaluation.super_ni import load_tasks
    from refine_dagster.language import language_of

    chosen = load_profile(profile, overrides_of(settings, evaluation__tasks=tasks))
    if methods is None:
        planned = parse_arms(DEFAULT_ARMS if arms is None else arms, chosen)
        against: tuple[str, ...] = (SELF_INSTRUCT, BASE)
    else:
        planned = parse_methods(methods, BESIDE_METHODS if arms is None else arms, chosen)
        against = (method_arm("self_instruct").name, SEEDS_ONLY, BASE)
    home = existing_home()
    warehouse = open_warehouse(home)
    config = chosen.evaluation
    language = language_of(chosen.language)
    calls = None
    if methods is not None:
        calls = read_method_calls(warehouse, chosen.self_instruct, language)
    study = plan_study(
        read_inputs(warehouse, home.checkpoints),
        chosen,
        planned,
        _numbers(sizes),
        random_seeds,
        load_tasks(config.tasks, config.max_instances, config.split),
        calls,
    )
    root = home.root / "comparisons"
    with showing_progress(console):
        cells = run_study(study, root, workers)
    figures = figures_of(
        cells,
        against,
        tie_margin=config.tie_margin,
        samples=config.bootstrap_samples,
        run_seed=chosen.run_seed,
    )
    command = shlex.join(["refine-dagster", *sys.argv[1:]])
    folder = out or root / study.name
    page = report.write_report(report.Report(title, study, cells, figures, command), folder, name)
    for table in report.shown_tables(study, figures):
        console.print(table.terminal())
    say(f"report  {page}")


def _numbers(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    wrong = [part for part in parts if not part.isdigit()]
    if wrong:
        what = f"not a whole number: {', '.join(wrong)}"
        raise RefineError(what, where="--sizes", fix="write --sizes 75,150,300")
    return [int(part) for part in parts]
