"""The filter's scores and decisions are those of rouge_score, ties at the threshold included."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from refine_dagster.self_instruct.novelty import NoveltyFilter, RefuseAt

SCORER = RougeScorer(["rougeL"], use_stemmer=False)
DATA = Path(__file__).parents[3] / "shared" / "data" / "self_instruct_generated_5k.jsonl"


def reference(
    texts: list[str], threshold: float, refuse_at: RefuseAt, pool: list[str]
) -> list[tuple[bool, float]]:
    pool = list(pool)
    decisions = []
    for text in texts:
        scores = [SCORER.score(other, text)["rougeL"].fmeasure for other in pool]
        best = max(scores, default=0.0)
        kept = not (best > threshold or (refuse_at == "reaches" and best == threshold))
        if kept:
            pool.append(text)
        decisions.append((kept, float(best)))
    return decisions


def ours(
    texts: list[str], threshold: float, refuse_at: RefuseAt, pool: list[str]
) -> list[tuple[bool, float]]:
    novelty = NoveltyFilter(threshold, refuse_at)
    novelty.preload([(f"pool{place}", text) for place, text in enumerate(pool)])
    decisions = novelty.accept([(f"text{place}", text) for place, text in enumerate(texts)])
    return [(one.kept, one.score) for one in decisions]


@pytest.mark.parametrize("refuse_at", ["reaches", "exceeds"])
def test_all_true_ties_up_to_60_tokens(refuse_at: RefuseAt) -> None:
    checked = 0
    for m in range(1, 61):
        for n in range(1, 61):
            if 7 * (m + n) % 20 or 7 * (m + n) // 20 > min(m, n):
                continue
            common = 7 * (m + n) // 20
            shared = [f"s{i}" for i in range(common)]
            one = " ".join(shared + [f"a{i}" for i in range(m - common)])
            other = " ".join(shared + [f"b{i}" for i in range(n - common)])
            checked += 1
            assert ours([other], 0.7, refuse_at, [one]) == reference([other], 0.7, refuse_at, [one])
    assert checked == 86


@given(
    st.lists(
        st.lists(st.sampled_from(["a", "b", "c", "D", "é", "1", "-"]), max_size=8).map(" ".join),
        max_size=8,
    ),
    st.sampled_from([0.5, 0.6, 2 / 3, 0.7, 0.8, 0.9]),
    st.sampled_from(["reaches", "exceeds"]),
)
def test_equal_to_rouge_score_on_tiny_vocabularies(
    texts: list[str], threshold: float, refuse_at: RefuseAt
) -> None:
    assert ours(texts, threshold, refuse_at, []) == reference(texts, threshold, refuse_at, [])


def test_long_texts_and_more_words_than_fit_below_the_surrogates() -> None:
    rng = random.Random(3)
    words = [f"w{i}" for i in range(60_000)]
    pool = [" ".join(words[start : start + 500]) for start in range(0, 60_000, 500)]
    texts = [" ".join(rng.choices(words, k=150)) for _ in range(3)]
    near = texts[0].split()
    near[10:20] = rng.choices(words, k=10)
    last = [*words[59_980:], "w59999", "unseen"]
    texts += [" ".join(near), " ".join(last), " ".join(words[55_280:55_310])]
    assert ours(texts, 0.7, "reaches", pool[-2:]) == reference(texts, 0.7, "reaches", pool[-2:])
    novelty = NoveltyFilter()
    novelty.preload([(str(place), text) for place, text in enumerate(pool)])
    decisions = novelty.accept([("near", " ".join([*words[55_300:55_500], *words[:100]]))])
    assert decisions[0].nearest == str(55_000 // 500)
    assert decisions[0].score == pytest.approx(2 * 200 / (500 + 300))


@pytest.mark.skipif(not DATA.is_file(), reason="../shared/data is not here")
def test_equal_to_rouge_score_on_real_instructions() -> None:
    lines = DATA.read_text(encoding="utf-8").splitlines()[:200]
    texts = [json.loads(line)["instruction"] for line in lines]
    assert ours(texts, 0.7, "reaches", []) == reference(texts, 0.7, "reaches", [])


def test_the_nearest_is_the_best_then_the_lowest_id() -> None:
    novelty = NoveltyFilter()
    novelty.preload([("z", "one two three"), ("b", "one two three"), ("c", "one two three four")])
    assert novelty.accept([("t", "one two three")])[0].nearest == "b"
    alone = novelty.accept([("u", "nothing in common")])[0]
    assert (alone.kept, alone.score, alone.nearest) == (True, 0.0, None)


def test_batches_do_not_matter() -> None:
    rng = random.Random(5)
    texts = [(f"t{i}", " ".join(rng.choices("abcdefgh", k=6))) for i in range(120)]
    whole = NoveltyFilter().accept(texts)
    split = NoveltyFilter()
    assert [
        d for start in range(0, 120, 7) for d in split.accept(texts[start : start + 7])
    ] == whole
