"""How good a judge is, measured where right and wrong are known, and the judge as rows.

Accuracy on held-out corruptions (`judge_accuracies`) says whether training worked. `judge_quality`
measures what a user of the scores needs to know, on primer tasks that training never saw:

- *Does a better text get a higher score?* The area under the ROC curve (AUC) of each part, which
  needs no threshold and so fits the Bradley-Terry reward too. `auc` measures a part by its own
  meaning (naturalness: intact against damaged text; coherence: right answers against wrong ones of
  every sort). `auc_correctness` compares the right answer with a wrong one of the same kind: a part
  that only sees fluency or the kind of answer has 0.5 there.
- *Does 0.8 mean 0.8?* Reliability: predictions in bins against the share that was good, and the
  expected calibration error (ECE), their mean distance over examples.
- *Do the parts measure different things?* Spearman's rank correlation of each pair. The published
  judge's naturalness and understandability are nearly one number (`docs/methods.md`).

Each task gives its right answer and up to three bad texts: `wrong`, the right answer to another
task of the same family, so of the same kind, length and style; `foreign`, the right answer to a
task of another family; and `damaged`, the right answer corrupted by a rule. Only families with one
right answer are used. Intervals are percentile bootstraps over tasks. The offline judge's backbone
was trained on tasks of the same families, so the figures hold for the offline world only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from random import Random
from typing import Any, Literal

from refine_dagster.config.learning import JudgeConfig
from refine_dagster.judge.corruptions import (
    DIMENSIONS,
    KINDS,
    Corruption,
    Corruptor,
    normalised,
    with_output,
)
from refine_dagster.judge.judge import Judge
from refine_dagster.judge.on_policy_negatives import own_tasks
from refine_dagster.offline.primer import CLOSED_FAMILIES, primer_tasks
from refine_dagster.prompts.example import Example
from refine_dagster.seeding import request_seed
from refine_dagster.statistics import DECIMALS, CalibrationBin, auc_interval, calibration, spearman
from refine_dagster.warehouse.rows import Parent, Row, as_parent, make_row

# Kinds of corruption for `damaged` texts.
DAMAGE = ("shuffled_words", "dropped_words", "truncated", "misspelt", "repeated")
Sort = Literal["right", "wrong", "foreign", "damaged"]
TASKS = 400
# Primer tasks drawn to find so many that are of a closed family and not trained on.
DRAWN = 4 * TASKS


@dataclass(frozen=True)
class QualityMeasure:
    """A row of the table `feedback_judge_quality`: a figure of a part, over `examples` texts.

    `measure` is `auc` or `auc_correctness` (each with `_low` and `_high`, its 95 % interval), `ece`
    (of probabilities only), or `spearman_<part>` for each later part.
    """

    dimension: str
    measure: str
    examples: int
    value: float


@dataclass(frozen=True)
class JudgeQuality:
    measures: tuple[QualityMeasure, ...]
    calibration: tuple[CalibrationBin, ...]


@dataclass(frozen=True)
class QualityExample:
    """A text of known quality; the right answer has no `corruption`."""

    task: int
    sort: Sort
    example: Example
    corruption: Corruption | None

    def label(self, part: str) -> bool | None:
        """Whether the text is good by this part; None where that is unknown.

        A part that is no dimension of text should rank the right answer above all others.
        """
        if self.corruption is None:
            return True
        return next((self.corruption.label(name) for name in DIMENSIONS if name == part), False)


def judge_quality(
    judge: Judge, seeds: Sequence[Example], config: JudgeConfig, run_seed: str
) -> JudgeQuality:
    """Measure a judge on primer tasks that it was not trained on.

    `seeds`, config and run seed are those that it was trained (or, if published, tested) with.
    """
    primer = primer_tasks(config.primer_tasks, request_seed(run_seed, "judge", "primer"))
    known = [*seeds, *(task.example for task in primer), *own_tasks(config, run_seed)]
    return measure_judge(judge, quality_examples(known, run_seed), run_seed)


def quality_examples(known: Iterable[Example], run_seed: str) -> list[QualityExample]:
    """Right and bad texts of primer tasks whose instruction and input are not among `known`.

    A task lacks the bad texts that cannot be made of it.
    """
    excluded = {(example.instruction, example.input) for example in known}
    drawn = primer_tasks(DRAWN, request_seed(run_seed, "judge", "quality"))
    tasks = [
        task
        for task in drawn
        if task.family in CLOSED_FAMILIES
        and (task.example.instruction, task.example.input) not in excluded
    ][:TASKS]
    corruptor = Corruptor([task.example for task in tasks])
    examples: list[QualityExample] = []
    for number, task in enumerate(tasks):
        example = task.example
        random = Random(request_seed(run_seed, "quality", *astuple(example)))
        same = [other.example.output for other in tasks if other.family == task.family]
        others = [other.example.output for other in tasks if other.family != task.family]
        bad: list[tuple[Sort, Corruption | None]] = [
            ("wrong", _answered(example, same, random)),
            ("foreign", _answered(example, others, random)),
            ("damaged", corruptor.first(example, _shuffled(DAMAGE, random), f"{run_seed}/quality")),
        ]
        examples += task_examples(number, example, bad)
    return examples


def task_examples(
    number: int, right: Example, bad: Iterable[tuple[Sort, Corruption | None]]
) -> list[QualityExample]:
    """A task's right answer and those of its bad texts that could be made."""
    return [
        QualityExample(number, "right", right, None),
        *(
            QualityExample(number, sort, corruption.example, corruption)
            for sort, corruption in bad
            if corruption is not None
        ),
    ]


def measure_judge(judge: Judge, examples: Sequence[QualityExample], run_seed: str) -> JudgeQuality:
    """Score the examples and measure.

    There is no figure where there are not two classes, or a part does not vary.
    """
    scores = judge.score([example.example for example in examples])
    measures: list[QualityMeasure] = []
    bins: list[CalibrationBin] = []
    for number, part in enumerate(judge.parts):
        name = part.name
        seed = request_seed(run_seed, "quality", "bootstrap", name)
        values = [score[name] for score in scores]
        labels = [example.label(name) for example in examples]
        answers: list[bool | None] = [
            example.sort == "right" if example.sort in ("right", "wrong") else None
            for example in examples
        ]
        tasks = [example.task for example in examples]
        measures += _auc_measures(name, "auc", values, labels, tasks, seed)
        measures += _auc_measures(name, "auc_correctness", values, answers, tasks, seed)
        if part.probability:
            known = [at for at, label in enumerate(labels) if label is not None]
            reliability = calibration(
                name, [values[at] for at in known], [bool(labels[at]) for at in known]
            )
            bins += reliability.bins
            if reliability.bins:
                measures.append(QualityMeasure(name, "ece", len(known), reliability.error))
        for other in judge.parts[number + 1 :]:
            value = spearman(values, [score[other.name] for score in scores])
            if value is not None:
                measure = (f"spearman_{other.name}", len(values), round(value, DECIMALS))
                measures.append(QualityMeasure(name, *measure))
    return JudgeQuality(tuple(measures), tuple(bins))


def _answered(example: Example, answers: Sequence[str], random: Random) -> Corruption | None:
    """The example with another task's answer; None where all answers are its own."""
    own = normalised(example.output)
    others = sorted({answer for answer in answers if normalised(answer) != own})
    if not others:
        return None
    return Corruption("other_output", with_output(example, random.choice(others)))


def _shuffled(kinds: Sequence[str], random: Random) -> list[str]:
    order = list(kinds)
    random.shuffle(order)
    return order


def _auc_measures(
    part: str,
    measure: str,
    values: Sequence[float],
    labels: Sequence[bool | None],
    tasks: Sequence[int],
    seed: int,
) -> list[QualityMeasure]:
    """The AUC of the labelled texts, with the bounds of its interval."""
    known = [at for at, label in enumerate(labels) if label is not None]
    if len({labels[at] for at in known}) < 2:
        return []
    interval = auc_interval(
        [values[at] for at in known],
        [bool(labels[at]) for at in known],
        [tasks[at] for at in known],
        seed=seed,
    )
    return [
        QualityMeasure(part, f"{measure}{end}", len(known), round(value, DECIMALS))
        for end, value in zip(("", "_low", "_high"), interval, strict=True)
    ]


ALL = "all"
CHANCE = 0.5


@dataclass(frozen=True)
class JudgeAccuracy:
    """Held-out accuracy of a part on one kind of corruption that harms it, or on `all`.

    Balanced accuracy at a probability of one half. Where the part is no probability, the share of
    pairs whose good example has the higher score, a tie counting one half; then `examples` counts
    pairs. `chance` is what guessing would score.
    """

    dimension: str
    corruption: str
    examples: int
    accuracy: float
    chance: float


def judge_accuracies(
    judge: Judge, sources: Sequence[Example], run_seed: str
) -> tuple[list[JudgeAccuracy], int]:
    """Accuracies on the sources and one corruption of each kind of each, and how many examples."""
    ranked = [part.name for part in judge.parts if not part.probability]
    corruptor = Corruptor(sources)
    pairs = [(source, corruptor.corruptions(source, f"{run_seed}/held_out")) for source in sources]
    examples = [
        example
        for source, corruptions in pairs
        for example in (source, *(corruption.example for corruption in corruptions))
    ]
    scores = iter(judge.score(examples))
    # (part, kind, whether the example is good) -> 1 for right and 0 for wrong, an example each.
    right: dict[tuple[str, str, bool], list[float]] = defaultdict(list)
    for _, corruptions in pairs:
        good = next(scores)
        for dimension in DIMENSIONS:
            passed = float(good[dimension] > CHANCE)
            for kind in (ALL, *(name for name in KINDS if dimension in KINDS[name].harms)):
                right[dimension, kind, True].append(passed)
        for corruption in corruptions:
            worse = next(scores)
            for part in ranked:
                tie = good[part] == worse[part]
                order = 0.5 if tie else float(good[part] > worse[part])
                right[part, ALL, False].append(order)
                right[part, corruption.kind, False].append(order)
            for dimension in DIMENSIONS:
                label = corruption.label(dimension)
                if label is None:
                    continue
                correct = float((worse[dimension] > CHANCE) == label)
                right[dimension, ALL, label].append(correct)
                if not label:
                    right[dimension, corruption.kind, False].append(correct)
    return _accuracies([*DIMENSIONS, *ranked], right), len(examples)


def _accuracies(
    names: Sequence[str], right: dict[tuple[str, str, bool], list[float]]
) -> list[JudgeAccuracy]:
    accuracies = []
    for dimension in names:
        for kind in (ALL, *KINDS):
            harmed = right.get((dimension, kind, False), [])
            good = right.get((dimension, kind, True), [])
            if not harmed:
                continue
            shares = [sum(side) / len(side) for side in (harmed, good) if side]
            accuracy = round(sum(shares) / len(shares), DECIMALS)
            examples = len(harmed) + len(good)
            accuracies.append(JudgeAccuracy(dimension, kind, examples, accuracy, CHANCE))
    return accuracies


@dataclass(frozen=True)
class MeasuredJudge:
    accuracies: list[JudgeAccuracy]
    held_out_examples: int
    fingerprint: str


JUDGE, ACCURACY = "feedback_judge", "feedback_judge_accuracy"
QUALITY, CALIBRATION = "feedback_judge_quality", "feedback_judge_calibration"
# Measures that are figures of the judge's materialization.
SHOWN = ("auc", "auc_correctness", "ece")


def judge_tables(
    kind: str,
    measured: Mapping[str, Any],
    quality: JudgeQuality,
    made_from: Sequence[Parent],
    tested_on: Sequence[Parent] = (),
    checkpoint_hash: str | None = None,
) -> dict[str, list[Row]]:
    """The judge's tables, from the fields of `MeasuredJudge`.

    `tested_on` are the rows that a published judge's accuracies were measured on.
    """
    payload = {
        "kind": kind,
        "fingerprint": measured["fingerprint"],
        "checkpoint_hash": checkpoint_hash,
        "held_out_examples": measured["held_out_examples"],
    }
    row = make_row(JUDGE, payload, made_from)
    owner = as_parent(JUDGE, row, "judge")
    return {
        JUDGE: [row],
        ACCURACY: [
            make_row(ACCURACY, accuracy, [owner, *tested_on]) for accuracy in measured["accuracies"]
        ],
        QUALITY: [make_row(QUALITY, asdict(measure), [owner]) for measure in quality.measures],
        CALIBRATION: [make_row(CALIBRATION, asdict(bin), [owner]) for bin in quality.calibration],
    }


def judge_figures(tables: Mapping[str, Sequence[Row]]) -> dict[str, float]:
    accuracies = {
        f"accuracy_{row['dimension']}": row["accuracy"]
        for row in tables[ACCURACY]
        if row["corruption"] == ALL
    }
    measures = {
        f"{row['measure']}_{row['dimension']}": row["value"]
        for row in tables[QUALITY]
        if row["measure"] in SHOWN
    }
    return accuracies | measures
