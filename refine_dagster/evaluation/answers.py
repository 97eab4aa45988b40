"""A model's greedy answers to held-out tasks, and their scores (methods B, SUPER-NI protocol).

Scores follow the benchmark: ROUGE-L F with the Porter stemmer by `rouge_score`, the best over an
instance's references, the mean over a task's instances, times 100; exact match compares the texts
after lower-casing, dropping ASCII punctuation and joining white space.

Means over the categories of SUPER-NI, which differ in size from one task to 24.

The benchmark's own figure is the mean over all instances (*micro*), and so mostly that of its large
categories: the largest of the twelve has 24 of the 119 test tasks. The mean over categories
(*macro*) gives each kind of task one voice. Where a difference between two arms shows in one of the
two alone, it comes from few kinds of tasks, or from many tasks of one kind.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from refine_dagster.config.evaluation import EvaluationConfig
from refine_dagster.evaluation.super_ni import Task
from refine_dagster.generation.request import Complete, Request, Sampling
from refine_dagster.prompts.zero_shot import zero_shot_prompt

# An answer ends at the end-of-sequence token, or at a blank line. The benchmark waits for the
# former alone, but its models were trained to stop; the base arm was not, and would be scored on
# the next task it makes up. No reference of the packaged tasks has a blank line (a test holds
# this), so the stop cuts no right answer short, and where it matters it favours the base arm.
STOP = ("\n\n",)


@dataclass(frozen=True)
class Prediction:
    """The answer to instance `instance` (from 0) of task `task`, white space around it dropped."""

    task: str
    instance: int
    text: str


@dataclass(frozen=True)
class TaskScore:
    """A row of the table `evaluation_report`; scores are points of 100."""

    arm: str
    task: str
    category: str
    instances: int
    rouge_l: float
    exact_match: float


@dataclass(frozen=True)
class InstanceScore:
    """A row of the table `evaluation_predictions`; the score is points of 100."""

    arm: str
    task: str
    instance: int
    prediction: str
    reference_outputs: tuple[str, ...]
    rouge_l: float


@dataclass(frozen=True)
class ArmScores:
    """One arm's scores: `tasks` in task order, `instances` in task and instance order."""

    tasks: tuple[TaskScore, ...]
    instances: tuple[InstanceScore, ...]


def predict(
    complete: Complete,
    cut: Callable[[str, int], str],
    tasks: Sequence[Task],
    config: EvaluationConfig,
) -> list[Prediction]:
    """Ask a model every instance of every task, greedily, all in one call of `complete`.

    Args:
        complete: answers requests in order.
        cut: `cut(text, n)` is the longest start of `text` of at most n of the model's tokens.

    Returns:
        One prediction an instance, in task and instance order.
    """
    sampling = Sampling(max_new_tokens=config.max_new_tokens, stop=STOP)
    asked = [(task, place) for task in tasks for place in range(len(task.instances))]
    requests = [
        Request(
            "respond",
            fitted_prompt(
                task.definition, task.instances[place].input, config.max_source_tokens, cut
            ),
            sampling,
            seed=0,  # greedy: there is no noise to draw
        )
        for task, place in asked
    ]
    completions = complete(requests)
    return [
        Prediction(task.name, place, completion.text.strip())
        for (task, place), completion in zip(asked, completions, strict=True)
    ]


def fitted_prompt(
    definition: str, input: str, max_tokens: int, cut: Callable[[str, int], str]
) -> str:
    """The zero-shot prompt, of at most `max_tokens` tokens.

    The end of the input goes first, and the end of the definition where no input is short enough;
    `Output:` always stays. (The benchmark's code cuts the end of the whole prompt, which takes
    `Output:` with it; that suits an encoder, but a decoder would go on with the input.)
    """

    def fits(prompt: str) -> bool:
        return cut(prompt, max_tokens) == prompt

    whole = zero_shot_prompt(definition, input)
    if fits(whole):
        return whole
    if fits(zero_shot_prompt(definition, "")):
        length = _longest(len(input), lambda n: fits(zero_shot_prompt(definition, input[:n])))
        return zero_shot_prompt(definition, input[:length])
    length = _longest(len(definition), lambda n: fits(zero_shot_prompt(definition[:n], "")))
    return zero_shot_prompt(definition[:length], "")


def _longest(limit: int, fits: Callable[[int], bool]) -> int:
    """The largest length below `limit` that fits, by bisection; 0 is taken to fit."""
    low, high = 0, limit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def score(arm: str, tasks: Sequence[Task], predictions: Sequence[Prediction]) -> ArmScores:
    """Score an arm's predictions.

    Raises:
        ValueError: the predictions are not one for each instance of each task.
    """
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    said = {(prediction.task, prediction.instance): prediction.text for prediction in predictions}
    asked = {(task.name, place) for task in tasks for place in range(len(task.instances))}
    if len(said) != len(predictions) or said.keys() != asked:
        raise ValueError(f"{arm}: predictions do not match the instances of the tasks")
    task_scores: list[TaskScore] = []
    instance_scores: list[InstanceScore] = []
    for task in tasks:
        rouge: list[float] = []
        exact: list[bool] = []
        for place, instance in enumerate(task.instances):
            text = said[task.name, place]
            best = max(
                float(scorer.score(reference, text)["rougeL"].fmeasure)
                for reference in instance.references
            )
            rouge.append(100 * best)
            exact.append(_plain(text) in {_plain(reference) for reference in instance.references})
            instance_scores.append(
                InstanceScore(arm, task.name, place, text, instance.references, rouge[-1])
            )
        task_scores.append(
            TaskScore(
                arm,
                task.name,
                task.categories[0],
                len(task.instances),
                fmean(rouge),
                100 * fmean(exact),
            )
        )
    return ArmScores(tuple(task_scores), tuple(instance_scores))


def _plain(text: str) -> str:
    kept = text.lower().translate({ord(character): None for character in string.punctuation})
    # A text of nothing but punctuation is compared as it is: "+" is not "-".
    return " ".join(kept.split()) or text.strip()


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
