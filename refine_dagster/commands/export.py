"""`refine-dagster export`: the dataset as a folder or a file that other tools read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from refine_dagster.commands.output import existing_home, open_warehouse, say
from refine_dagster.errors import RefineError

if TYPE_CHECKING:
    from refine_dagster.lineage.export import ExportFormat

# Names of a single file; anything else is a folder.
FILES = (".json", ".jsonl", ".csv", ".parquet")


def export(
    to: Annotated[
        Path, typer.Option(help="The folder to make; a name such as d.jsonl makes one file.")
    ],
    format: Annotated[
        Literal[
            "hf",
            "alpaca",
            "messages",
            "prompt-completion",
            "sharegpt",
            "preference",
            "jsonl",
            "csv",
            "parquet",
        ],
        typer.Option(help="Layout of the rows."),
    ] = "alpaca",
    columns: Annotated[
        str | None, typer.Option(help="Columns to write, in order, with commas between.")
    ] = None,
    provenance: Annotated[
        bool, typer.Option(help="Add row, seeds, prompt, policy, reward and decision.")
    ] = False,
    validation: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of rows for a validation split.")
    ] = 0.0,
    split_by: Annotated[
        Literal["descent", "nearest"],
        typer.Option(help="No seed has descendants on both sides; or is nearest to both."),
    ] = "descent",
    licence: Annotated[
        str | None, typer.Option("--license", help="SPDX id of the licence that the card names.")
    ] = None,
    sign: Annotated[
        Path | None, typer.Option(help="An ed25519 private key in PEM that signs the folder.")
    ] = None,
    push: Annotated[
        str | None, typer.Option(help="A dataset repository on the Hugging Face Hub to push to.")
    ] = None,
    public: Annotated[bool, typer.Option(help="Make a pushed repository public.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier export.")] = False,
) -> None:
    """Write the instruction dataset with its card and its lineage for `datasets.load_dataset`.

    Example: refine-dagster export --format messages --to dataset --validation 0.1
    """
    if to.suffix.lower() in FILES:
        if format not in ("alpaca", "messages", "parquet"):
            raise RefineError(
                f"a single file holds alpaca, messages or parquet, not {format}",
                where=str(to),
                fix="name a folder",
            )
        if columns or provenance or validation or licence or sign or push:
            raise RefineError(
                "a single file has the layout's own columns, no split and no card",
                where=str(to),
                fix="name a folder",
            )
        _export_file(to, format, overwrite)
        return
    from refine_dagster.publishing.dataset_folder import DatasetOptions, export_dataset_folder

    options = DatasetOptions(
        columns=tuple(name.strip() for name in columns.split(",")) if columns else (),
        provenance=provenance,
        validation=validation,
        split_by=split_by,
        licence=licence,
        key=sign,
    )
    done = export_dataset_folder(existing_home(), format, to, options, overwrite=overwrite)
    say(f"wrote {done.folder}")
    say(", ".join(f"{rows} rows for {name}" for name, rows in done.rows.items()))
    if push:
        from refine_dagster.publishing.pushing import push_folder

        say(f"pushed to {push_folder(done.folder, push, private=not public)}")


def _export_file(to: Path, format: ExportFormat, overwrite: bool) -> None:
    from refine_dagster.lineage.export import export_live_dataset

    warehouse = open_warehouse(existing_home(), write=True)
    result = export_live_dataset(warehouse, format, to, overwrite=overwrite)
    if result.made is not None:
        say(f"made the folder {result.made}")
    for file in result.files:
        say(f"wrote {file}")
    say(f"{result.rows} rows, sha256 {result.sha256}")
