"""A model's greedy answers to held-out tasks, and their scores (docs/methods.md, section 4.3).

Scores follow SUPER-NI: ROUGE-L F with the Porter stemmer by `rouge_score`, the best over an
instance's references, the mean over a task's instances, times 100. Exact match compares the texts
after lower-casing, removing ASCII punctuation and joining white space.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from refine_dagster.config.learning import EvaluationConfig
from refine_dagster.evaluation.super_ni import Task
from refine_dagster.generation.request import Complete, Request, Sampling
from refine_dagster.novelty.rouge import rouge_tokens
from refine_dagster.prompts.example import zero_shot_prompt

# An answer ends at the end-of-sequence token or at a blank line. The benchmark has only the former,
# but its models were trained to stop; the base arm was not, and would be scored on the next task
# that it invents. No reference of the packaged tasks has a blank line (a test checks this), so the
# stop cuts no right answer short, and where it matters it favours the base arm.
STOP = ("\n\n",)


@dataclass(frozen=True)
class Prediction:
    """The answer to instance `instance` (from 0) of task `task`, stripped."""

    task: str
    instance: int
    text: str


@dataclass(frozen=True)
class TaskScore:
    """A row of `evaluation_report`; scores are points of 100."""

    arm: str
    task: str
    category: str
    instances: int
    rouge_l: float
    exact_match: float


@dataclass(frozen=True)
class InstanceScore:
    """A row of `evaluation_predictions`; the score is points of 100."""

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
    """Greedy answers to every instance of every task, in order, by one call of `complete`.

    `cut(text, n)` is the longest beginning of `text` of at most n of the model's tokens.
    """
    sampling = Sampling(max_new_tokens=config.max_new_tokens, stop=STOP)
    questions = [(task, index) for task in tasks for index in range(len(task.instances))]
    prompts = [
        fitted_prompt(task.definition, task.instances[index].input, config.max_source_tokens, cut)
        for task, index in questions
    ]
    # Greedy decoding draws no random numbers, so one seed serves all.
    completions = complete([Request("respond", prompt, sampling, seed=0) for prompt in prompts])
    return [
        Prediction(task.name, index, completion.text.strip())
        for (task, index), completion in zip(questions, completions, strict=True)
    ]


def fitted_prompt(
    definition: str, input: str, max_tokens: int, cut: Callable[[str, int], str]
) -> str:
    """The zero-shot prompt, of at most `max_tokens` tokens.

    The end of the input is cut first, then the end of the definition; `Output:` always stays. (The
    benchmark cuts the end of the whole prompt, `Output:` included. That suits an encoder, but a
    decoder would continue the input.)
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
    """The largest length below `limit` that fits, by bisection; 0 is assumed to fit."""
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
    texts = {(prediction.task, prediction.instance): prediction.text for prediction in predictions}
    expected = {(task.name, index) for task in tasks for index in range(len(task.instances))}
    if len(texts) != len(predictions) or texts.keys() != expected:
        raise ValueError(f"{arm}: predictions do not match the instances of the tasks")
    task_scores: list[TaskScore] = []
    instance_scores: list[InstanceScore] = []
    for task in tasks:
        rouge: list[float] = []
        exact: list[bool] = []
        for index, instance in enumerate(task.instances):
            text, references = texts[task.name, index], instance.references
            best = max(
                float(scorer.score(reference, text)["rougeL"].fmeasure) for reference in references
            )
            rouge.append(100 * best)
            exact.append(_plain(text) in map(_plain, references))
            instance_scores.append(
                InstanceScore(arm, task.name, index, text, references, rouge[-1])
            )
        means = fmean(rouge), 100 * fmean(exact)
        task_scores.append(
            TaskScore(arm, task.name, task.categories[0], len(task.instances), *means)
        )
    return ArmScores(tuple(task_scores), tuple(instance_scores))


def unread_instances(tasks: Sequence[Task]) -> int:
    """Instances that ROUGE-L scores 0 whatever is answered: no reference has a [a-z0-9]."""
    return sum(
        not any(map(rouge_tokens, instance.references))
        for task in tasks
        for instance in task.instances
    )


def _plain(text: str) -> str:
    kept = text.lower().translate({ord(character): None for character in string.punctuation})
    # A text of punctuation alone is compared as it is: "+" is not "-".
    return " ".join(kept.split()) or text.strip()
