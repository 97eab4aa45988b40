"""The novelty filter on a file: kept rows and decisions go to files beside it.

Rows are read, decided on and written a batch at a time; what stays in memory is the index. Both
files are written under a name that ends in `.part` and get their own at the end, so that a file
without it is whole. After an interruption the `.part` files hold what was decided until then, which
is right as far as it goes: a decision depends on earlier rows only.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from refine_dagster import progress
from refine_dagster.errors import RefineError
from refine_dagster.novelty.filter import NoveltyFilter
from refine_dagster.novelty.row_files import RowBatch, RowFile

_AT_ONCE = 4096
_TOKEN = re.compile(r"[a-z0-9]")
# Keys of rows of another file are below those of the file's own: line - _ELSEWHERE.
_ELSEWHERE = 1 << 40


@dataclass(frozen=True)
class Deduplicated:
    """What became of a file.

    Attributes:
        kept_file: the kept rows, in the form of the file.
        decisions_file: JSONL, one object a row of the file: `row` (its line, or row of Parquet),
            `kept`, and for a refused one `score` (ROUGE-L F), `nearest` (line or row) and
            `nearest_in` (which file that is).
        rows: how many were decided on.
        kept: how many were kept.
        without_tokens: kept ones without a letter a-z or digit, which nothing can be compared with.
    """

    kept_file: Path
    decisions_file: Path
    rows: int
    kept: int
    without_tokens: int


def dedupe_file(
    file: Path,
    column: str,
    novelty: NoveltyFilter,
    *,
    against: Path | None = None,
    overwrite: bool = False,
) -> Deduplicated:
    """Decide on a text column of a file, in order.

    Args:
        file: JSONL, CSV or Parquet.
        column: of the texts, in both files.
        novelty: a filter with nothing in it.
        against: a file whose texts are in the pool from the start.
        overwrite: replace results of an earlier call.

    Raises:
        RefineError: results are there already, or a row cannot be read.
    """
    source = RowFile(file, column)
    kept_file = file.with_name(f"{file.stem}.kept{file.suffix}")
    decisions_file = file.with_name(f"{file.stem}.decisions.jsonl")
    for result in (kept_file, decisions_file):
        if result.exists() and not overwrite:
            raise RefineError(
                "there already", where=str(result), fix="move it, or replace it with --overwrite"
            )
    if against is not None:
        _preload(RowFile(against, column), novelty)
    part_of_kept, part_of_decisions = _part(kept_file), _part(decisions_file)
    rows = kept = without_tokens = 0
    try:
        with (
            source.like(part_of_kept) as write,
            part_of_decisions.open("w", encoding="utf-8") as decisions,
            progress.task(f"rows of {file.name}") as advance,
        ):
            for batch in source.batches(_AT_ONCE):
                told = novelty.accept(batch.texts, batch.numbers)
                chosen = [one.kept for one in told]
                write(batch, chosen)
                for number, one in zip(batch.numbers, told, strict=True):
                    line = _line(number, one.kept, one.score, one.nearest, file, against)
                    decisions.write(line)
                rows += len(told)
                kept += sum(chosen)
                without_tokens += _without_tokens(batch, chosen)
                advance(len(told), kept=kept)
    except OSError as error:
        raise RefineError(
            f"cannot be written: {error.strerror}", where=str(file.parent), fix="make room there"
        ) from error
    part_of_kept.replace(kept_file)
    part_of_decisions.replace(decisions_file)
    return Deduplicated(kept_file, decisions_file, rows, kept, without_tokens)


def _preload(pool: RowFile, novelty: NoveltyFilter) -> None:
    with progress.task(f"rows of {pool.path.name}") as advance:
        for batch in pool.batches(_AT_ONCE):
            novelty.preload(batch.texts, [number - _ELSEWHERE for number in batch.numbers])
            advance(len(batch.texts))


def _part(file: Path) -> Path:
    return file.with_name(f"{file.name}.part")


def _line(
    number: int,
    kept: bool,
    score: float | None,
    nearest: object,
    file: Path,
    against: Path | None,
) -> str:
    if kept or not isinstance(nearest, int):
        return f'{{"row": {number}, "kept": true}}\n'
    elsewhere = nearest < 0
    told = {
        "row": number,
        "kept": False,
        "score": score,
        "nearest": nearest + _ELSEWHERE if elsewhere else nearest,
        "nearest_in": str(against if elsewhere else file),
    }
    return json.dumps(told, ensure_ascii=False) + "\n"


def _without_tokens(batch: RowBatch, chosen: list[bool]) -> int:
    return sum(
        one and _TOKEN.search(text.lower()) is None
        for text, one in zip(batch.texts, chosen, strict=True)
    )
