"""`refine-dagster screen`: what to look at before a dataset leaves."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer

from refine_dagster.commands.output import (
    FormatOption,
    ProfileOption,
    SetOption,
    console,
    existing_home,
    open_warehouse,
    overrides_of,
    print_json,
    rich_table,
    say,
)
from refine_dagster.errors import RefineError

LISTED = 20
SHOWN = 60


def screen(
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="A folder of SUPER-NI tasks that no row may hold text of, besides those of the "
            "run's own evaluation. May be repeated."
        ),
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option(
            help="A check not to make: contamination, private_data, near_duplicates or language. "
            "May be repeated."
        ),
    ] = None,
    ngram: Annotated[int, typer.Option(min=5, help="Words of a run that counts as shared.")] = 8,
    profile: ProfileOption = None,
    settings: SetOption = None,
    format: FormatOption = "text",
) -> None:
    """Check the dataset before it leaves: contamination, private data, near-duplicates, language.

    Each finding names row, field and span. Exit code 1 where there is any.

    Example: refine-dagster screen --against my_benchmark --skip language
    """
    from refine_dagster.config.profile import load_profile
    from refine_dagster.evaluation.super_ni import load_tasks
    from refine_dagster.language import language_of
    from refine_dagster.screening.screening import CHECKS
    from refine_dagster.screening.screening import screen as make

    if unknown := sorted(set(skip or ()) - set(CHECKS)):
        raise RefineError(
            f"there is no check {', '.join(unknown)}",
            where="--skip",
            fix=f"name any of {', '.join(CHECKS)}",
        )
    config = load_profile(profile, overrides_of(settings))
    evaluation = config.evaluation
    tasks = [
        task
        for path in (evaluation.tasks, *(against or ()))
        for task in load_tasks(path, evaluation.max_instances, evaluation.split)
    ]
    rows = open_warehouse(existing_home()).read("instruction_dataset").to_dicts()
    made = make(rows, tasks, language_of(config.language), skip or (), ngram)
    if format == "json":
        print_json(made)
    else:
        for check in made.checks:
            say(f"{check}: {made.rows_with(check)} of {made.rows} rows")
        listed = [
            (one.check, one.rule, one.row_id[:12], f"{one.field} {one.start}-{one.end}",
             one.text[:SHOWN], one.value, one.against)
            for one in made.findings[:LISTED]
        ]  # fmt: skip
        if listed:
            columns = ("check", "rule", "row", "place", "text", "value", "against")
            console.print(rich_table("Findings", columns, listed))
        left = Counter(one.check for one in made.findings[LISTED:])
        for name, count in left.items():
            say(f"and {count} more of {name}; --format json has all")
    if made.findings:
        raise typer.Exit(1)
