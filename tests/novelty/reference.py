"""The loop that the filter replaces, through `rouge_score` itself, and streams to try both on."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from rouge_score.rouge_scorer import RougeScorer

from refine_dagster.novelty import Decision, NoveltyFilter, RefuseAt

SCORERS = {stem: RougeScorer(["rougeL"], use_stemmer=stem) for stem in (False, True)}
DATA = Path(__file__).parents[3] / "shared" / "data"
HAS_DATA = (DATA / "self_instruct_generated_5k.jsonl").is_file()


def real_instructions() -> list[str]:
    """The seed instructions of Self-Instruct, then 5,000 of its machine-made ones."""
    files = ("self_instruct_seed_tasks.jsonl", "self_instruct_generated_5k.jsonl")
    return [
        json.loads(line)["instruction"]
        for name in files
        for line in (DATA / name).read_text(encoding="utf-8").splitlines()
    ]


def reference(
    texts: Sequence[str],
    threshold: float = 0.7,
    refuse_at: RefuseAt = "reaches",
    stem: bool = False,
    pool: Sequence[str] = (),
) -> list[Decision]:
    """Decisions of the plain loop; every decision has its score and nearest."""
    return list(_loop(tuple(texts), threshold, refuse_at, stem, tuple(pool)))


@cache
def _loop(
    texts: tuple[str, ...], threshold: float, refuse_at: RefuseAt, stem: bool, pool: tuple[str, ...]
) -> list[Decision]:
    scorer = SCORERS[stem]
    known = list(enumerate(pool))
    decisions = []
    for place, text in enumerate(texts, len(pool)):
        best, nearest = 0.0, None
        for key, other in known:
            score = float(scorer.score(other, text)["rougeL"].fmeasure)
            # A text without tokens is the same as itself alone.
            if text == other and not re.search("[a-z0-9]", text.lower()):
                score = 1.0
            if score > best:
                best, nearest = score, key
        kept = not (best > threshold or (refuse_at == "reaches" and best == threshold))
        if kept:
            known.append((place, text))
        decisions.append(Decision(kept, best, nearest))
    return decisions


def of_refused(decisions: Sequence[Decision]) -> list[Decision]:
    """The same as a filter tells them that seeks the nearest of refused texts only."""
    return [Decision(True, None, None) if one.kept else one for one in decisions]


def in_batches(
    novelty: NoveltyFilter, texts: Sequence[str], sizes: Sequence[int]
) -> list[Decision]:
    """Decisions on the texts, offered in batches of these sizes, again and again."""
    decisions: list[Decision] = []
    turn = 0
    while len(decisions) < len(texts):
        size = max(1, sizes[turn % len(sizes)])
        decisions += novelty.accept(texts[len(decisions) : len(decisions) + size])
        turn += 1
    return decisions


def zipf(count: int, seed: int, *, words: int = 400, longest: int = 20) -> list[str]:
    """Texts of Zipf-distributed words, every third an edited copy of an earlier one."""
    rng = random.Random(seed)
    names = [f"w{number}" for number in range(words)]
    weights = [1 / (1 + number) for number in range(words)]
    texts: list[str] = []
    for number in range(count):
        if number % 3 == 2:
            tokens = rng.choice(texts).split()
            for _ in range(rng.randint(0, len(tokens) // 3)):
                tokens[rng.randrange(len(tokens))] = rng.choice(names)
        else:
            tokens = rng.choices(names, weights, k=rng.randint(1, longest))
        texts.append(" ".join(tokens))
    return texts


def templates(count: int, seed: int) -> list[str]:
    """Texts that differ in a slot or two."""
    rng = random.Random(seed)
    frames = (
        "Write a short poem about the {} and the {}.",
        "Given a {}, name three {} that the reader may not know, and say why!",
        "What is the {} of a {}?",
    )
    slots = ["cat", "old river", "mayor of the town", "7th moon", "x", "very tall blue glass tower"]
    return [rng.choice(frames).format(rng.choice(slots), rng.choice(slots)) for _ in range(count)]
