"""The card of an exported dataset: what is in it, how it was made, what was measured, its limits.

Every figure is read from the warehouse when the dataset is exported; what was not checked is said
to be unchecked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from refine_dagster.evaluation.diversity import distinct_bigrams
from refine_dagster.publishing.dataset_rows import DATASET, ExportRow
from refine_dagster.publishing.home_models import HomeModel, home_models
from refine_dagster.publishing.layouts import LayoutName
from refine_dagster.publishing.markdown import code_block, table
from refine_dagster.publishing.model_card import (
    base_licence,
    base_name,
    seeds_are_packaged,
    seeds_licence,
)
from refine_dagster.publishing.seed_families import Split
from refine_dagster.warehouse.ledger import next_link
from refine_dagster.warehouse.rows import Row
from refine_dagster.warehouse.warehouse import Warehouse

SIZES = (1_000, 10_000, 100_000, 1_000_000)
# Instances of each policy, and which model wrote them.
STAGES = (
    ("instructions", "instruction_decisions"),
    ("instances, policy before RL", "reward_scored_instructions"),
    ("instances, refined policy", "instance_decisions"),
)


@dataclass(frozen=True)
class DatasetFacts:
    """What the card is written from, as the warehouse has it at the export.

    Attributes:
        funnel: (stage, outcome, rows), the number that went in first.
        models: the models that took part; judges: the rows of `feedback_judge`.
        spend: (role, asked, reused, sent, tokens, seconds).
        seconds: of models and trainings, of all materializations.
        former: the ids of the dataset's rows in the export before; None where there was none.
        sequence, digest: the last line of the ledger.
    """

    data_version: str
    rows: list[Row]
    seeds: int
    packaged_seeds: bool
    base: Row
    models: list[HomeModel]
    judges: list[Row]
    funnel: list[tuple[str, str, int]]
    spend: list[tuple[str, int, int, int, int, float]]
    seconds: float
    language: str
    novelty_threshold: float | None
    former: frozenset[str] | None
    sequence: int
    digest: str


def read_dataset_facts(warehouse: Warehouse, data_version: str, language: str) -> DatasetFacts:
    """The facts about the live dataset."""
    with warehouse.held():
        with warehouse.reading() as connection:
            following, digest = next_link(connection)
        spend = warehouse.query(
            "SELECT role, sum(asked)::BIGINT, sum(reused)::BIGINT, sum(sent)::BIGINT, "
            "sum(prompt_tokens + completion_tokens)::BIGINT, sum(seconds) "
            "FROM lineage.requests GROUP BY role ORDER BY role"
        ).rows()
        seconds = warehouse.query(
            "SELECT coalesce(sum((device ->> 'seconds')::DOUBLE), 0) FROM lineage.materializations"
        ).item()
        return DatasetFacts(
            data_version=data_version,
            rows=warehouse.read(DATASET).to_dicts(),
            seeds=warehouse.read("seed_tasks").height,
            packaged_seeds=seeds_are_packaged(warehouse),
            base=warehouse.read("base_model").to_dicts()[0],
            models=[model for model in home_models(warehouse) if model.kind != "arm"],
            judges=warehouse.read("feedback_judge").to_dicts(),
            funnel=[line for stage in STAGES for line in _funnel(warehouse, *stage)],
            spend=spend,
            seconds=seconds,
            language=language,
            novelty_threshold=_novelty_threshold(warehouse),
            former=_last_exported(warehouse),
            sequence=following - 1,
            digest=digest,
        )


def dataset_card(
    facts: DatasetFacts,
    layout: LayoutName,
    parts: Mapping[str, Sequence[ExportRow]],
    files: Mapping[str, str],
    split: Split | None,
    licence: str | None,
) -> str:
    """The card as Markdown with the metadata that `datasets` and the Hub read.

    Args:
        parts: split -> its rows. files: split -> the file, relative to the folder.
    """
    rows = {name: len(own) for name, own in parts.items()}
    sections = [
        _metadata(facts, rows, files, licence),
        "# Instruction dataset\n\n"
        f"{sum(rows.values())} rows that language models wrote from {facts.seeds} seed tasks, "
        "which people wrote. refine-dagster made it by Self-Instruct, TeaMs-RL and REFINE-AF; "
        "every figure below is read from its warehouse.",
        _use(layout, parts, split),
        _making(facts),
        _figures(facts),
        _checks(facts.novelty_threshold),
        _spend(facts),
        _limits(),
        _licences(facts, licence),
        _changes(facts),
        _verifying(facts),
    ]
    return "\n\n".join(sections) + "\n"


def _funnel(warehouse: Warehouse, stage: str, name: str) -> list[tuple[str, str, int]]:
    counts = warehouse.query(
        f"SELECT rule, count(*) AS rows FROM {name} GROUP BY rule "
        "ORDER BY rule <> 'kept', rows DESC, rule"
    ).rows()
    total = sum(rows for _, rows in counts)
    return [(stage, "in", total), *((stage, rule, rows) for rule, rows in counts)] if total else []


def _last_exported(warehouse: Warehouse) -> frozenset[str] | None:
    """The ids of the dataset's rows in the last export that had any."""
    exports = warehouse.query("SELECT parents FROM history.exports ORDER BY added_in DESC")
    for parents in exports["parents"].to_list():
        if ids := frozenset(p["row_id"] for p in parents if p["asset"] == DATASET):
            return ids
    return None


def _novelty_threshold(warehouse: Warehouse) -> float | None:
    found = warehouse.query(
        "SELECT (config -> 'self_instruct' ->> 'novelty_threshold')::DOUBLE "
        "FROM lineage.materializations JOIN lineage.configs USING (config_hash) "
        "WHERE asset = 'instruction_decisions' ORDER BY sequence DESC LIMIT 1"
    )
    threshold: float | None = found.item() if found.height else None
    return threshold


def _metadata(
    facts: DatasetFacts, rows: Mapping[str, int], files: Mapping[str, str], licence: str | None
) -> str:
    import yaml

    total = sum(rows.values())
    bounds = [0, *SIZES]
    size = next(
        (
            f"{_short(low)}<n<{_short(high)}" if low else f"n<{_short(high)}"
            for low, high in zip(bounds, SIZES, strict=False)
            if total < high
        ),
        f"n>{_short(SIZES[-1])}",
    )
    metadata: dict[str, Any] = {
        **({"license": licence} if licence else {}),
        "language": [facts.language],
        "pretty_name": "Instruction dataset by refine-dagster",
        "task_categories": ["text-generation"],
        "size_categories": [size],
        "annotations_creators": ["machine-generated"],
        "language_creators": ["machine-generated"],
        "source_datasets": ["original"],
        "tags": ["synthetic", "refine-dagster", "instruction-tuning"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": name, "path": path} for name, path in files.items()],
            }
        ],
    }
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)}---"


def _short(number: int) -> str:
    return f"{number // 1_000_000}M" if number >= 1_000_000 else f"{number // 1_000}K"


def _use(layout: LayoutName, parts: Mapping[str, Sequence[ExportRow]], split: Split | None) -> str:
    columns = next(iter(parts.values()))[0].values
    lines = [
        "## Use",
        code_block("from datasets import load_dataset\n\ndataset = load_dataset('.')", "python"),
        table(["split", "rows"], [(name, len(rows)) for name, rows in parts.items()]),
        f"Layout `{layout}`, columns {', '.join(f'`{name}`' for name in columns)}. Rows stand in "
        "the order of their ids.",
    ]
    if split:
        lines.append(
            f"The rows fall into {split.families} families, the largest of {split.largest} rows; "
            + (
                "rows of a family have a seed in common that a prompt showed, or that was evolved. "
                "No seed has descendants on both sides."
                if split.by == "descent"
                else "rows of a family go back to one seed by the nearest text of their "
                "instructions. Prompts may have shown a seed to both sides."
            )
        )
    return "\n\n".join(lines)


def _making(facts: DatasetFacts) -> str:
    models = [
        (model.name, model.fingerprint, model.checkpoint_hash, "stale" if model.stale else "")
        for model in facts.models
    ]
    base = facts.base
    return "\n\n".join(
        [
            "## How it was made",
            "A model proposes instructions from a few that it is shown, and an instructor evolves "
            "seeds; every candidate is decided on. A policy writes an input and an output for each "
            "accepted instruction, is refined by reinforcement learning from an automated judge, "
            "and writes them again. What went in, and what became of it:",
            table(["stage", "outcome", "rows"], facts.funnel),
            f"Base model: `{base_name(base)}`"
            + (f", commit `{base['revision']}`" if base["revision"] else "")
            + f", {base['parameters']:,} parameters.",
            table(["model", "fingerprint", "checkpoint", ""], models),
        ]
    )


def _figures(facts: DatasetFacts) -> str:
    rows = facts.rows
    rewards = sorted(row["reward"] for row in rows)
    parts: dict[str, list[float]] = {}
    for row in rows:
        for name, value in (row["parts"] or {}).items():
            parts.setdefault(name, []).append(value)
    methods = Counter(row["method"] for row in rows)
    instructions = [row["instruction"] for row in rows]
    words = [len(row["output"].split()) for row in rows]
    lines: list[tuple[str, Any]] = [
        *((f"rows by {method}", count) for method, count in sorted(methods.items())),
        ("rows with an input", sum(bool(row["input"]) for row in rows)),
        ("different instructions", len(set(instructions))),
        ("different first words of instructions", len({text.split()[0] for text in instructions})),
        ("different pairs of neighbouring words, share", distinct_bigrams(instructions)),
        ("different outputs", len({row["output"] for row in rows})),
        ("words of an output, median", median(words)),
        ("reward, mean", fmean(rewards)),
        ("reward, lowest", rewards[0]),
        ("reward, median", median(rewards)),
        ("reward, highest", rewards[-1]),
        *((f"{name}, mean", fmean(values)) for name, values in sorted(parts.items())),
    ]  # fmt: skip
    return "\n\n".join(["## Figures", "Of the dataset's rows:", table(["", ""], lines)])


def _checks(threshold: float | None) -> str:
    near = (
        "the novelty filter decided on every instruction"
        if threshold is None
        else f"no instruction exceeds ROUGE-L {threshold:g} with a seed or with one accepted before"
    )
    return (
        "## Checks\n\n"
        f"- Near-duplicates: {near}.\n"
        "- Contamination with evaluation tasks, personal data and secrets: not checked at the "
        "export; `refine-dagster screen` checks them.\n"
        "- Human text: none of the rows is a seed; instructions may repeat words of seeds."
    )


def _spend(facts: DatasetFacts) -> str:
    lines = [
        (role, asked, reused, sent, tokens, round(seconds, 1))
        for role, asked, reused, sent, tokens, seconds in facts.spend
    ]
    return "\n\n".join(
        [
            "## Spend",
            "Requests to models in the whole life of the home, evaluation included. Those that "
            f"were reused cost nothing. Models and trainings took {facts.seconds:,.0f} s.",
            table(["role", "asked", "reused", "sent", "tokens", "seconds"], lines),
        ]
    )


def _limits() -> str:
    return (
        "## Limits\n\n"
        "- The outputs are a language model's; nobody has checked them. Some are wrong.\n"
        "- The reward is an automated judge's: it tells well-formed from ill-formed text better "
        "than right from wrong.\n"
        "- Instructions resemble the seeds in kind, length and language. What the seeds lack is "
        "lacking here.\n"
        "- No test of bias or harm was made."
    )


def _licences(facts: DatasetFacts, licence: str | None) -> str:
    own = f"This dataset: {licence}." if licence else "No licence is stated for this dataset."
    lines = [own, base_licence(facts.base), seeds_licence(facts.packaged_seeds)]
    lines.append("A base model's terms may bind what is made of its outputs.")
    return "## Licences\n\n" + "\n".join(f"- {line}" for line in lines)


def _changes(facts: DatasetFacts) -> str:
    now = {row["row_id"] for row in facts.rows}
    if facts.former is None:
        return "## Changes\n\nThis is the first export of the dataset from its home."
    return (
        f"## Changes\n\nSince the last export {len(now - facts.former)} rows came and "
        f"{len(facts.former - now)} went; {len(now & facts.former)} are the same. Rows go when a "
        "seed is edited or retracted, or when models or config change."
    )


def _verifying(facts: DatasetFacts) -> str:
    return (
        "## Verify\n\n`python verify.py` compares every file with `SHA256SUMS`, every row with its "
        "content id and its parents in `lineage.jsonl` down to seeds, and the lines of "
        "`ledger.jsonl` with their digests. It needs Python alone, and for a signature "
        "`cryptography`.\n\n"
        f"Data version `{facts.data_version}`; the ledger's last line is {facts.sequence}, digest "
        f"`{facts.digest}`."
    )
