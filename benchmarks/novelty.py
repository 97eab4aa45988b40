"""What the novelty filter costs beside the loops that people use, and how it grows.

Run it from the repository's root, on one core:

    OMP_NUM_THREADS=1 python benchmarks/novelty.py INSTRUCTIONS.jsonl ...
    OMP_NUM_THREADS=1 python benchmarks/novelty.py INSTRUCTIONS.jsonl ... --sizes 1000000
    OMP_NUM_THREADS=1 python benchmarks/novelty.py INSTRUCTIONS.jsonl ... --nearest

Texts are those of the files, in order, and then synthetic ones: of ten, seven walk a chain of word
pairs learnt from the files, with one word in twenty replaced by a name (200,000 names, Zipf), and
three are copies of an earlier text with up to half of the words replaced. All columns begin at raw
text and end at decisions.

- `rouge_score loop`: the cheapest loop in one process: texts are tokenised once, each pair goes
  through `rouge_score`'s own LCS and F, one after the other. It is measured on the last texts and
  extrapolated: seconds per pair, times the number of pairs, which the decisions give exactly (the
  pool's size at each text). The cheaper of two measurements counts.
- `cdist loop`: twenty lines around rapidfuzz, which compare each text with the whole pool.
- `filter`: `NoveltyFilter`; `compiled`: the same with numba, compiled beforehand.

`--nearest` compares the index, which finds the nearest text of refused texts only, with the full
scan that finds it of every text.

Times are CPU time, the best of three; memory is the peak of a process of its own.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path

import numpy as np
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist
from rich.console import Console
from rich.table import Table
from rouge_score import rouge_scorer, tokenize

from refine_dagster.novelty import Decision, NearestOf, NoveltyFilter
from refine_dagster.novelty.filter import has_compiler

NAMES = 200_000
LOOP_TEXTS = 500
SMALL_BATCH = 40
console = Console(width=120)


def instructions(files: Sequence[str]) -> list[str]:
    """The column `instruction` of JSONL files."""
    return [
        json.loads(line)["instruction"]
        for file in files
        for line in Path(file).read_text(encoding="utf-8").splitlines()
    ]


def stream(sources: Sequence[str], count: int) -> list[str]:
    """`count` texts: the sources, then synthetic ones."""
    rng = random.Random(0)
    followers: dict[str | None, list[str | None]] = {}
    words: list[str] = []
    for source in sources:
        tokens = source.split()
        words += tokens
        for before, after in zip([None, *tokens], [*tokens, None], strict=True):
            followers.setdefault(before, []).append(after)
    weights = list(accumulate(1 / (20 + rank) for rank in range(NAMES)))
    texts = list(sources[:count])
    while len(texts) < count:
        if rng.random() < 0.3:
            tokens = rng.choice(texts).split()
            for _ in range(rng.randint(1, max(1, len(tokens) // 2)) if tokens else 0):
                tokens[rng.randrange(len(tokens))] = rng.choice(words)
        else:
            tokens = []
            word = rng.choice(followers[None])
            while word is not None:
                tokens.append(word)
                word = rng.choice(followers[word])
            if not 4 <= len(tokens) <= 120:
                continue
            for position in range(len(tokens)):
                if rng.random() < 0.05:
                    name = rng.choices(range(NAMES), cum_weights=weights)[0]
                    tokens[position] = f"name{name}"
        texts.append(" ".join(tokens))
    return texts


def rouge_score_loop(texts: Sequence[str]) -> tuple[list[bool], int]:
    """Whether each text is kept, and how many pairs were compared."""
    pool: list[list[str]] = []
    kept = []
    pairs = 0
    for text in texts:
        tokens = tokenize.tokenize(text, None)
        best = 0.0
        for other in pool:
            best = max(best, rouge_scorer._score_lcs(other, tokens).fmeasure)
        pairs += len(pool)
        kept.append(best < 0.7)
        if kept[-1]:
            pool.append(tokens)
    return kept, pairs


def cdist_loop(texts: Sequence[str]) -> list[bool]:
    """The same with one call of rapidfuzz for each text, on one code point a token."""
    codes: dict[str, str] = {}
    pool: list[str] = []
    lengths: list[int] = []
    kept = []
    for text in texts:
        tokens = tokenize.tokenize(text, None)
        string = "".join([codes.setdefault(token, chr(0xE000 + len(codes))) for token in tokens])
        best = 0.0
        if pool and string:
            lcs = cdist([string], pool, scorer=LCSseq.similarity, dtype=np.int32)[0]
            sharing = np.flatnonzero(lcs)
            precision = lcs[sharing] / len(string)
            recall = lcs[sharing] / np.array(lengths)[sharing]
            f = 2 * precision * recall / (precision + recall)
            best = float(f.max(initial=0.0))
        kept.append(best < 0.7)
        if kept[-1]:
            pool.append(string)
            lengths.append(len(string))
    return kept


def seconds(work: Callable[[], object], times: int = 3) -> float:
    """CPU time of the best of several calls."""
    measured = []
    for _ in range(times):
        begin = time.process_time()
        work()
        measured.append(time.process_time() - begin)
    return min(measured)


def ratios(texts: list[str], tiers: Sequence[bool]) -> None:
    """The table of the filter beside the loops."""
    few = texts[-LOOP_TEXTS:]
    begin = time.process_time()
    kept, pairs = rouge_score_loop(few)
    first = time.process_time() - begin
    decisions = NoveltyFilter().accept(texts)
    assert [decision.kept for decision in NoveltyFilter().accept(few)] == kept
    all_kept = [decision.kept for decision in decisions]
    all_pairs = int((np.cumsum(all_kept) - all_kept[-1]).sum())
    own = {compiled: seconds(partial(decided, texts, compiled)) for compiled in tiers}
    begin = time.process_time()
    of_cdist = cdist_loop(texts)
    whole = time.process_time() - begin
    assert of_cdist == all_kept
    begin = time.process_time()
    rouge_score_loop(few)
    a_pair = min(first, time.process_time() - begin) / pairs
    loop = a_pair * all_pairs
    table = Table(title=f"{len(texts):,} candidates, {sum(of_cdist):,} kept, raw text to decisions")
    for name in ("", "CPU seconds", "us a candidate", "times less than the loop"):
        table.add_column(name, justify="right" if name else "left")
    rows = [("rouge_score loop (extrapolated)", loop), ("cdist loop", whole)]
    rows += [("compiled" if compiled else "filter", own[compiled]) for compiled in tiers]
    for name, cost in rows:
        table.add_row(
            name, f"{cost:,.3f}", f"{cost / len(texts) * 1e6:,.1f}", f"{loop / cost:,.0f}"
        )
    console.print(table)
    console.print(
        f"loop: {a_pair * 1e6:.1f} us a pair, measured on {pairs:,} pairs, times {all_pairs:,}"
    )


def decided(texts: list[str], compiled: bool) -> list[Decision]:
    """Decisions on all texts in one call."""
    return NoveltyFilter(compiled=compiled).accept(texts)


def growth(texts: list[str], sizes: Sequence[int], tiers: Sequence[bool]) -> None:
    """The table of sizes in one call each."""
    table = Table(title="growth, one call")
    for name in ("", "candidates", "CPU seconds", "us a candidate", "exponent since the row above"):
        table.add_column(name, justify="right" if name else "left")
    for compiled in tiers:
        before = 0.0
        for index, size in enumerate(sizes):
            cost = seconds(partial(decided, texts[:size], compiled))
            exponent = (
                ""
                if not index
                else f"{np.log2(cost / before) / np.log2(size / sizes[index - 1]):.2f}"
            )
            name = "compiled" if compiled else "filter"
            table.add_row(name, f"{size:,}", f"{cost:.3f}", f"{cost / size * 1e6:.1f}", exponent)
            before = cost
    console.print(table)


def small_batches(texts: list[str], tiers: Sequence[bool]) -> None:
    """The table of batches as a Self-Instruct loop has them."""
    table = Table(title=f"{len(texts):,} candidates in batches of {SMALL_BATCH}")
    for name in ("", "us a candidate", "in the last tenth", "in the most expensive batch"):
        table.add_column(name, justify="right" if name else "left")
    whole = decided(texts, False)
    for compiled in tiers:
        novelty = NoveltyFilter(compiled=compiled)
        costs = []
        decisions: list[Decision] = []
        for start in range(0, len(texts), SMALL_BATCH):
            begin = time.process_time()
            decisions += novelty.accept(texts[start : start + SMALL_BATCH])
            costs.append((time.process_time() - begin) / SMALL_BATCH * 1e6)
        assert decisions == whole
        tenth = costs[-len(costs) // 10 :]
        table.add_row(
            "compiled" if compiled else "filter",
            f"{np.mean(costs):.1f}",
            f"{np.mean(tenth):.1f}",
            f"{max(costs):,.0f}",
        )
    console.print(table)


def nearest(texts: list[str]) -> None:
    """The table of finding the nearest text of refused texts only, and of every text."""
    table = Table(title=f"{len(texts):,} candidates")
    for name in ("the nearest text of", "in calls of", "kept", "CPU seconds", "us a candidate"):
        table.add_column(name, justify="right" if table.columns else "left")
    kinds: list[tuple[NearestOf, int]] = [("refused", len(texts)), ("refused", 1), ("all", 1)]
    for nearest_of, size in kinds:
        novelty = NoveltyFilter(nearest_of=nearest_of)
        begin = time.process_time()
        for start in range(0, len(texts), size):
            novelty.accept(texts[start : start + size])
        cost = time.process_time() - begin
        name = "every text (full scan)" if nearest_of == "all" else "refused texts (index)"
        each = f"{cost / len(texts) * 1e6:.0f}"
        table.add_row(name, f"{size:,}", f"{len(novelty):,}", f"{cost:.2f}", each)
    console.print(table)


def large(files: Sequence[str], size: int, tiers: Sequence[bool]) -> None:
    """The table of one large stream, each tier in a process of its own."""
    table = Table(title=f"{size:,} candidates in calls of 10,000")
    for name in ("", "kept", "CPU seconds", "MB at the peak", "MB of it the texts"):
        table.add_column(name, justify="right" if name else "left")
    for compiled in tiers:
        command = [sys.executable, __file__, *files, "--alone", str(size)]
        command += ["--compiled"] if compiled else []
        report = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        table.add_row(
            "compiled" if compiled else "filter",
            f"{report['kept']:,}",
            f"{report['seconds']:.1f}",
            f"{report['peak']:.0f}",
            f"{report['texts']:.0f}",
        )
    console.print(table)


def alone(texts: list[str], compiled: bool) -> None:
    """Print cost and memory of one stream as JSON."""
    NoveltyFilter(compiled=compiled).accept(texts[:100])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    novelty = NoveltyFilter(compiled=compiled)
    begin = time.process_time()
    kept = 0
    for start in range(0, len(texts), 10_000):
        kept += sum(decision.kept for decision in novelty.accept(texts[start : start + 10_000]))
    cost = time.process_time() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    size = sum(sys.getsizeof(text) for text in texts) / 2**20
    print(
        json.dumps({"kept": kept, "seconds": cost, "peak": peak, "before": before, "texts": size})
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", help="JSONL with a column `instruction`")
    parser.add_argument(
        "--sizes", type=int, nargs="*", default=None, help="only these large streams"
    )
    parser.add_argument("--nearest", action="store_true", help="only the index and the full scan")
    parser.add_argument("--alone", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--compiled", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    sources = instructions(given.files)
    if given.alone:
        alone(stream(sources, given.alone), given.compiled)
        return
    tiers = [False, True] if has_compiler() else [False]
    packages = ["numpy", "rapidfuzz", "rouge-score", *(["numba"] if has_compiler() else [])]
    console.print(
        f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in packages)
    )
    if given.nearest:
        nearest(stream(sources, 15_000))
        return
    if given.sizes is None:
        texts = stream(sources, 50_000)
        for compiled in tiers:
            decided(texts[:200], compiled)
        ratios(texts[:10_000], tiers)
        growth(texts, (10_000, 20_000, 40_000), tiers)
        small_batches(texts, tiers)
    for size in given.sizes if given.sizes is not None else [200_000]:
        large(given.files, size, tiers)


if __name__ == "__main__":
    main()
