"""The novelty filter on a file: kept rows and decisions go to files beside it.

Rows are read, decided on and written in batches; only the index stays in memory. Both files have
names ending in `.part` until they are complete; a decision depends on earlier rows only.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

from refine_dagster import progress
from refine_dagster.errors import RefineError
from refine_dagster.novelty.filter import Decision, NoveltyFilter
from refine_dagster.novelty.row_files import row_file
from refine_dagster.novelty.tokenizers import TOKENIZERS

_BATCH = 4096
# A row of the other file has the key line - _OTHER_FILE, so that it is below all of the file's own.
_OTHER_FILE = 1 << 40


@dataclass(frozen=True)
class Deduplicated:
    """Where the results of `dedupe_file` are, and counts of rows.

    Attributes:
        kept_file: the kept rows, in the form of the file.
        decisions_file: JSONL, one object a row of the file: `row` (its line, or row of Parquet),
            `kept`, `tokenizer`, and if refused `score` (ROUGE-L F), `nearest` (line or row) and
            `nearest_in` (its file).
        by_unicode: rows whose tokens are those of the tokenizer `unicode`.
        without_tokens: kept rows without any, which score 0 against everything else.
    """

    kept_file: Path
    decisions_file: Path
    rows: int
    kept: int
    by_unicode: int
    without_tokens: int


def dedupe_file(
    file: Path,
    column: str,
    novelty: NoveltyFilter,
    *,
    against: Path | None = None,
    overwrite: bool = False,
) -> Deduplicated:
    """Decide on a text column of a file (JSONL, CSV or Parquet), in order.

    Args:
        novelty: an empty filter.
        against: a file whose texts, in the same column, are in the pool from the start.
        overwrite: replace results of an earlier call.

    Raises:
        RefineError: a result exists already, or a row cannot be read.
    """
    source = row_file(file, column)
    kept_file = file.with_name(f"{file.stem}.kept{file.suffix}")
    decisions_file = file.with_name(f"{file.stem}.decisions.jsonl")
    for result in (kept_file, decisions_file):
        if result.exists() and not overwrite:
            raise RefineError(
                "exists already", where=str(result), fix="move it, or replace it with --overwrite"
            )
    if against is not None:
        pool = row_file(against, column)
        with progress.task(f"rows of {against.name}") as advance:
            for batch in pool.batches(_BATCH):
                novelty.preload(batch.texts, [number - _OTHER_FILE for number in batch.numbers])
                advance(len(batch.texts))
    part_of_kept = kept_file.with_name(f"{kept_file.name}.part")
    part_of_decisions = decisions_file.with_name(f"{decisions_file.name}.part")
    rows = kept = by_unicode = without_tokens = 0
    try:
        with (
            source.like(part_of_kept) as write,
            part_of_decisions.open("w", encoding="utf-8") as decisions,
            progress.task(f"rows of {file.name}") as advance,
        ):
            for batch in source.batches(_BATCH):
                decided = novelty.accept(batch.texts, batch.numbers)
                mask = [decision.kept for decision in decided]
                write(batch, mask)
                decisions.writelines(
                    _line(number, decision, file, against)
                    for number, decision in zip(batch.numbers, decided, strict=True)
                )
                rows += len(decided)
                kept += sum(mask)
                by_unicode += sum(decision.tokenizer == "unicode" for decision in decided)
                without_tokens += sum(
                    not TOKENIZERS[decision.tokenizer](text)
                    for text, decision in compress(zip(batch.texts, decided, strict=True), mask)
                )
                advance(len(decided), kept=kept)
    except OSError as error:
        raise RefineError(
            f"cannot be written: {error.strerror}", where=str(file.parent), fix="make room there"
        ) from error
    part_of_kept.replace(kept_file)
    part_of_decisions.replace(decisions_file)
    return Deduplicated(kept_file, decisions_file, rows, kept, by_unicode, without_tokens)


def _line(number: int, decision: Decision, file: Path, against: Path | None) -> str:
    nearest = decision.nearest
    if decision.kept or not isinstance(nearest, int):
        return f'{{"row": {number}, "kept": true, "tokenizer": "{decision.tokenizer}"}}\n'
    in_other_file = nearest < 0
    fields = {
        "row": number,
        "kept": False,
        "tokenizer": decision.tokenizer,
        "score": decision.score,
        "nearest": nearest + _OTHER_FILE if in_other_file else nearest,
        "nearest_in": str(against if in_other_file else file),
    }
    return json.dumps(fields, ensure_ascii=False) + "\n"
