"""`refine-dagster seeds`: what is wrong with a seed file, before anything is made from it."""

from __future__ import annotations

from typing import Annotated

import typer

from refine_dagster.commands.output import say

seeds_app = typer.Typer(no_args_is_help=True, help="Seed files.")


@seeds_app.command("check")
def seeds_check(
    file: Annotated[str, typer.Argument(help="A seed file or a folder of SUPER-NI tasks.")],
) -> None:
    """Report every problem of a seed file, with file, line and field.

    Example: refine-dagster seeds check my_seeds.jsonl
    """
    from refine_dagster.seeds.readers import check_seeds, read_seeds

    problems = check_seeds(file)
    for problem in problems:
        say(str(problem))
    if any(problem.severity == "error" for problem in problems):
        raise typer.Exit(1)
    seeds = read_seeds(file).seeds
    say(f"{len(seeds)} seed tasks, {len(problems)} warnings")
