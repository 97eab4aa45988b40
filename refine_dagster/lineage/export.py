"""The dataset as a file that other tools train on: whole or not there, the same bytes each time.

Rows are written in the order of their ids under a temporary name beside the target, flushed to the
disk and renamed, so a full disk or Ctrl-C leaves what was there before. Beside the file lies its
provenance: which data version, how many rows, which policies wrote them, and the file's hash.
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, get_args
from uuid import uuid4

import polars

from refine_dagster.errors import RefineError
from refine_dagster.hashing import canonical_json, content_id, file_hash, readable_json
from refine_dagster.home import replacing
from refine_dagster.warehouse.ledger import Record
from refine_dagster.warehouse.rows import Parent, frame, make_row, with_entries
from refine_dagster.warehouse.tables import EXPORTS
from refine_dagster.warehouse.warehouse import Warehouse

ExportFormat = Literal["alpaca", "messages", "parquet"]
DATASET = "instruction_dataset"
PROVENANCE_SUFFIX = ".provenance.json"
_NEEDED = ("row_id", "instruction", "input", "output")


class ExportError(RefineError):
    """A dataset cannot be written where, or as, it was asked for."""


@dataclass(frozen=True)
class ExportResult:
    """What was written.

    Attributes:
        files: the data file, then its provenance.
        sha256: the data file's hash.
        made: the topmost folder that was made for them.
    """

    files: tuple[Path, ...]
    rows: int
    sha256: str
    made: Path | None


def export_live_dataset(
    warehouse: Warehouse, format: ExportFormat, to: Path, *, overwrite: bool = False
) -> ExportResult:
    """Export the live rows of `instruction_dataset`, and record in table `exports` what left.

    Raises:
        ExportError: `to` lies in the home, or as `export_dataset`.
    """
    to = to.expanduser().resolve()
    if to.is_relative_to(warehouse.path.parent.resolve()):
        raise ExportError(
            "lies in the home, whose files are the project's own",
            where=str(to),
            fix="name a file outside of it",
        )
    version = warehouse.data_version(DATASET)
    if version is None:
        raise ExportError(
            "there is no instruction_dataset yet", fix="run `refine-dagster run` first"
        )
    rows = warehouse.read(DATASET)
    recorded = warehouse.query("SELECT sha256 FROM history.exports WHERE path = ?", [str(to)])
    result = export_dataset(
        rows,
        format,
        to,
        overwrite=overwrite,
        data_version=version,
        recorded=recorded["sha256"].to_list(),
    )
    written = {
        "path": str(to),
        "format": format,
        "sha256": result.sha256,
        "rows": result.rows,
        "data_version": version,
    }
    parents = [Parent(DATASET, row_id, "exported") for row_id in rows["row_id"]]
    record_export(warehouse, written, parents)
    return result


def record_export(
    warehouse: Warehouse, written: Mapping[str, Any], parents: Sequence[Parent]
) -> None:
    """Record in table `exports` what was written to a path, in place of what it held before.

    Args:
        written: the payload of the row. parents: the rows that were exported.
    """
    exports = [row for row in warehouse.read(EXPORTS).to_dicts() if row["path"] != written["path"]]
    exports.append(make_row(EXPORTS, written, parents))
    record = Record(
        asset=EXPORTS,
        run_id=f"export-{uuid4()}",
        code_version="1",
        config_hash=content_id("config", {}),
        inputs={DATASET: written["data_version"]},
    )
    warehouse.commit(record, {EXPORTS: frame(EXPORTS, exports)})


def export_dataset(
    rows: polars.DataFrame,
    format: ExportFormat,
    to: Path,
    *,
    overwrite: bool = False,
    data_version: str | None = None,
    recorded: Collection[str] = (),
) -> ExportResult:
    """Write a dataset to one file and its provenance beside it.

    Args:
        rows: columns `row_id, instruction, input, output` and any others.
        format: `alpaca`, {instruction, input, output}, a JSON array where the file ends in
            `.json` and JSON lines elsewhere; `messages`, JSON lines of
            {messages: [user, assistant], row_id}; `parquet`, every column, and a column for each
            reward part.
        to: the data file; folders above it are made. The provenance beside it adds
            `.provenance.json` to the whole name, so that `d.json` and `d.parquet` keep one each.
        overwrite: replace a file that is as an earlier export wrote it: its provenance names its
            hash, or `recorded` does. No other file is replaced.
        data_version: of the source table, for the provenance.
        recorded: hashes of the exports to this path that the home recorded.

    Raises:
        ExportError: no rows, an unknown format, a file that is there, or a target that cannot be
            written (no permission, no room); nothing is left half-written.
    """
    if format not in get_args(ExportFormat):
        raise ExportError(
            f"there is no export format {format!r}",
            fix=f"choose one of {', '.join(get_args(ExportFormat))}",
        )
    missing = [column for column in _NEEDED if column not in rows.columns]
    if missing:
        raise ValueError(f"a dataset has columns {_NEEDED}; {missing} are missing")
    if rows.is_empty():
        raise ExportError(
            "the dataset has no rows", fix="materialise `instruction_dataset`, then export it"
        )
    rows = rows.sort("row_id")
    content = _render(rows, format, as_array=to.suffix == ".json")
    digest = hashlib.sha256(content).hexdigest()
    provenance = {
        "columns": with_entries(rows).columns if format == "parquet" else None,
        "data_version": data_version,
        "file": to.name,
        "format": format,
        "policies": sorted(set(rows["policy"].drop_nulls())) if "policy" in rows.columns else [],
        "rows": rows.height,
        "sha256": digest,
    }
    try:
        card = to.with_name(to.name + PROVENANCE_SUFFIX)
        _require_free(to, card, recorded, overwrite=overwrite)
        folders = [folder for folder in to.parents if not folder.exists()]
        _replace(to, content, card, readable_json(provenance))
    except OSError as error:
        raise ExportError(
            f"cannot write the file: {error.strerror or error}",
            where=str(to),
            fix="name a place that can be written to and has room",
        ) from error
    return ExportResult((to, card), rows.height, digest, folders[-1] if folders else None)


def _require_free(to: Path, card: Path, recorded: Collection[str], *, overwrite: bool) -> None:
    """Refuse to replace what no export wrote, or what was changed since."""
    if to.is_dir():
        raise ExportError("is a folder", where=str(to), fix="name a file inside it")
    there = [path for path in (to, card) if path.exists() or path.is_symlink()]
    for path in there:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise ExportError("is no regular file", where=str(path), fix="name another file")
        if not overwrite:
            raise ExportError(
                "the file exists", where=str(path), fix="name another file, or allow overwriting"
            )
    provenance = _read_provenance(card) if card in there else {}
    if provenance is None or (
        to in there and file_hash(to) not in {provenance.get("sha256"), *recorded}
    ):
        raise ExportError(
            "is not as an export wrote it",
            where=str(card if provenance is None else to),
            fix="name another file, or delete this one yourself",
        )


def _read_provenance(card: Path) -> dict[str, Any] | None:
    """The provenance in a file; None where it holds something else."""
    try:
        provenance = json.loads(card.read_bytes())
    except ValueError:
        return None
    named = isinstance(provenance, dict) and {"data_version", "sha256"} <= provenance.keys()
    return provenance if named else None


def _render(rows: polars.DataFrame, format: ExportFormat, *, as_array: bool) -> bytes:
    if format == "parquet":
        buffer = BytesIO()
        # Readers of datasets know columns of numbers, and not all of them know mappings.
        with_entries(rows).write_parquet(buffer)
        return buffer.getvalue()
    if format == "messages":
        records = rows.select(_NEEDED).to_dicts()
        return "".join(canonical_json(_messages(row)) + "\n" for row in records).encode()
    records = rows.select(_NEEDED[1:]).to_dicts()
    lines = [json.dumps(row, ensure_ascii=False) for row in records]
    if as_array:
        return ("[\n" + ",\n".join(lines) + "\n]\n").encode()
    return "".join(f"{line}\n" for line in lines).encode()


def _messages(row: dict[str, str]) -> dict[str, Any]:
    request = f"{row['instruction']}\n\n{row['input']}" if row["input"] else row["instruction"]
    return {
        "messages": [
            {"role": "user", "content": request},
            {"role": "assistant", "content": row["output"]},
        ],
        "row_id": row["row_id"],
    }


def _replace(to: Path, content: bytes, card: Path, provenance: str) -> None:
    """Write both files in full, then put them in place.

    The old provenance goes first: data may have none for a moment, but never another's.
    """
    with replacing(card) as new_card, replacing(to) as new_data:
        new_data.write_bytes(content)
        new_card.write_text(provenance, encoding="utf-8")
        card.unlink(missing_ok=True)
