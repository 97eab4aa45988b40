"""How good the judge is, measured where right and wrong are known.

Everything after the judge believes it, so its errors become the policy's aims. Accuracy on the
corruptions that it learnt from (`judge_accuracy.py`) says whether training worked. This module asks
what a user of the scores needs to know, on primer tasks that training never saw:

- *Does a better text get a higher score?* The area under the ROC curve (AUC) of each part: the
  chance that it puts a good text above a bad one. It needs no threshold, so it also fits the
  Bradley-Terry reward. `auc` takes each part at its own word (naturalness: whole against damaged
  text; coherence: right answers against wrong ones of every sort). `auc_correctness` asks all
  parts the hard question: the right answer against a wrong one of the very same kind. A part that
  only sees fluency or the kind of answer has 0.5 there, and what a reward cannot see, it cannot
  teach.
- *Does 0.8 mean 0.8?* Reliability: predictions in bins against the share that was good, and the
  expected calibration error (ECE), the mean distance of the two over examples.
- *How many opinions are four parts?* Spearman's rank correlation of each pair. The published
  judge's naturalness and understandability are nearly one number (methods A).

Each task gives its right answer and up to three bad texts: `wrong`, the right answer to another
task of the same family, such as a sum of other numbers, of the right kind, length and style;
`foreign`, the right answer to a task of another family; and `damaged`, the right answer harmed by a
rule. The first two are certainly wrong, since only families with one right answer are used.
Intervals are percentile bootstraps over tasks, not texts, as the texts of one task stand or fall
together. The offline judge's backbone was trained on primer tasks of the same families, so the
figures say how well it judges what the offline world is made of.

How well a judge tells good examples from corrupted ones, by dimension and kind of corruption.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from refine_dagster.config.learning import JudgeConfig
from refine_dagster.judge.corruptions import (
    DIMENSIONS,
    KINDS,
    Corruption,
    Corruptor,
    squeezed_text,
)
from refine_dagster.judge.judge import Judge
from refine_dagster.judge.on_policy_negatives import own_tasks
from refine_dagster.offline.primer import CLOSED_FAMILIES, primer_tasks
from refine_dagster.prompts.example import Example
from refine_dagster.seeding import request_seed
from refine_dagster.statistics import DECIMALS, CalibrationBin, auc_interval, calibration, spearman

# Damage to the text whose harm to each dimension is known (`corruptions.KINDS`).
DAMAGE = ("shuffled_words", "dropped_words", "truncated", "misspelt", "repeated")
Sort = Literal["right", "wrong", "foreign", "damaged"]
TASKS = 400
# Primer tasks drawn to find that many; a share has been trained on or is of an open family.
DRAWN = 4 * TASKS


@dataclass(frozen=True)
class QualityMeasure:
    """A row of the table `feedback_judge_quality`.

    Attributes:
        dimension: a part of the judge.
        measure: `auc`, `auc_correctness` (each with `_low` and `_high`, its 95 % interval), `ece`
            (of probabilities only), or `spearman_<part>` for each later part.
        examples: texts measured on.
        value: the figure.
    """

    dimension: str
    measure: str
    examples: int
    value: float


@dataclass(frozen=True)
class JudgeQuality:
    """Everything measured, in the order of the judge's parts."""

    measures: tuple[QualityMeasure, ...]
    calibration: tuple[CalibrationBin, ...]


@dataclass(frozen=True)
class QualityExample:
    """A text of known quality.

    Attributes:
        task: the place of its task; texts of one task are resampled together.
        sort: what the text is.
        example: the text.
        corruption: the rule that made it; None where it is right.
    """

    task: int
    sort: Sort
    example: Example
    corruption: Corruption | None

    def label(self, part: str) -> bool | None:
        """Whether the text is good in this respect; None where that is not known.

        A part that is no dimension of text is to put what is right above anything else.
        """
        if self.corruption is None:
            return True
        return next((self.corruption.label(name) for name in DIMENSIONS if name == part), False)


def judge_quality(
    judge: Judge, seeds: Sequence[Example], config: JudgeConfig, run_seed: str
) -> JudgeQuality:
    """Measure a judge on primer tasks that are neither its seeds nor drawn for its training.

    Args:
        judge: trained (or, a published one, tested) with these config and this run seed.
        seeds: the good examples given to its training beside the primer.
        run seed: names the tasks, all draws and the resampling; equal arguments give equal figures.
    """
    primer = primer_tasks(config.primer_tasks, request_seed(run_seed, "judge", "primer"))
    known = [*seeds, *(task.example for task in primer), *own_tasks(config, run_seed)]
    return measure_judge(judge, quality_examples(known, run_seed), run_seed)


def quality_examples(known: Iterable[Example], run_seed: str) -> list[QualityExample]:
    """Right and bad texts of primer tasks that are not among `known`; see the module.

    A task is known where its instruction and input are, whatever the output. Bad texts that no
    rule can make of a task are left out.
    """
    met = {(example.instruction, example.input) for example in known}
    drawn = primer_tasks(DRAWN, request_seed(run_seed, "judge", "quality"))
    tasks = [
        task
        for task in drawn
        if task.family in CLOSED_FAMILIES
        and (task.example.instruction, task.example.input) not in met
    ][:TASKS]
    corruptor = Corruptor([task.example for task in tasks])
    examples: list[QualityExample] = []
    for place, task in enumerate(tasks):
        example = task.example
        random = Random(
            request_seed(run_seed, "quality", example.instruction, example.input, example.output)
        )
        kin = [one.example.output for one in tasks if one.family == task.family]
        others = [one.example.output for one in tasks if one.family != task.family]
        made: list[tuple[Sort, Corruption | None]] = [
            ("wrong", _answered(example, kin, random)),
            ("foreign", _answered(example, others, random)),
            ("damaged", _damaged(example, corruptor, random, run_seed)),
        ]
        examples.append(QualityExample(place, "right", example, None))
        examples += [
            QualityExample(place, sort, one.example, one) for sort, one in made if one is not None
        ]
    return examples


def measure_judge(judge: Judge, examples: Sequence[QualityExample], run_seed: str) -> JudgeQuality:
    """Score the examples and measure; see the module for what the figures mean.

    A figure is left out where there are not two classes, or a part does not vary.
    """
    scores = judge.score([example.example for example in examples])
    measures: list[QualityMeasure] = []
    bins: list[CalibrationBin] = []
    for at, (part, probability) in enumerate((part.name, part.probability) for part in judge.parts):
        seed = request_seed(run_seed, "quality", "bootstrap", part)
        values = [one[part] for one in scores]
        labels = [example.label(part) for example in examples]
        answers: list[bool | None] = [
            example.sort == "right" if example.sort in ("right", "wrong") else None
            for example in examples
        ]
        tasks = [example.task for example in examples]
        measures += _auc_measures(part, "auc", values, labels, tasks, seed)
        measures += _auc_measures(part, "auc_correctness", values, answers, tasks, seed)
        if probability:
            known = [place for place, label in enumerate(labels) if label is not None]
            found = calibration(
                part, [values[place] for place in known], [bool(labels[place]) for place in known]
            )
            bins += found.bins
            if found.bins:
                measures.append(QualityMeasure(part, "ece", len(known), found.error))
        for other in judge.parts[at + 1 :]:
            value = spearman(values, [one[other.name] for one in scores])
            if value is not None:
                measures.append(
                    QualityMeasure(
                        part, f"spearman_{other.name}", len(values), round(value, DECIMALS)
                    )
                )
    return JudgeQuality(tuple(measures), tuple(bins))


def _answered(example: Example, answers: Sequence[str], random: Random) -> Corruption | None:
    """The example with one of other tasks' answers, unless all of them are its own."""
    own = squeezed_text(example.output)
    others = sorted({answer for answer in answers if squeezed_text(answer) != own})
    if not others:
        return None
    chosen = Example(example.instruction, example.input, random.choice(others))
    return Corruption("other_output", chosen)


def _damaged(
    example: Example, corruptor: Corruptor, random: Random, run_seed: str
) -> Corruption | None:
    kinds = list(DAMAGE)
    random.shuffle(kinds)
    made = (corruptor.corrupt(example, kind, f"{run_seed}/quality") for kind in kinds)
    return next((one for one in made if one is not None), None)


def _auc_measures(
    part: str,
    measure: str,
    values: Sequence[float],
    labels: Sequence[bool | None],
    tasks: Sequence[int],
    seed: int,
) -> list[QualityMeasure]:
    """The AUC of the labelled texts, with the bounds of its interval."""
    known = [place for place, label in enumerate(labels) if label is not None]
    if len({labels[place] for place in known}) < 2:
        return []
    found = auc_interval(
        [values[place] for place in known],
        [bool(labels[place]) for place in known],
        [tasks[place] for place in known],
        seed=seed,
    )
    return [
        QualityMeasure(part, f"{measure}{end}", len(known), round(value, DECIMALS))
        for end, value in zip(("", "_low", "_high"), found, strict=True)
    ]


ALL = "all"
CHANCE = 0.5


@dataclass(frozen=True)
class JudgeAccuracy:
    """Held-out accuracy on one dimension and kind of corruption (columns of the table).

    Attributes:
        dimension: a part of the judge.
        corruption: a kind of corruption that harms the dimension, or `all`.
        examples: examples measured; pairs where the part is no probability.
        accuracy: balanced accuracy at a probability of one half; where the part is none, the share
            of pairs whose good example has the higher score, a tie counting one half.
        chance: what guessing would score.
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
    made = [(source, corruptor.corruptions(source, f"{run_seed}/held_out")) for source in sources]
    examples = [
        example for source, worse in made for example in (source, *(one.example for one in worse))
    ]
    scores = iter(judge.score(examples))
    right: dict[tuple[str, str, bool], list[float]] = defaultdict(list)
    for _, worse in made:
        whole = next(scores)
        for dimension in DIMENSIONS:
            passed = float(whole[dimension] > CHANCE)
            for kind in (ALL, *(name for name in KINDS if dimension in KINDS[name].harms)):
                right[dimension, kind, True].append(passed)
        for one in worse:
            found = next(scores)
            for part in ranked:
                order = _order(whole[part], found[part])
                right[part, ALL, False].append(order)
                right[part, one.kind, False].append(order)
            for dimension in DIMENSIONS:
                label = one.label(dimension)
                if label is None:
                    continue
                correct = float((found[dimension] > CHANCE) == label)
                right[dimension, ALL, label].append(correct)
                if not label:
                    right[dimension, one.kind, False].append(correct)
    return _accuracies([*DIMENSIONS, *ranked], right), len(examples)


def _order(better: float, worse: float) -> float:
    return 0.5 if better == worse else float(better > worse)


def _accuracies(
    names: Sequence[str], right: dict[tuple[str, str, bool], list[float]]
) -> list[JudgeAccuracy]:
    accuracies = []
    for dimension in names:
        for kind in (ALL, *KINDS):
            harmed = right.get((dimension, kind, False), [])
            whole = right.get((dimension, kind, True), [])
            if not harmed:
                continue
            shares = [sum(side) / len(side) for side in (harmed, whole) if side]
            accuracies.append(
                JudgeAccuracy(
                    dimension,
                    kind,
                    len(harmed) + len(whole),
                    round(sum(shares) / len(shares), 6),
                    CHANCE,
                )
            )
    return accuracies
