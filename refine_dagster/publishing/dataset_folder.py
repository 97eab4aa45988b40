"""The dataset as a folder that `datasets.load_dataset` reads with no argument, with its card.

Rows stand in the order of their ids, so equal data gives equal bytes. Beside the data lie its
lineage, the ledger and a program that checks them (`bundle.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from refine_dagster.errors import RefineError
from refine_dagster.hashing import file_hash, readable_json
from refine_dagster.home import Home
from refine_dagster.lineage.export import record_export
from refine_dagster.publishing.ai_bom import BOM, ai_bom
from refine_dagster.publishing.bundle import SUMS, sign, write_bundle, write_sums
from refine_dagster.publishing.croissant import CROISSANT, croissant
from refine_dagster.publishing.dataset_card import dataset_card, read_dataset_facts
from refine_dagster.publishing.dataset_rows import (
    DATASET,
    ExportRow,
    export_rows,
    run_language,
    to_csv,
    to_frame,
    to_lines,
)
from refine_dagster.publishing.layouts import LAYOUTS, FileKind, LayoutName
from refine_dagster.publishing.new_folder import new_folder, whole_path, write_manifest
from refine_dagster.publishing.seed_families import Ancestry, Split, SplitBy, split_rows
from refine_dagster.warehouse.rows import Parent, Row
from refine_dagster.warehouse.warehouse import Warehouse

CARD = "README.md"
TRAIN, VALIDATION = "train", "validation"


@dataclass(frozen=True)
class DatasetOptions:
    """What an export holds.

    Attributes:
        columns: those to write, in order; none writes the layout's own.
        provenance: whether to add where each row is from.
        validation: share of the rows to keep for validation; 0 keeps none.
        licence: an SPDX id that the card names.
        key: an ed25519 private key in PEM that signs the bundle.
    """

    columns: tuple[str, ...] = ()
    provenance: bool = False
    validation: float = 0.0
    split_by: SplitBy = "descent"
    licence: str | None = None
    key: Path | None = None


@dataclass(frozen=True)
class ExportedDataset:
    """A written folder; `rows` counts those of each split."""

    folder: Path
    rows: Mapping[str, int]
    split: Split | None
    sha256: str


def export_dataset_folder(
    home: Home,
    layout: LayoutName,
    to: Path,
    options: DatasetOptions = DatasetOptions(),
    *,
    overwrite: bool = False,
) -> ExportedDataset:
    """Write the live dataset to the folder `to`, and record in table `exports` what left.

    Raises:
        RefineError: there is no dataset, no such column, or no split as asked for.
        FolderError: `to` cannot be written, or may not be replaced.
    """
    warehouse = Warehouse(home.warehouse)
    version = warehouse.data_version(DATASET)
    if version is None:
        raise RefineError("there is no instruction_dataset yet", fix="run `refine-dagster run`")
    ancestry = Ancestry(warehouse)
    rows = export_rows(
        warehouse, layout, ancestry, columns=options.columns, provenance=options.provenance
    )
    split = None
    if options.validation:
        sources = [row.sources[0][1] for row in rows]
        split = split_rows(sources, ancestry, options.validation, options.split_by)
    parts = _parts(rows, split)
    facts = read_dataset_facts(warehouse, version, run_language(warehouse).code)
    target = whole_path(to)
    with new_folder(target, home, overwrite=overwrite) as folder:
        files = {
            name: _write(part, LAYOUTS[layout].file, name, layout == "hf", folder)
            for name, part in parts.items()
        }
        card = dataset_card(facts, layout, parts, files, split, options.licence)
        (folder / CARD).write_text(card, encoding="utf-8")
        write_bundle(folder, warehouse, parts, files, texts=not options.columns)
        described = {
            CROISSANT: croissant(folder, facts, parts, files, options.licence),
            BOM: ai_bom(folder, facts, files, options.licence),
        }
        for name, values in described.items():
            (folder / name).write_text(readable_json(values), encoding="utf-8")
        about = {
            "kind": "dataset",
            "layout": layout,
            "rows": {name: len(part) for name, part in parts.items()},
            "data_version": version,
            "ledger": {"sequence": facts.sequence, "digest": facts.digest},
        }
        write_manifest(folder, about)
        digest = _seal(folder, options.key)
    _record(warehouse, target, layout, rows, version, digest)
    counts = {name: len(part) for name, part in parts.items()}
    return ExportedDataset(target, counts, split, digest)


def _parts(rows: Sequence[ExportRow], split: Split | None) -> dict[str, list[ExportRow]]:
    if split is None:
        return {TRAIN: list(rows)}
    return {
        TRAIN: [row for row in rows if row.row_id not in split.validation],
        VALIDATION: [row for row in rows if row.row_id in split.validation],
    }


def _write(
    rows: Sequence[ExportRow], kind: FileKind, split: str, of_hub: bool, folder: Path
) -> str:
    """Write a split's data file, and return its place in the folder."""
    name = f"{split}-00000-of-00001.parquet" if of_hub else f"{split}.{kind}"
    path = folder / "data" / name
    path.parent.mkdir(exist_ok=True)
    if kind == "parquet":
        to_frame(rows).write_parquet(path)
    else:
        text = to_lines(rows) if kind == "jsonl" else to_csv(rows)
        path.write_text(text, encoding="utf-8", newline="")
    return f"data/{name}"


def _record(
    warehouse: Warehouse,
    folder: Path,
    layout: LayoutName,
    rows: Sequence[ExportRow],
    version: str,
    digest: str,
) -> None:
    sources: list[tuple[str, Row]] = [source for row in rows for source in row.sources]
    parents = [Parent(name, row["row_id"], "exported") for name, row in sources]
    written = {
        "path": str(folder),
        "format": layout,
        "sha256": digest,
        "rows": len(rows),
        "data_version": version,
    }
    record_export(warehouse, written, parents)


def _seal(folder: Path, key: Path | None) -> str:
    """Write the sums, sign them where there is a key, and return the hash of the sums."""
    write_sums(folder)
    if key is not None:
        sign(folder, key)
    return file_hash(folder / SUMS)
