"""Contamination: rows of a dataset that hold text of an evaluation.

Two measures, both over words in lower case:

- n-grams: a run of n words of the row that also stands in a definition or an input of a task. 8 is
  the length of Tülu 3 (arXiv 2411.15124, section 3.2); GPT-3's 13 is longer than most tasks here. A
  text of the evaluation that is shorter, but not shorter than `SHORTEST` words, must occur whole.
- ROUGE-L F of a field with such a text, from a threshold on: what was reworded slightly.

Right answers are not looked for: a label or a number stands in most datasets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist

from refine_dagster.evaluation.super_ni import Task
from refine_dagster.novelty.rouge import rouge_l_of
from refine_dagster.screening.finding import FIELDS, Finding, Words

CHECK = "contamination"
NGRAM = 8
SHORTEST = 5
THRESHOLD = 0.7
# Rows compared by one call: bounds the memory of a matrix of LCS lengths.
BATCH = 256


@dataclass(frozen=True)
class EvaluationText:
    """A text of a task, and what names it: `task.json, definition` or `task.json, input 3`."""

    name: str
    words: Words


def texts_of(tasks: Sequence[Task]) -> list[EvaluationText]:
    """The definitions and inputs of tasks that have `SHORTEST` words or more."""
    named = [
        (f"{task.name}, {part}", text)
        for task in tasks
        for part, text in [
            ("definition", task.definition),
            *((f"input {place}", one.input) for place, one in enumerate(task.instances)),
        ]
    ]
    texts = [EvaluationText(name, Words.of(text)) for name, text in named]
    return [text for text in texts if len(text.words.words) >= SHORTEST]


class Contamination:
    """Finds text of an evaluation in rows.

    Args:
        ngram: words in a run; at least `SHORTEST`.
        threshold: ROUGE-L F from which a field is reported, above 0, at most 1.
    """

    def __init__(
        self, texts: Sequence[EvaluationText], ngram: int = NGRAM, threshold: float = THRESHOLD
    ) -> None:
        if ngram < SHORTEST:
            raise ValueError(f"runs of {ngram} words are in all texts; give {SHORTEST} or more")
        self._texts = texts
        self._ngram = ngram
        self._threshold = threshold
        self._lengths = np.array([len(text.words.words) for text in texts], dtype=np.int64)
        # A run of words -> the first text that has it.
        self._runs: dict[tuple[str, ...], int] = {}
        for number, text in enumerate(texts):
            words = text.words.words
            size = min(ngram, len(words))
            for start in range(len(words) - size + 1):
                self._runs.setdefault(words[start : start + size], number)
        self._sizes = sorted({len(run) for run in self._runs}, reverse=True)

    def find(self, rows: Sequence[Mapping[str, Any]]) -> list[Finding]:
        """What it finds in rows with `row_id` and the fields: by row, each field once a measure."""
        fields = [
            (row["row_id"], field, words)
            for row in rows
            for field in FIELDS
            if (words := Words.of(row[field])).words
        ]
        found = [one for given in fields for one in self._shared_run(*given)]
        for start in range(0, len(fields) if self._texts else 0, BATCH):
            found += self._alike(fields[start : start + BATCH])
        order = {row["row_id"]: place for place, row in enumerate(rows)}
        return sorted(found, key=lambda one: (order[one.row_id], FIELDS.index(one.field), one.rule))

    def _shared_run(self, row_id: str, field: str, words: Words) -> Iterator[Finding]:
        """The longest run of the field that its n-grams cover, if one is shared."""
        longest: tuple[int, int, int] | None = None
        for size in self._sizes:
            first, last, number = -1, -2, 0
            for start in range(len(words.words) - size + 1):
                known = self._runs.get(words.words[start : start + size])
                if known is None:
                    continue
                if start > last + 1 or first < 0:
                    first, number = start, known
                last = start
                if longest is None or last + size - first > longest[1] - longest[0]:
                    longest = (first, last + size, number)
        if longest is not None:
            first, end, number = longest
            start, stop = words.span(first, end - 1)
            rule = f"{min(self._ngram, len(self._texts[number].words.words))}-gram"
            against = self._texts[number].name
            yield Finding(
                CHECK, rule, row_id, field, start, stop, words.text[start:stop],
                float(end - first), against,
            )  # fmt: skip

    def _alike(self, fields: Sequence[tuple[str, str, Words]]) -> Iterator[Finding]:
        """The text most like each field by ROUGE-L, where the threshold is reached."""
        others = [text.words.words for text in self._texts]
        shared = cdist(
            [words.words for _, _, words in fields], others, scorer=LCSseq.similarity,
            dtype=np.uint32,
        )  # fmt: skip
        for (row_id, field, words), lcs in zip(fields, shared, strict=True):
            score = np.zeros(len(others))
            some = np.flatnonzero(lcs)
            score[some] = rouge_l_of(lcs[some], self._lengths[some], len(words.words))
            number = int(score.argmax())
            if score[number] >= self._threshold:
                start, stop = words.span(*_extent(words.words, others[number]))
                yield Finding(
                    CHECK, "ROUGE-L", row_id, field, start, stop, words.text[start:stop],
                    round(float(score[number]), 4), self._texts[number].name,
                )  # fmt: skip


def _extent(words: Sequence[str], other: Sequence[str]) -> tuple[int, int]:
    """First and last word that are part of the longest common subsequence."""
    equal = [block for block in LCSseq.opcodes(words, other) if block.tag == "equal"]
    return equal[0].src_start, equal[-1].src_end - 1
