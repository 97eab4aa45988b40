"""`refine-dagster seeds check` and `dedupe`: commands on files, which need no home."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from refine_dagster.commands.output import console, say

seeds_app = typer.Typer(no_args_is_help=True, help="Seed files.")


@seeds_app.command("check")
def seeds_check(
    file: Annotated[str, typer.Argument(help="A seed file or a folder of SUPER-NI tasks.")],
    language: Annotated[
        str | None, typer.Option(help="Code of the run's language; by default the config's.")
    ] = None,
    show_all: Annotated[
        bool, typer.Option("--all", help="Print every problem, not a few of each kind.")
    ] = False,
) -> None:
    """Report the problems of a seed file, with file, line and field.

    Example: refine-dagster seeds check my_seeds.jsonl
    """
    from refine_dagster.config.profile import load_profile
    from refine_dagster.errors import few_of_each_kind
    from refine_dagster.language import language_of
    from refine_dagster.seeds.language_fit import misfit
    from refine_dagster.seeds.readers import check_seeds, read_seeds

    problems = check_seeds(file)
    lines = [(problem.message, str(problem)) for problem in problems]
    for line in [text for _, text in lines] if show_all else few_of_each_kind(lines):
        say(line)
    if any(problem.severity == "error" for problem in problems):
        raise typer.Exit(1)
    seeds = read_seeds(file).seeds
    found = misfit(seeds, language_of(language or load_profile().language))
    if found is not None:
        say(f"{file}: warning: {found}")
    say(f"{len(seeds)} seed tasks, {len(problems) + (found is not None)} warnings")


def dedupe(
    file: Annotated[Path, typer.Argument(help="A .jsonl, .csv or .parquet file.")],
    column: Annotated[str, typer.Option(help="The column of texts.")] = "instruction",
    threshold: Annotated[float, typer.Option(help="ROUGE-L F, above 0, at most 1.")] = 0.7,
    refuse_at: Annotated[
        Literal["reaches", "exceeds"],
        typer.Option(help="Refuse F >= threshold (REFINE-AF) or only F > threshold."),
    ] = "reaches",
    stem: Annotated[bool, typer.Option(help="Compare Porter stems of words.")] = False,
    against: Annotated[
        Path | None, typer.Option(help="A file whose texts must not be repeated either.")
    ] = None,
    compiled: Annotated[
        bool,
        typer.Option(help="Decide by compiled code, which is faster and needs numba."),
    ] = False,
    language: Annotated[
        str, typer.Option(help="Code of the texts' language: English is compared as published.")
    ] = "en",
    overwrite: Annotated[bool, typer.Option(help="Replace results of an earlier call.")] = False,
) -> None:
    """Keep the rows whose text is new by ROUGE-L, exactly as `rouge_score` would decide, quickly.

    Texts in letters that it does not read are compared by a Unicode tokenizer. Writes FILE.kept.*
    and FILE.decisions.jsonl beside the file.

    Example: refine-dagster dedupe generated.jsonl --column instruction --against seeds.jsonl
    """
    from refine_dagster.commands.terminal import showing_progress
    from refine_dagster.language import language_of
    from refine_dagster.novelty.dedupe import dedupe_file
    from refine_dagster.novelty.filter import NoveltyFilter

    reading = language_of(language).reading
    novelty = NoveltyFilter(threshold, refuse_at, stem, compiled=compiled, reading=reading)
    with showing_progress(console):
        result = dedupe_file(file, column, novelty, against=against, overwrite=overwrite)
    say(f"kept {result.kept} of {result.rows} rows: {result.kept_file}")
    say(f"why the others were not: {result.decisions_file}")
    if result.by_unicode:
        say(
            f"{result.by_unicode} rows were compared by the tokenizer `unicode`, not by that of "
            "rouge_score"
        )
    if result.without_tokens:
        say(
            f"{result.without_tokens} kept rows have no letter and no digit: only exact copies "
            "of them are refused"
        )
