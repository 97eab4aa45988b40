"""The filter's manners: keys, preloading, growth, what it imports."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

from refine_dagster.errors import RefineError
from refine_dagster.novelty import Decision, NearestOf, NoveltyFilter
from tests.novelty.reference import in_batches, of_refused, reference, zipf

COMPILED = [False, True]


@pytest.mark.parametrize("nearest_of", ["refused", "all"])
def test_the_nearest_is_the_best_then_the_lowest_key(nearest_of: NearestOf) -> None:
    novelty = NoveltyFilter(nearest_of=nearest_of)
    novelty.preload(["one two three", "one two three", "one two three four"], keys=["z", "b", "c"])
    assert novelty.accept(["one two three"], ["t"]) == [Decision(False, 1.0, "b")]
    unknown = 0.0 if nearest_of == "all" else None
    assert novelty.accept(["nothing in common"], ["u"]) == [Decision(True, unknown, None)]
    assert len(novelty) == 4


@pytest.mark.parametrize("compiled", COMPILED)
def test_positions_count_everything_that_was_given(compiled: bool) -> None:
    novelty = NoveltyFilter(compiled=compiled)
    novelty.preload(["a b c", "d e f"])
    assert [one.kept for one in novelty.accept(["a b c", "g h i"])] == [False, True]
    assert novelty.accept(["g h i", "d e f"]) == [Decision(False, 1.0, 3), Decision(False, 1.0, 1)]


@pytest.mark.parametrize("compiled", COMPILED)
def test_the_best_match_may_be_in_the_pool_or_in_the_batch(compiled: bool) -> None:
    pool = ["a b c d e f g h i j"]
    texts = ["a b c d e f x y z j", "a b c d e f x y i j", "q r s", "q r s"]
    novelty = NoveltyFilter(0.8, "reaches", compiled=compiled)
    novelty.preload(pool)
    expected = of_refused(reference(texts, 0.8, pool=pool))
    assert expected[1] == Decision(False, 0.9, 1)
    assert novelty.accept(texts) == expected


@pytest.mark.parametrize("compiled", COMPILED)
def test_a_pool_that_grows_past_several_renewals(compiled: bool) -> None:
    """The index is ordered and laid out anew several times, with words it had not seen before."""
    rng = random.Random(6)
    texts = zipf(3000, 7, words=3000)
    texts += [f"fresh{rng.randrange(10**6)} {text}" for text in rng.sample(texts, 1500)]
    whole = of_refused(NoveltyFilter(nearest_of="all").accept(texts))
    for sizes in ((4500,), (17, 1, 200)):
        assert in_batches(NoveltyFilter(compiled=compiled), texts, sizes) == whole
    preloaded = NoveltyFilter(compiled=compiled)
    preloaded.preload([text for text, one in zip(texts, whole, strict=True) if one.kept])
    again = preloaded.accept(texts[-500:])
    assert not any(one.kept for one in again)


@pytest.mark.parametrize("compiled", COMPILED)
def test_more_words_than_fit_below_the_surrogates(compiled: bool) -> None:
    rng = random.Random(3)
    names = [f"w{number}" for number in range(60_000)]
    pool = [" ".join(names[start : start + 500]) for start in range(0, 60_000, 500)]
    near = names[55_000:55_500]
    near[10:20] = rng.choices(names, k=10)
    novelty = NoveltyFilter(compiled=compiled)
    novelty.preload(pool)
    decision = novelty.accept([" ".join(near)])[0]
    assert decision == of_refused(reference([" ".join(near)], pool=[pool[110]]))[0]._replace(
        nearest=110
    )


def test_more_words_than_there_are_code_points() -> None:
    words = 1_120_000
    text = [f"{number:x}" for number in range(words)]
    novelty = NoveltyFilter()
    novelty.preload([" ".join(text[start : start + 1000]) for start in range(0, words, 1000)])
    low, high = text[:6], text[-4:]
    novelty.preload([" ".join(low + high), " ".join(high)])
    last = len(novelty) - 1
    assert novelty.accept([" ".join([*low, "x", *high[:2]]), " ".join(high)]) == [
        Decision(
            False, reference(["a b c d e f x g h"], pool=["a b c d e f g h i j"])[0].score, last - 1
        ),
        Decision(False, 1.0, last),
    ]


@pytest.mark.parametrize("threshold", [0, -0.1, 1.01, float("nan")])
def test_a_threshold_out_of_range(threshold: float) -> None:
    with pytest.raises(RefineError, match="novelty threshold"):
        NoveltyFilter(threshold)


def test_without_numba_the_compiled_tier_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refine_dagster.novelty.filter.find_spec", lambda name: None)
    with pytest.raises(RefineError, match=r"refine-dagster\[fast\]"):
        NoveltyFilter(compiled=True)


def test_keys_must_be_as_many_as_texts() -> None:
    with pytest.raises(ValueError, match="1 keys for 2 texts"):
        NoveltyFilter().accept(["a", "b"], ["one"])


def test_it_imports_nothing_heavy() -> None:
    code = (
        "import sys; from refine_dagster.novelty import NoveltyFilter;"
        "NoveltyFilter().accept(['a b c', 'a b c']);"
        "heavy = {'torch', 'dagster', 'duckdb', 'polars', 'transformers', 'nltk', 'numba'};"
        "print(', '.join(heavy & set(sys.modules)), end='')"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
