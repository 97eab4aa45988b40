"""`refine-dagster ask`: questions to the home's models, answered on the terminal as they write."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live
from rich.table import Table

from refine_dagster.commands.output import console, existing_home, plain, say
from refine_dagster.errors import RefineError
from refine_dagster.escapes import terminal_text

if TYPE_CHECKING:
    from refine_dagster.publishing.asking import Respondent

# Columns that an answer needs beside others.
NARROWEST = 36


def ask(
    question: Annotated[
        str | None, typer.Argument(help="An instruction; without one, a chat.")
    ] = None,
    given: Annotated[
        str, typer.Option("--input", help="The text that the instruction is applied to.")
    ] = "",
    model: Annotated[str, typer.Option(help="A model of `model list`.")] = "refine_af",
    compare: Annotated[
        list[str] | None,
        typer.Option(help="A model that answers beside it. May be repeated."),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 128,
) -> None:
    """Ask the home's models, and read their answers as they are written.

    Answers are greedy, as in the evaluation, and each question is answered by itself. A policy
    takes an instruction, and answers with an input and an output.

    Example: refine-dagster ask "Count the words." --input "red old boat" --compare self_instruct
    """
    from refine_dagster.config.profile import load_profile
    from refine_dagster.publishing.asking import respondents

    home, names = existing_home(), [model, *(compare or [])]
    if question is None and not sys.stdin.isatty():
        question = sys.stdin.read().strip()
        if not question:
            raise RefineError("there is no question", fix="give one, or ask from a terminal")
    with respondents(home, names, load_profile().device) as answering:
        if question is not None:
            show_answers(answering, _joined(question, given), max_new_tokens)
            return
        say("An instruction, then its input or nothing; Ctrl-D ends.")
        for asked in _typed():
            show_answers(answering, asked, max_new_tokens)


def show_answers(answering: Sequence[Respondent], question: str, max_new_tokens: int) -> None:
    """Print every model's answer while it is written; several stand side by side where they fit."""
    answers = {one.model.name: one.answer(question, max_new_tokens) for one in answering}
    if len(answers) == 1 or not console.is_terminal or console.width < NARROWEST * len(answers):
        for name, answer in answers.items():
            if len(answers) > 1:
                say(f"{name}:")
            for piece in answer:
                console.out(terminal_text(piece), end="", highlight=False)
            say()
        return
    with Live(console=console, auto_refresh=False) as live:
        for texts in _in_turn(answers):
            columns = Table(expand=True)
            for name in texts:
                columns.add_column(plain(name), ratio=1, overflow="fold")
            columns.add_row(*(plain(text) for text in texts.values()))
            live.update(columns, refresh=True)


def _in_turn(answers: dict[str, Iterator[str]]) -> Iterator[dict[str, str]]:
    """All texts so far, after each round in which every model has written a piece."""
    texts = dict.fromkeys(answers, "")
    going = dict(answers)
    while going:
        for name, answer in list(going.items()):
            piece = next(answer, None)
            if piece is None:
                del going[name]
            else:
                texts[name] += piece
        yield texts


def _joined(instruction: str, given: str) -> str:
    return f"{instruction}\n\n{given}" if given else instruction


def _typed() -> Iterator[str]:
    """Questions typed by the user, until the end of input."""
    while True:
        try:
            instruction = console.input("[bold]instruction>[/] ").strip()
            if instruction:
                yield _joined(instruction, console.input("[bold]input>[/] ").strip())
        except EOFError:
            say()
            return
