"""The summary of training content that Article 53(1)(d) of the EU's AI Act asks of providers.

It has the three sections of the Commission's template: general information, list of data sources,
data processing. What only the provider knows is left to be filled in, and marked so.
"""

from __future__ import annotations

from refine_dagster.escapes import markdown_text
from refine_dagster.publishing.markdown import table
from refine_dagster.publishing.model_card import (
    OFFLINE,
    CardFacts,
    base_licence,
    base_name,
    seeds_licence,
)

SUMMARY = "TRAINING_CONTENT.md"
TO_FILL_IN = "*To be filled in by the provider.*"


def training_summary(facts: CardFacts) -> str:
    """The summary for an exported model, as Markdown."""
    parts = [
        "# Summary of training content",
        "By the template for Article 53(1)(d) of Regulation (EU) 2024/1689. It covers the training "
        "recorded in the home that this model was exported from; the training of a base model that "
        "came from elsewhere is its provider's to describe.",
        *_general(facts),
        *_sources(facts),
        *_processing(facts),
    ]
    return "\n\n".join(parts) + "\n"


def _general(facts: CardFacts) -> list[str]:
    model = facts.model
    learnt = ", ".join(
        f"{rows} of {markdown_text(name)}" for name, rows in sorted(model.learnt_from.items())
    )
    return [
        "## 1. General information",
        "### 1.1 Provider",
        TO_FILL_IN,
        "### 1.2 Model",
        table(
            ["", ""],
            [
                ("name", model.name),
                ("fingerprint", model.fingerprint),
                ("base model", base_name(facts.base)),
                ("commit of the base model", facts.base["revision"] or "none recorded"),
                ("date of placing on the market", "to be filled in"),
            ],
        ),
        "### 1.3 Modalities and size",
        f"Text alone; language `{facts.language.code}`. Rows that the last training learnt from: "
        f"{learnt or 'none'}. Each is an instruction with an input and an output, mostly short: "
        "far below the template's smallest class of 1 billion tokens.",
    ]


def _sources(facts: CardFacts) -> list[str]:
    seeds = f"{facts.seeds} seed tasks, written by people. {seeds_licence(facts.packaged_seeds)}"
    offline = facts.base["model"] == OFFLINE
    generators = ", ".join(
        sorted({f"`{name}` (`{row['checkpoint_hash'][:12]}`)" for name, row in facts.trainings})
    )
    return [
        "## 2. Data sources",
        "### 2.1 Publicly available datasets",
        seeds if facts.packaged_seeds else "None that the ledger knows of.",
        "### 2.2 Private datasets of third parties",
        "None." if facts.packaged_seeds else f"{seeds} {TO_FILL_IN}",
        "### 2.3 Data crawled and scraped",
        "None: nothing is fetched from the web.",
        "### 2.4 User data",
        "None: nobody's use of a service was recorded.",
        "### 2.5 Synthetic data",
        "The base model and models trained on it proposed instructions and answered them"
        + (f" ({generators})" if generators else "")
        + ", and selected by rules and an automated judge. "
        + (
            "The base model itself learnt from tasks that the code of refine-dagster generates."
            if offline
            else base_licence(facts.base)
        ),
        "### 2.6 Other sources",
        "None.",
    ]


def _processing(facts: CardFacts) -> list[str]:
    return [
        "## 3. Data processing",
        "### 3.1 Reservations of rights",
        "No text or data mining of protected works took place in this training. Of the seeds: "
        + (seeds_licence(True) if facts.packaged_seeds else TO_FILL_IN),
        "### 3.2 Removal of illegal content",
        "No filter for illegal content was applied. Candidates were rejected by these rules:",
        table(["stage", "rule", "rows"], [line for line in facts.funnel if line[1] != "kept"]),
        "### 3.3 Other",
        f"Every row names its parents, and every rejection its rule. The ledger's last line is "
        f"{facts.sequence}, digest `{facts.digest}`.",
    ]
