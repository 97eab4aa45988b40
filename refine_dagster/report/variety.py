"""How varied the dataset is: distinct texts, Vendi score, and how instructions begin.

Self-Instruct's figure pairs the root verb of an instruction with its object (arXiv 2212.10560,
figure 2), which takes a parser. Here the pair is the first word and the first word after it that is
no function word: right for most English commands, an approximation for all else.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from refine_dagster.evaluation.diversity import HashedEmbedding, distinct_bigrams, vendi_score
from refine_dagster.novelty.tokenizers import unicode_tokens
from refine_dagster.report.charts import Bar, bar
from refine_dagster.report.table import Table, written

# The Vendi score of more texts is that of so many, the first by row id.
MOST_TEXTS = 5_000
VERBS, OBJECTS = 16, 5
_FUNCTION_WORDS = """
a an the this that these those of in on at to for from by with about into as and or but not is are
was were be been do does did can could will would should may might must have has had i you he she
it we they me him her us them my your his its our their what which who whom whose how when where
why if whether all any each every some no one two three four five more most other another
following given there here so then than up out only just also
"""
_SKIPPED = frozenset(_FUNCTION_WORDS.split())
_SOURCES = (
    ("seed tasks", "SELECT instruction FROM main.seed_tasks ORDER BY row_id"),
    ("candidates", "SELECT instruction FROM main.instruction_decisions ORDER BY row_id"),
    ("dataset", "SELECT instruction FROM main.instruction_dataset ORDER BY row_id"),
)


@dataclass(frozen=True)
class Variety:
    """Figures by source, and the map: a bar for each first word, its parts the words after it."""

    table: Table
    map: tuple[Bar, ...]
    others: int
    texts: int


def read_variety(connection: duckdb.DuckDBPyConnection) -> Variety:
    embedding = HashedEmbedding()
    rows = []
    texts: list[str] = []
    for source, sql in _SOURCES:
        texts = [text for (text,) in connection.execute(sql).fetchall()]
        if not texts:
            continue
        vectors = embedding.embed([text for text in texts[:MOST_TEXTS] if unicode_tokens(text)])
        words = [len(text.split()) for text in texts]
        rows.append(
            (
                source, len(texts), len(set(texts)), round(vendi_score(vectors), 1),
                round(distinct_bigrams(texts), 3), len({opening(text)[0] for text in texts}),
                round(sum(words) / len(words), 1),
            )
        )  # fmt: skip
    table = Table.of(
        "One source of instructions",
        ("source", "texts", "different", "Vendi score", "distinct bigrams", "first words", "words"),
        rows,
    )
    bars, others = opening_map(texts)
    return Variety(table, bars, others, len(texts))


def opening(text: str) -> tuple[str, str]:
    """First word of an instruction, and the first one after it that is no function word.

    >>> opening("Write a short poem."), opening("Why?"), opening("...")
    (('write', 'short'), ('why', ''), ('', ''))
    """
    words = unicode_tokens(text)
    if not words:
        return "", ""
    return words[0], next((word for word in words[1:] if word not in _SKIPPED), "")


def opening_map(texts: Sequence[str]) -> tuple[tuple[Bar, ...], int]:
    """The commonest first words as bars, and how many texts begin with another one."""
    objects: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for text in texts:
        verb, thing = opening(text)
        objects[verb][thing] += 1
    counts = {verb: sum(things.values()) for verb, things in objects.items()}
    shown = sorted(counts, key=lambda verb: (-counts[verb], verb))[:VERBS]
    widest = max(counts.values(), default=1)
    bars = []
    for verb in shown:
        common = sorted(objects[verb].items(), key=lambda pair: (-pair[1], pair[0]))
        parts = [
            (thing or "(nothing)", count, f"shade{place % 5}")
            for place, (thing, count) in enumerate(common[:OBJECTS])
        ]
        if rest := sum(count for _, count in common[OBJECTS:]):
            parts.append(("others", rest, "rest"))
        bars.append(bar(verb or "(no word)", written(counts[verb]), parts, widest))
    return tuple(bars), sum(counts.values()) - sum(counts[verb] for verb in shown)
