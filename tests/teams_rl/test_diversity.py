"""Diversity figures have the values that their definitions give by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evolution_figures import rouge_l_to, unique_bigrams
from refine_dagster.evaluation.diversity import (
    HashedEmbedding,
    distinct_bigrams,
    vendi_of_kernel,
    vendi_score,
)


def test_vendi_of_equal_texts_is_one_and_of_orthogonal_ones_their_number() -> None:
    equal = np.tile([[0.6, 0.8, 0.0]], (7, 1))
    assert vendi_score(equal) == pytest.approx(1.0)
    assert vendi_score(np.eye(5)) == pytest.approx(5.0)
    assert vendi_score(np.zeros((0, 3))) == 0.0


def test_vendi_of_two_texts_is_the_entropy_of_their_two_eigenvalues() -> None:
    cosine = 0.5
    vectors = np.array([[1.0, 0.0], [cosine, math.sqrt(1 - cosine**2)]])
    shares = [(1 + cosine) / 2, (1 - cosine) / 2]
    expected = math.exp(-sum(share * math.log(share) for share in shares))
    assert vendi_score(vectors) == pytest.approx(expected)


def test_both_forms_of_the_kernel_agree() -> None:
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(40, 12))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert vendi_score(vectors) == pytest.approx(vendi_of_kernel(vectors @ vectors.T / 40))


def test_duplicates_do_not_raise_vendi() -> None:
    assert vendi_score(np.repeat(np.eye(4), 6, axis=0)) == pytest.approx(4.0)


def test_vectors_must_have_length_one() -> None:
    with pytest.raises(ValueError, match="length one"):
        vendi_score(np.full((2, 2), 3.0))


def test_unique_bigrams_count_pairs_within_a_text() -> None:
    assert unique_bigrams(["a b c", "A, b!", "c a"]) == 3  # a-b, b-c, c-a


def test_rouge_l_is_that_of_the_reference_package() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    for text, parent in (
        ("Name a red fruit", "Name a fruit"),
        ("one two", "three"),
        ("Sort the words, then count them.", "Sort the words."),
    ):
        expected = scorer.score(parent, text)["rougeL"].fmeasure
        assert rouge_l_to(text, parent) == expected


def test_embedding_is_a_function_of_words_and_of_length_one() -> None:
    embedding = HashedEmbedding(64)
    one, same, other, nothing = embedding.embed(["Name a Fruit!", "name a fruit", "Sort it.", "?"])
    assert np.array_equal(one, same)
    assert float(one @ one) == pytest.approx(1.0, abs=1e-6)
    assert float(one @ other) < 0.7
    assert not nothing.any()
    assert embedding.embed([]).shape == (0, 64)
    assert HashedEmbedding(64).embed(["Name a fruit"])[0].tobytes() == one.tobytes()


def test_likeness_follows_shared_words() -> None:
    embedding = HashedEmbedding()
    base, near, far = embedding.embed(
        ["Find the longest word.", "Find the longest word in the list.", "Describe a storm."]
    )
    assert float(base @ near) > 0.7 > 0.3 > float(base @ far)


def test_distinct_bigrams() -> None:
    assert distinct_bigrams(["a b c", "a b d"]) == 0.75
    assert distinct_bigrams(["a b"] * 4) == 0.25
    assert distinct_bigrams(["a", ""]) == 0.0
