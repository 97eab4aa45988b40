"""What the offline base model reads: rows of text in the pipeline's own prompt formats.

A row is documents one after another, parted by the end token; the first starts the row, as a
prompt does at inference. There are two kinds of row: the requirement list followed by
numbered instructions (the prompt of stage 1, gone on with), and the header followed by whole
triples (the prompt of stage 2, gone on with). Both mix primer tasks with the user's seeds.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

from refine_dagster.refine_af.instance_prompt import HEADER, Triple
from refine_dagster.self_instruct.prompts import propose_prompt
from refine_dagster.training.tokenizer import END

# Share of the lines and triples that is drawn from the seeds; the rest is the primer's. At this
# share and the default steps about 1 proposal in 35 is a seed word for word.
SEED_SHARE = 0.15
# Share of rows that are lists of instructions; the others are triples, which take longer to learn.
PROPOSE_SHARE = 0.25
LIST_LENGTHS = (10, 20)
TRIPLE_COUNTS = (4, 10)

T = TypeVar("T")


class Corpus:
    """Documents drawn from seeds and primer.

    Args:
        seeds: the user's seed triples; without any, everything is drawn from the primer.
        primer: generated triples, at least one.
        rng: source of every draw.
    """

    def __init__(
        self, seeds: Sequence[Triple], primer: Sequence[Triple], rng: random.Random
    ) -> None:
        self._seeds = list(seeds)
        self._primer = list(primer)
        self._rng = rng
        self._seed_lines = sorted({triple.instruction for triple in seeds})
        self._primer_lines = sorted({triple.instruction for triple in primer})

    def rows(self, count: int, characters: int) -> Iterator[str]:
        """`count` rows of text of `characters` characters each; the last document may be cut."""
        for _ in range(count):
            yield self._row(characters)

    def _row(self, characters: int) -> str:
        lists = self._rng.random() < PROPOSE_SHARE
        text = ""
        while len(text) < characters:
            text += (self._list() if lists else self._triples()) + END
        return text[:characters]

    def _list(self) -> str:
        """The requirements and a numbered list without repetition."""
        wanted = self._rng.randint(*LIST_LENGTHS)
        # A dict keeps the order of the draws and drops repetitions.
        lines: dict[str, None] = {}
        for _ in range(wanted):
            lines[self._draw(self._seed_lines, self._primer_lines)] = None
        *shown, last = lines
        return f"{propose_prompt(shown)} {last}"

    def _triples(self) -> str:
        count = self._rng.randint(*TRIPLE_COUNTS)
        drawn = [self._draw(self._seeds, self._primer) for _ in range(count)]
        return "\n\n".join([HEADER, *(triple.render() for triple in drawn)])

    def _draw(self, seeds: Sequence[T], primer: Sequence[T]) -> T:
        from_seeds = self._rng.random() < SEED_SHARE
        return self._rng.choice(seeds if seeds and from_seeds else primer)
