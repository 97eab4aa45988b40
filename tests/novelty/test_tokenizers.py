"""Texts of every script: which tokens they have, and that each is compared by ones that read it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from refine_dagster.cli import app
from refine_dagster.errors import RefineError
from refine_dagster.language import Reading
from refine_dagster.novelty import Decision, NearestOf, NoveltyFilter
from refine_dagster.novelty.rouge import rouge_l, rouge_tokens
from refine_dagster.novelty.tokenizers import tokenizer_of, unicode_tokens, word_count

CASES = Path(__file__).parents[3] / "shared" / "cases"
# As the filter's tiers: the whole pool, the index, the compiled index.
TIERS: list[tuple[NearestOf, bool]] = [("all", False), ("refused", False), ("refused", True)]


def lcs(first: list[str], second: list[str]) -> int:
    row = [0] * (len(second) + 1)
    for token in first:
        before = 0
        for at, other in enumerate(second, 1):
            here = row[at]
            row[at] = before + 1 if token == other else max(row[at], row[at - 1])
            before = here
    return row[-1]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Die Straße, groß", ["die", "straße", "groß"]),
        ("列出 5 种水果。", ["列", "出", "5", "种", "水", "果"]),
        ("ＨＴＭＬ とは", ["html", "と", "は"]),
        ("नीचे दिए", ["नीचे", "दिए"]),
        ("اكتب جملة!", ["اكتب", "جملة"]),
        ("ไทย", ["ไ", "ท", "ย"]),
        ("e\u0301te\u0301", ["été"]),
        ("👩\u200d💻 ➡\ufe0f x", ["👩", "💻", "➡", "x"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("。？", []),
    ],
)
def test_every_script_is_read(text: str, tokens: list[str]) -> None:
    assert unicode_tokens(text) == tokens


@given(st.text(st.characters(max_codepoint=127)))
def test_on_ascii_the_tokenizers_agree(text: str) -> None:
    assert unicode_tokens(text) == rouge_tokens(text)
    assert tokenizer_of(text, "by_script") == "rouge_score"
    assert word_count(text) == len(text.split())


@pytest.mark.parametrize(("nearest_of", "compiled"), TIERS)
@given(st.lists(st.text("aé 列出水。🐶١x", max_size=9), max_size=9))
@settings(deadline=None)
def test_decisions_are_those_of_the_tokens(
    nearest_of: NearestOf, compiled: bool, texts: list[str]
) -> None:
    decided = NoveltyFilter(
        0.5, nearest_of=nearest_of, compiled=compiled, reading="unicode"
    ).accept(texts)
    pool: list[tuple[str, list[str]]] = []
    for text, decision in zip(texts, decided, strict=True):
        own = unicode_tokens(text)
        scores = [rouge_l(lcs(own, other), len(own), len(other)) for _, other in pool]
        copy = not own and any(text == other for other, _ in pool)
        best = max(scores, default=0.0)
        assert decision.kept == (best < 0.5 and not copy)
        if not decision.kept:
            assert decision.score == (1.0 if copy else pytest.approx(best, abs=1e-12))
        assert decision.tokenizer == "unicode"
        if decision.kept:
            pool.append((text, own))


@pytest.mark.parametrize("reading", ["rouge_score", "by_script", "unicode"])
@pytest.mark.parametrize(("nearest_of", "compiled"), TIERS)
def test_exact_copies_are_refused_in_any_script(
    nearest_of: NearestOf, compiled: bool, reading: Reading
) -> None:
    novelty = NoveltyFilter(nearest_of=nearest_of, compiled=compiled, reading=reading)
    novelty.preload(["列出三种水果。"], ["p"])
    texts = ["写一首诗。", "写一首诗。", "列出三种水果。", "？！", "？！", "new words", "new words"]
    decided = novelty.accept(texts, list("abcdefg"))
    assert [one.kept for one in decided] == [True, False, False, True, False, True, False]
    assert [one.nearest for one in decided if not one.kept] == ["a", "p", "d", "f"]
    assert len(novelty) == 4


def test_a_text_is_compared_by_what_reads_it() -> None:
    novelty = NoveltyFilter(reading="by_script")
    texts = ["Translate this word: 苹果", "Name a café in Köln.", "计算 5 加 7。", "写 5 行诗。"]
    decided = novelty.accept(texts)
    assert all(one.kept for one in decided)
    assert [one.tokenizer for one in decided] == ["unicode", "rouge_score", "unicode", "unicode"]
    latin = ["Find the résumé of the naïve man", "find the r sum of the na ve man"]
    assert NoveltyFilter(reading="by_script").accept(latin)[1] == Decision(False, 1.0, 0)


def test_stems_are_of_english_words_alone() -> None:
    with pytest.raises(RefineError, match="English words"):
        NoveltyFilter(use_stemmer=True, reading="unicode")
    stems = NoveltyFilter(0.9, use_stemmer=True, reading="by_script")
    assert [one.kept for one in stems.accept(["jumping 狗 foxes", "jumped 狗 fox"])] == [
        True,
        False,
    ]


@pytest.mark.skipif(not CASES.is_dir(), reason="../shared/cases is absent")
@pytest.mark.parametrize(
    ("name", "refused", "by_unicode"),
    [
        # Of two texts that share a number, neither is lost; of two equal ones, the second is.
        ("zh_share_only_ascii", {6: 1.0}, 9),
        # What they share: five of seven tokens, seven of eight; an operator is no token.
        ("english_with_foreign_words", {2: 5 / 7, 4: 1.0, 6: 7 / 8}, 4),
    ],
)
def test_cases_of_dedupe(
    tmp_path: Path, name: str, refused: dict[int, float], by_unicode: int
) -> None:
    file = tmp_path / "case.jsonl"
    file.write_bytes((CASES / f"{name}.jsonl").read_bytes())
    found = CliRunner().invoke(app, ["dedupe", str(file)])
    assert found.exit_code == 0, found.output
    assert f"{by_unicode} rows were compared by the tokenizer `unicode`" in found.output
    lines = (tmp_path / "case.decisions.jsonl").read_text(encoding="utf-8").splitlines()
    decisions = [json.loads(line) for line in lines]
    assert {one["row"]: one["score"] for one in decisions if not one["kept"]} == refused
    assert sum(one["tokenizer"] == "unicode" for one in decisions) == by_unicode
