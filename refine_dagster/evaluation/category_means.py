"""Means over the categories of SUPER-NI, which differ in size from one task to 24.

The benchmark's own figure is the mean over all instances (*micro*), and so mostly that of its large
categories: the largest of the twelve has 24 of the 119 test tasks. The mean over categories
(*macro*) gives each kind of task one voice. Where a difference between two arms shows in one of the
two alone, it comes from few kinds of tasks, or from many tasks of one kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from refine_dagster.evaluation.answers import TaskScore


@dataclass(frozen=True)
class CategoryScore:
    """One category: its tasks and instances, and the mean ROUGE-L over those instances."""

    category: str
    tasks: int
    instances: int
    rouge_l: float


@dataclass(frozen=True)
class CategoryMeans:
    """Categories by name, and their means in points of 100.

    Attributes:
        macro: every category weighs the same.
        micro: every instance weighs the same, whatever its task or category.
    """

    categories: tuple[CategoryScore, ...]
    macro: float
    micro: float


def category_means(scores: Sequence[TaskScore]) -> CategoryMeans:
    """The means of one arm's scores; a task counts in its first category alone.

    Raises:
        ValueError: there are no scores.
    """
    if not scores:
        raise ValueError("there are no scores to take means of")
    categories = []
    for name in sorted({score.category for score in scores}):
        own = [score for score in scores if score.category == name]
        instances = sum(score.instances for score in own)
        categories.append(CategoryScore(name, len(own), instances, _over_instances(own)))
    macro = fmean(category.rouge_l for category in categories)
    return CategoryMeans(tuple(categories), macro, _over_instances(scores))


def _over_instances(scores: Sequence[TaskScore]) -> float:
    return fmean([score.rouge_l for score in scores], weights=[score.instances for score in scores])
