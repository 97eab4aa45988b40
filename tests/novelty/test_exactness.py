"""Every tier of the filter decides as the loop through `rouge_score` does, float for float."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refine_dagster.novelty import Decision, NearestOf, NoveltyFilter, RefuseAt
from tests.novelty.reference import (
    HAS_DATA,
    in_batches,
    of_refused,
    real_instructions,
    reference,
    templates,
    zipf,
)


@dataclass(frozen=True)
class Tier:
    """One way in which the filter decides."""

    nearest_of: NearestOf
    compiled: bool = False

    def decide(
        self,
        texts: list[str],
        threshold: float = 0.7,
        refuse_at: RefuseAt = "reaches",
        stem: bool = False,
        sizes: tuple[int, ...] = (10_000,),
    ) -> list[Decision]:
        novelty = NoveltyFilter(threshold, refuse_at, stem, self.nearest_of, self.compiled)
        return in_batches(novelty, texts, sizes)

    def told(self, decisions: list[Decision]) -> list[Decision]:
        """The loop's decisions as this tier tells them."""
        return decisions if self.nearest_of == "all" else of_refused(decisions)


TIERS = [
    pytest.param(Tier("refused"), id="join"),
    pytest.param(Tier("all"), id="whole"),
    pytest.param(Tier("refused", compiled=True), id="compiled"),
]
BOTH: tuple[RefuseAt, RefuseAt] = ("reaches", "exceeds")
THRESHOLDS = (0.5, 0.6, 2 / 3, 0.7, 0.75, 0.8, 0.9)


def tie_pairs(numerator: int, denominator: int) -> list[tuple[str, str]]:
    """All pairs of lengths up to 60 whose F is the fraction, true ties, in both orders."""
    pairs = []
    for m in range(1, 61):
        for n in range(1, 61):
            common, rest = divmod(numerator * (m + n), 2 * denominator)
            if rest or common > min(m, n):
                continue
            tag = f"{m}x{n}x"
            shared = [f"{tag}s{i}" for i in range(common)]
            one = shared + [f"{tag}a{i}" for i in range(m - common)]
            other = shared + [f"{tag}b{i}" for i in range(n - common)]
            pairs.append((" ".join(one), " ".join(other)))
    return pairs


@pytest.mark.parametrize("tier", TIERS)
def test_true_ties_up_to_60_tokens(tier: Tier) -> None:
    """Texts of different pairs share nothing, so that all ties go in one stream."""
    decided: set[bool] = set()
    fractions = ((1, 2), (3, 5), (7, 10), (3, 4), (4, 5), (9, 10))
    for numerator, denominator in fractions:
        pairs = tie_pairs(numerator, denominator)
        texts = [text for pair in pairs for text in pair]
        threshold = numerator / denominator
        alone = [reference(list(pair), threshold)[1].score for pair in pairs]
        for refuse_at in BOTH:
            decisions = tier.decide(texts, threshold, refuse_at)
            for place, score in enumerate(alone):
                first, second = decisions[2 * place : 2 * place + 2]
                assert score is not None
                refused = score > threshold or (refuse_at == "reaches" and score == threshold)
                assert first.kept
                assert second.kept == (not refused)
                if refused:
                    assert (second.score, second.nearest) == (score, 2 * place)
                decided.add(refused)
        if (numerator, denominator) == (7, 10):
            assert len(pairs) == 86
            assert len(set(alone)) == 4
    assert decided == {True, False}


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("stem", [False, True])
@pytest.mark.parametrize("refuse_at", BOTH)
def test_streams(tier: Tier, stem: bool, refuse_at: RefuseAt) -> None:
    streams = {
        "zipf": zipf(110, 1),
        "tiny vocabulary": zipf(110, 2, words=4, longest=9),
        "templates": templates(90, 3),
        "stems": ["running runs quickly", "run ran quick", "Runs, quickly: RUNNING", "the flies"],
    }
    seen: set[bool] = set()
    for threshold in (0.5, 0.7, 0.9):
        for name, texts in streams.items():
            expected = tier.told(reference(texts, threshold, refuse_at, stem))
            assert tier.decide(texts, threshold, refuse_at, stem, (1, 7, 40)) == expected, name
            seen |= {one.kept for one in expected}
    assert seen == {True, False}


@pytest.mark.parametrize("tier", TIERS)
def test_long_texts(tier: Tier) -> None:
    """More than 128 tokens: several words of bits, repeated tokens, and copies with edits."""
    rng = random.Random(4)
    texts = zipf(9, 5, words=90, longest=250)
    for _ in range(6):
        tokens = rng.choices(
            [f"v{i}" for i in range(60)], k=rng.choice([63, 64, 65, 129, 192, 260])
        )
        texts.append(" ".join(tokens))
        for _ in range(rng.randint(1, len(tokens) // 2)):
            tokens[rng.randrange(len(tokens))] = "other"
        texts.append(" ".join(tokens))
    for threshold in (0.5, 0.7, 0.9):
        expected = tier.told(reference(texts, threshold))
        assert tier.decide(texts, threshold, sizes=(5, 3)) == expected
    assert max(len(text.split()) for text in texts) > 128


@pytest.mark.parametrize("tier", TIERS)
def test_unicode_and_emptiness(tier: Tier) -> None:
    texts = [
        "",
        " \n\t",
        "日本語の文",
        "Größe der Straße",
        "GRÖSSE DER STRASSE",
        "300 \u212a und mehr",  # the Kelvin sign is lower-cased to k
        "300 k und mehr",
        "\u0130stanbul at night",  # lower-cased to i and a combining dot
        "i stanbul at night",
        "a\u00a0b\u2003c d",
        "A B C D",
        "broken \ud800 surrogate here",
        "broken surrogate here",
        "nul\x00led words",
        "nul led words",
        "Α A B C D Σ",
        "same A same A",
        "١٢٣ 123 four",
        "123 four",
        "",
    ]
    for threshold in (0.5, 0.7, 1.0):
        for sizes in ((1,), (3,), (100,)):
            expected = tier.told(reference(texts, threshold))
            assert tier.decide(texts, threshold, sizes=sizes) == expected
    assert tier.decide([]) == []


words = st.sampled_from(["a", "b", "c", "D", "é", "1", "-", "walking", "walked", "walks"])
texts_of_few_words = st.lists(st.lists(words, max_size=9).map(" ".join), max_size=12)


@pytest.mark.parametrize("tier", TIERS)
@given(
    texts_of_few_words,
    st.sampled_from(THRESHOLDS),
    st.sampled_from(BOTH),
    st.booleans(),
    st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple),
)
@settings(max_examples=60, deadline=None)
def test_few_words(
    tier: Tier,
    texts: list[str],
    threshold: float,
    refuse_at: RefuseAt,
    stem: bool,
    sizes: tuple[int, ...],
) -> None:
    expected = tier.told(reference(texts, threshold, refuse_at, stem))
    assert tier.decide(texts, threshold, refuse_at, stem, sizes) == expected


@pytest.mark.parametrize("tier", TIERS)
@given(
    st.lists(st.text(max_size=30), max_size=8),
    st.sampled_from(THRESHOLDS),
    st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple),
)
@settings(max_examples=60, deadline=None)
def test_any_text(tier: Tier, texts: list[str], threshold: float, sizes: tuple[int, ...]) -> None:
    doubled = [*texts, *(text.upper() for text in texts)]
    assert tier.decide(doubled, threshold, sizes=sizes) == tier.told(reference(doubled, threshold))


@pytest.mark.skipif(not HAS_DATA, reason="../shared/data is not here")
@pytest.mark.parametrize("tier", TIERS)
def test_the_first_real_instructions_against_the_loop(tier: Tier) -> None:
    texts = real_instructions()
    texts = texts[:60] + texts[175:235]
    for refuse_at in BOTH:
        expected = tier.told(reference(texts, 0.5, refuse_at))
        assert tier.decide(texts, 0.5, refuse_at, sizes=(40,)) == expected


@cache
def compared_in_full(threshold: float, refuse_at: RefuseAt, stem: bool) -> list[Decision]:
    return Tier("all").decide(real_instructions(), threshold, refuse_at, stem)


@pytest.mark.skipif(not HAS_DATA, reason="../shared/data is not here")
@pytest.mark.parametrize("tier", [tier for tier in TIERS if tier.id != "whole"])
def test_all_real_instructions_against_the_whole_pool(tier: Tier) -> None:
    """The tier that compares everything with everything stands in for the loop's ten minutes."""
    texts = real_instructions()
    assert len(texts) == 5175
    for threshold, refuse_at, stem in (
        (0.5, "reaches", False),
        (0.7, "reaches", False),
        (0.7, "exceeds", False),
        (0.7, "reaches", True),
        (0.9, "exceeds", True),
    ):
        at: RefuseAt = "reaches" if refuse_at == "reaches" else "exceeds"
        expected = of_refused(compared_in_full(threshold, at, stem))
        assert tier.decide(texts, threshold, at, stem) == expected
        assert tier.decide(texts, threshold, at, stem, (40, 7, 1000)) == expected
