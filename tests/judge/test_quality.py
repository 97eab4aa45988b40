"""The judge's quality: figures worked out by hand, and examples that are what they claim to be."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, fields
from random import Random

import pytest

from assets.feedback import auc_table, calibration_plot
from refine_dagster.config.learning import JudgeConfig
from refine_dagster.judge.corruptions import DIMENSIONS
from refine_dagster.judge.judge import PARTS, Part, Scores
from refine_dagster.judge.on_policy_negatives import own_tasks
from refine_dagster.judge.quality import (
    TASKS,
    JudgeQuality,
    QualityExample,
    QualityMeasure,
    judge_quality,
    measure_judge,
    quality_examples,
)
from refine_dagster.offline.primer import ALL_FAMILIES, CLOSED_FAMILIES, primer_tasks
from refine_dagster.prompts.example import Example
from refine_dagster.statistics import CalibrationBin
from refine_dagster.warehouse.tables import TABLES
from tests.builders.fake_judge import PART_NAMES, scores_of


class _KnowingJudge:
    """Knows every example; coherence sees what is right, naturalness only what is damaged."""

    fingerprint = "knowing"
    parts: tuple[Part, ...] = PARTS

    def __init__(self, examples: Sequence[QualityExample]) -> None:
        self._sorts = {example.example: example.sort for example in examples}
        self.asked: list[Example] = []

    def score(self, examples: Sequence[Example]) -> list[Scores]:
        self.asked += examples
        return [self._one(self._sorts[example]) for example in examples]

    @staticmethod
    def _one(sort: str) -> Scores:
        whole = 0.2 if sort == "damaged" else 0.9
        right = {"right": 3.0, "wrong": 2.0, "foreign": 1.0, "damaged": 0.0}[sort]
        return scores_of(whole, 1.0 if sort == "right" else 0.0, 0.5, right)


@pytest.fixture(scope="module")
def examples() -> list[QualityExample]:
    return quality_examples([], "salt")


@pytest.fixture(scope="module")
def known(examples: list[QualityExample]) -> JudgeQuality:
    return measure_judge(_KnowingJudge(examples), examples, "salt")


def _figure(quality: JudgeQuality, dimension: str, measure: str) -> QualityMeasure:
    (found,) = [
        one for one in quality.measures if (one.dimension, one.measure) == (dimension, measure)
    ]
    return found


def test_closed_families_have_one_right_answer() -> None:
    answers: dict[tuple[str, str], set[str]] = defaultdict(set)
    for task in primer_tasks(8000, 11):
        if task.family in CLOSED_FAMILIES:
            answers[task.example.instruction, task.example.input].add(task.example.output)
    assert len(answers) > 2000
    assert [key for key, found in answers.items() if len(found) > 1] == []
    assert set(ALL_FAMILIES) > CLOSED_FAMILIES


def test_examples_are_what_they_claim_to_be(examples: list[QualityExample]) -> None:
    sorts = Counter(example.sort for example in examples)
    assert sorts["right"] == TASKS
    assert min(sorts["wrong"], sorts["foreign"]) > 0.95 * TASKS
    assert sorts["damaged"] > TASKS / 2
    right = {example.task: example.example for example in examples if example.sort == "right"}
    outputs = {example.output for example in right.values()}
    for example in examples:
        own = right[example.task]
        assert (example.example == own) == (example.sort == "right")
        if example.sort in ("wrong", "foreign"):
            assert (example.example.instruction, example.example.input) == (
                own.instruction,
                own.input,
            )
            assert example.example.output in outputs - {own.output}
            assert example.label("coherence") is False
            assert example.label("naturalness") is example.label("understandability") is True
        if example.sort == "damaged":
            assert example.label("naturalness") is False
        assert example.label("reward_model") == (example.sort == "right")


def test_no_known_task_is_measured_on(examples: list[QualityExample]) -> None:
    first = [example.example for example in examples if example.sort == "right"][:100]
    other_answers = [Example(one.instruction, one.input, "another") for one in first]
    fresh = quality_examples(other_answers, "salt")
    met = {(one.instruction, one.input) for one in first}
    assert not met & {(one.example.instruction, one.example.input) for one in fresh}
    assert quality_examples([], "salt") == examples
    assert quality_examples([], "pepper") != examples


def test_seeds_and_the_judges_primer_are_kept_out(examples: list[QualityExample]) -> None:
    class Remembering:
        fingerprint = "remembering"
        parts: tuple[Part, ...] = PARTS

        def __init__(self) -> None:
            self.asked: set[tuple[str, str]] = set()

        def score(self, examples: Sequence[Example]) -> list[Scores]:
            self.asked |= {(one.instruction, one.input) for one in examples}
            random = Random(5)
            return [scores_of(*(random.random() for _ in PARTS)) for _ in examples]

    judge = Remembering()
    seeds = [example.example for example in examples if example.sort == "right"][:50]
    config = JudgeConfig(primer_tasks=300)
    quality = judge_quality(judge, seeds, config, "salt")
    assert not judge.asked & {(one.instruction, one.input) for one in seeds}
    assert not judge.asked & {(one.instruction, one.input) for one in own_tasks(config, "salt")}
    # Chance: one half within its interval.
    for part in PART_NAMES:
        low, high = (_figure(quality, part, f"auc_{end}").value for end in ("low", "high"))
        assert low < 0.5 < high or abs(_figure(quality, part, "auc").value - 0.5) < 0.05


def test_a_judge_that_knows_is_told_from_one_that_sees_fluency_alone(known: JudgeQuality) -> None:
    assert _figure(known, "coherence", "auc").value == 1.0
    assert _figure(known, "coherence", "auc_correctness").value == 1.0
    assert _figure(known, "coherence", "ece").value == 0.0
    assert _figure(known, "naturalness", "auc").value == 1.0
    assert _figure(known, "naturalness", "auc_correctness").value == 0.5
    assert _figure(known, "reward_model", "auc_low").value == 1.0
    # 0.9 for what is whole, 0.2 for what is not: a mean distance of 0.15.
    assert _figure(known, "naturalness", "ece").value == pytest.approx(0.15)
    assert 0 < _figure(known, "coherence", "spearman_reward_model").value < 1
    measures = {one.measure for one in known.measures}
    assert "spearman_understandability" not in measures  # it never varies
    assert [one.bin for one in known.calibration if one.dimension == "naturalness"] == [2, 9]


def test_without_two_classes_there_is_no_figure(examples: list[QualityExample]) -> None:
    right = [example for example in examples if example.sort == "right"]
    quality = measure_judge(_KnowingJudge(right), right, "salt")
    assert quality == JudgeQuality((), ())


def test_figures_are_shown(known: JudgeQuality) -> None:
    table = auc_table([asdict(one) for one in known.measures])
    assert r"| coherence | 1.000 \[1.000, 1.000\] | 1.000 \[1.000, 1.000\] | 0 |" in table
    assert all(f"| {part} |" in table for part in PART_NAMES)
    bins = [asdict(one) for one in known.calibration]
    assert calibration_plot(bins).startswith("![calibration](data:image/png;base64,")
    assert calibration_plot(bins) == calibration_plot(bins)
    assert calibration_plot([]) == "*no bins*"


def test_rows_have_the_columns_of_their_tables() -> None:
    for row, table in (
        (QualityMeasure, "feedback_judge_quality"),
        (CalibrationBin, "feedback_judge_calibration"),
    ):
        assert [field.name for field in fields(row)] == list(TABLES[table].columns)
    assert (*DIMENSIONS, "reward_model") == PART_NAMES
