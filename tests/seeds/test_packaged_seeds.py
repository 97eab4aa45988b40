"""The packaged seeds are as many, as varied, as well formed and as much our own as is said."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest
from rouge_score.rouge_scorer import RougeScorer

from refine_dagster.seeds.readers import check_seeds, read_seeds
from refine_dagster.seeds.task import SeedTask

SHARED = Path(__file__).parents[3] / "shared" / "data" / "self_instruct_seed_tasks.jsonl"
PACKAGED = Path(__file__).parents[2] / "refine_dagster" / "seeds" / "packaged.jsonl"
# Words for which stage 1 rejects a candidate (docs/methods.md, section 3.2).
REJECTED = re.compile(
    r"\b(images?|graphs?|pictures?|files?|maps?|draw|plot|go to)\b", re.IGNORECASE
)


@pytest.fixture(scope="module")
def seeds() -> list[SeedTask]:
    return read_seeds("packaged").seeds


SCORER = RougeScorer(["rougeL"], use_stemmer=False)


def rouge_l(one: str, other: str) -> float:
    """ROUGE-L F of two instructions, without stemming, as the novelty rule takes it."""
    return float(SCORER.score(one, other)["rougeL"].fmeasure)


def test_there_are_enough_and_none_has_a_finding(seeds: list[SeedTask]) -> None:
    assert len(seeds) >= 160
    assert check_seeds("packaged") == []
    assert [seed.seed_id for seed in seeds] == [f"seed_{n:03d}" for n in range(1, len(seeds) + 1)]
    assert len({seed.name for seed in seeds}) == len(seeds)


def test_a_quarter_classifies_and_a_third_needs_no_input(seeds: list[SeedTask]) -> None:
    classification = sum(seed.is_classification for seed in seeds) / len(seeds)
    without_input = sum(not seed.example.input for seed in seeds) / len(seeds)
    assert 0.20 <= classification <= 0.30
    assert 0.28 <= without_input <= 0.38
    assert sum(len(seed.instances) > 1 for seed in seeds) >= 10


def test_no_two_instructions_are_alike(seeds: list[SeedTask]) -> None:
    pairs = combinations([seed.instruction for seed in seeds], 2)
    score, one, other = max((rouge_l(one, other), one, other) for one, other in pairs)
    assert score < 0.7, (one, other)


def test_instructions_open_in_many_ways(seeds: list[SeedTask]) -> None:
    openings = Counter(seed.instruction.split()[0] for seed in seeds)
    assert len(openings) >= 60
    assert openings.most_common(1)[0][1] <= 0.1 * len(seeds)
    questions = sum(seed.instruction.endswith("?") for seed in seeds) / len(seeds)
    assert 0.25 <= questions <= 0.6


def test_texts_are_short_and_pass_the_rules_that_candidates_must_pass(
    seeds: list[SeedTask],
) -> None:
    for seed in seeds:
        assert 4 <= len(seed.instruction.split()) <= 16, seed
        assert seed.instruction[0].isascii(), seed
        assert seed.instruction[0].isalnum(), seed
        assert seed.instruction[-1] in ".?!", seed
        assert not REJECTED.search(seed.instruction), seed
        for instance in seed.instances:
            assert len(instance.input.split()) <= 14, seed
            assert 1 <= len(instance.output.split()) <= 18, seed
            assert instance.input != instance.output, seed
            assert not instance.input.endswith(":"), seed
            assert not instance.output.endswith(":"), seed
        inputs = [instance.input for instance in seed.instances]
        assert len(set(inputs)) == len(inputs), seed


def test_the_file_is_in_self_instructs_schema() -> None:
    for line in PACKAGED.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        assert set(record) == {"id", "name", "instruction", "instances", "is_classification"}
        for instance in record["instances"]:
            assert set(instance) == {"input", "output"}


def by_name(seeds: list[SeedTask], name: str) -> SeedTask:
    return next(seed for seed in seeds if seed.name == name)


def test_answers_that_can_be_computed_are_right(seeds: list[SeedTask]) -> None:
    def check(name: str, answer: object) -> None:
        assert by_name(seeds, name).example.output == str(answer)

    def given(name: str) -> str:
        return by_name(seeds, name).example.input

    check("reverse_words", " ".join(given("reverse_words").split()[::-1]))
    check("sort_words", " ".join(sorted(given("sort_words").split())))
    check("longest_word", max(given("longest_word").split(", "), key=len))
    check("shortest_word", min(given("shortest_word").split(", "), key=len))
    check("count_words", len(given("count_words").split()))
    check("count_letters", len(given("count_letters")))
    check("dictionary_first", min(given("dictionary_first").split(", ")))
    check("first_letters", "".join(word[0] for word in given("first_letters").split()))
    check("largest_number", max(map(int, given("largest_number").split(", "))))
    check("smallest_number", min(map(int, given("smallest_number").split(", "))))
    check("sum_list", sum(map(int, given("sum_list").split(", "))))
    check("count_items", len(given("count_items").split(", ")))
    check("sort_up", ", ".join(map(str, sorted(map(int, given("sort_up").split(", "))))))
    check("remove_duplicates", ", ".join(dict.fromkeys(given("remove_duplicates").split(", "))))
    check("count_in_line", given("count_in_line").split(", ").count("red"))
    check("double_it", 2 * int(given("double_it")))
    check("half_of_it", int(given("half_of_it")) // 2)
    check("times_ten", 10 * int(given("times_ten")))


@pytest.mark.skipif(not SHARED.is_file(), reason="../shared/data is absent")
def test_none_is_taken_from_self_instruct(seeds: list[SeedTask]) -> None:
    theirs = [seed.instruction for seed in read_seeds(str(SHARED)).seeds]
    pairs = ((seed.instruction, other) for seed in seeds for other in theirs)
    score, one, other = max((rouge_l(one, other), one, other) for one, other in pairs)
    assert score < 0.7, (one, other)
