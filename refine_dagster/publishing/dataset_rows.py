"""The rows of an export: what each says in its layout, and the warehouse's rows that it is from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from refine_dagster.errors import RefineError
from refine_dagster.language import ENGLISH, Language, language_of
from refine_dagster.publishing.layouts import LAYOUTS, LayoutName, preference
from refine_dagster.publishing.seed_families import Ancestry
from refine_dagster.warehouse.rows import Row, with_entries
from refine_dagster.warehouse.warehouse import Warehouse

DATASET = "instruction_dataset"
DECISIONS = "instance_decisions"
BASE_INSTANCES = "reward_scored_instructions"
PROVENANCE = ("row_id", "seeds", "generation_prompt", "policy", "reward", "decision")
# Stand in the bundle's lineage, not in its data.
_INNER = ("parents",)


@dataclass(frozen=True)
class ExportRow:
    """One row of an export.

    Attributes:
        values: column -> value, in order.
        sources: (slice, row) of the warehouse, the one that its text is from first.
    """

    values: dict[str, Any]
    sources: tuple[tuple[str, Row], ...]

    @property
    def row_id(self) -> str:
        row_id: str = self.sources[0][1]["row_id"]
        return row_id


def export_rows(
    warehouse: Warehouse,
    layout: LayoutName,
    ancestry: Ancestry,
    *,
    columns: Sequence[str] = (),
    provenance: bool = False,
) -> list[ExportRow]:
    """The rows of an export in the order of their ids.

    Args:
        columns: what to write, in this order, of the columns of the layout, the table and the
            provenance; none writes the layout's own.
        provenance: add the columns `PROVENANCE`.

    Raises:
        RefineError: there are no rows, or no such column.
    """
    rows = _pairs(warehouse) if layout == "preference" else _singles(warehouse, layout)
    if not rows:
        raise RefineError(
            "no instruction has two well-formed instances with different rewards"
            if layout == "preference"
            else "the dataset has no rows",
            fix="see `refine-dagster status` for what became of the candidates",
        )
    prompts = _prompts(warehouse, rows) if provenance or "generation_prompt" in columns else {}
    return [
        _with_columns(row, columns, provenance, ancestry, prompts)
        for row in sorted(rows, key=lambda row: row.row_id)
    ]


def to_frame(rows: Sequence[ExportRow]) -> pl.DataFrame:
    """The rows as a frame; a column without values is one of texts."""
    frame = pl.DataFrame([row.values for row in rows], infer_schema_length=None)
    return frame.with_columns(pl.col(pl.Null).cast(pl.String))


def to_lines(rows: Sequence[ExportRow]) -> str:
    """The rows as JSON, one a line."""
    return "".join(json.dumps(row.values, ensure_ascii=False) + "\n" for row in rows)


def to_csv(rows: Sequence[ExportRow]) -> str:
    """The rows as CSV; a list or mapping is written as JSON."""
    flat = [
        {
            name: json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value
            for name, value in row.values.items()
        }
        for row in rows
    ]
    return pl.DataFrame(flat, infer_schema_length=None).write_csv()


def run_language(warehouse: Warehouse) -> Language:
    """The language of the run that wrote the dataset's instances."""
    found = warehouse.query(
        "SELECT config FROM lineage.materializations JOIN lineage.configs USING (config_hash) "
        "WHERE asset = ? ORDER BY sequence DESC LIMIT 1",
        [DATASET],
    )
    config = json.loads(found["config"][0]) if found.height else {}
    return language_of(config.get("language", ENGLISH.code))


def _singles(warehouse: Warehouse, layout: LayoutName) -> list[ExportRow]:
    rows = warehouse.read(DATASET)
    render = LAYOUTS[layout].render
    flat = with_entries(rows).drop(_INNER).to_dicts()
    return [
        ExportRow(render(values) if render else values, ((DATASET, row),))
        for row, values in zip(rows.to_dicts(), flat, strict=True)
    ]


def _pairs(warehouse: Warehouse) -> list[ExportRow]:
    """The better and the worse of the two policies' instances of each instruction.

    Their rewards are by one rule on one scale, that of the base policy's instances. Instances that
    the format gate rejected say nothing of an answer, and are left out.
    """
    language = run_language(warehouse)
    by_instruction: dict[str, list[tuple[str, Row]]] = {}
    for table in (DECISIONS, BASE_INSTANCES):
        for row in warehouse.read(table).to_dicts():
            if row["format_valid"]:
                by_instruction.setdefault(row["instruction"], []).append((table, row))
    pairs = []
    for own in by_instruction.values():
        ordered = sorted(own, key=lambda source: source[1]["reward"])
        worse, better = ordered[0], ordered[-1]
        values = preference(better[1], worse[1], language)
        if better[1]["reward"] > worse[1]["reward"] and values["chosen"] != values["rejected"]:
            pairs.append(ExportRow(values, (better, worse)))
    return pairs


def _prompts(warehouse: Warehouse, rows: Sequence[ExportRow]) -> dict[str, str]:
    """Completion key -> the prompt that it answered."""
    keys = [row.sources[0][1]["completion_key"] for row in rows]
    found = warehouse.query(
        "SELECT key, prompt FROM store.completions WHERE key IN (SELECT unnest(?::VARCHAR[]))",
        [keys],
    )
    return dict(found.rows())


def _with_columns(
    row: ExportRow,
    columns: Sequence[str],
    provenance: bool,
    ancestry: Ancestry,
    prompts: dict[str, str],
) -> ExportRow:
    table, source = row.sources[0]
    known = {name: value for name, value in source.items() if name not in ("parts", *_INNER)}
    known |= source["parts"] or {}
    decisions = [p["row_id"] for p in source["parents"] if p["role"] == "decision"]
    known |= {
        "seeds": ancestry.seeds(source),
        "generation_prompt": prompts.get(source["completion_key"]),
        # A row of the decisions is its own.
        "decision": decisions[0] if decisions else row.row_id if table == DECISIONS else None,
    }
    known |= row.values
    if unknown := [name for name in columns if name not in known]:
        raise RefineError(
            f"there is no column {', '.join(unknown)}",
            where="--columns",
            fix=f"choose from {', '.join(sorted(known))}",
        )
    names = list(columns) or list(row.values)
    if provenance:
        names += [name for name in PROVENANCE if name not in names]
    return ExportRow({name: known[name] for name in names}, row.sources)
