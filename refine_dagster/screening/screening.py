"""The checks before a dataset leaves: contamination, private data, near-duplicates, language."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from refine_dagster.evaluation.super_ni import Task
from refine_dagster.language import Language
from refine_dagster.novelty.filter import NoveltyFilter
from refine_dagster.screening.contamination import NGRAM, Contamination, texts_of
from refine_dagster.screening.finding import FIELDS, Finding
from refine_dagster.screening.private_data import private_data

Check = Literal["contamination", "private_data", "near_duplicates", "language"]
CHECKS: tuple[Check, ...] = ("contamination", "private_data", "near_duplicates", "language")
# ROUGE-L F of two rows' texts from which the later one is a near-duplicate.
DUPLICATE = 0.9


@dataclass(frozen=True)
class Screening:
    """The findings of the checks that were made on so many rows."""

    rows: int
    checks: tuple[Check, ...]
    findings: tuple[Finding, ...]

    def rows_with(self, check: str) -> int:
        """How many rows a check names."""
        return len({one.row_id for one in self.findings if one.check == check})


def screen(
    rows: Sequence[Mapping[str, Any]],
    tasks: Sequence[Task],
    language: Language,
    skip: Collection[str] = (),
    ngram: int = NGRAM,
) -> Screening:
    """Make the checks on rows with `row_id`, `instruction`, `input` and `output`.

    Args:
        tasks: of the evaluations that no row may hold text of.
        skip: checks not to be made.
    """
    checks = tuple(check for check in CHECKS if check not in skip)
    found: list[Finding] = []
    for check in checks:
        if check == "contamination":
            found += Contamination(texts_of(tasks), ngram).find(rows)
        elif check == "private_data":
            found += private_data(rows)
        elif check == "near_duplicates":
            found += near_duplicates(rows, language)
        else:
            found += other_language(rows, language)
    return Screening(len(rows), checks, tuple(found))


def near_duplicates(
    rows: Sequence[Mapping[str, Any]], language: Language, threshold: float = DUPLICATE
) -> list[Finding]:
    """Rows whose instruction and input are nearly those of an earlier row, with the nearest one."""
    novelty = NoveltyFilter(threshold, reading=language.reading)
    texts = [f"{row['instruction']}\n{row['input']}" for row in rows]
    decisions = novelty.accept(texts, [row["row_id"] for row in rows])
    return [
        Finding(
            "near_duplicates",
            "ROUGE-L",
            row["row_id"],
            "instruction",
            0,
            len(row["instruction"]),
            row["instruction"],
            decision.score,
            str(decision.nearest),
        )
        for row, decision in zip(rows, decisions, strict=True)
        if not decision.kept
    ]


def other_language(rows: Sequence[Mapping[str, Any]], language: Language) -> list[Finding]:
    """Fields of which most words are not in the language's script."""
    return [
        Finding(
            "language", f"not {language.code}", row["row_id"], field, 0, len(row[field]), row[field]
        )
        for row in rows
        for field in FIELDS
        if not language.is_written_in(row[field])
    ]
