"""The published judge: UniEval and the OpenAssistant reward model together.

Nothing is trained. Its accuracy is measured on the examples that the offline judge is tested on, so
that the two compare.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from refine_dagster.config.learning import JudgeConfig
from refine_dagster.hashing import json_hash
from refine_dagster.judge.judge import PARTS, Judge, Part, Scores, named_scores
from refine_dagster.judge.network import JudgeError
from refine_dagster.judge.published_model import (
    RewardModel,
    UniEval,
    find_published,
    loaded_reward_model,
    loaded_unieval,
)
from refine_dagster.judge.quality import MeasuredJudge, judge_accuracies
from refine_dagster.judge.training import split_examples
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import ModelRef
from refine_dagster.prompts.example import Example

PUBLISHED = "published"
FORMAT = 1


@dataclass(frozen=True)
class PublishedModels:
    unieval: ModelRef
    reward_model: ModelRef


class PublishedJudge:
    parts: tuple[Part, ...] = PARTS

    def __init__(self, unieval: UniEval, reward_model: RewardModel, fingerprint: str) -> None:
        self._unieval = unieval
        self._reward_model = reward_model
        self.fingerprint = fingerprint

    def score(self, examples: Sequence[Example]) -> list[Scores]:
        different = list(dict.fromkeys(examples))
        shares = self._unieval.score(
            [question for example in different for question in self._unieval.questions(example)]
        )
        rewards = self._reward_model.score(
            [self._reward_model.conversation(example) for example in different]
        )
        scores = {
            example: named_scores((*shares[3 * number : 3 * number + 3], rewards[number]))
            for number, example in enumerate(different)
        }
        return [scores[example] for example in examples]


def find_published_models(config: JudgeConfig) -> PublishedModels:
    return PublishedModels(
        find_published(config.unieval, config.unieval_revision, "judge.unieval"),
        find_published(config.reward_model, config.reward_model_revision, "judge.reward_model"),
    )


def published_fingerprint(models: PublishedModels, config: JudgeConfig) -> str:
    """sha256 over both models and the fields that shape texts, 64 hex digits."""
    parts = {
        "format": FORMAT,
        "unieval": models.unieval.fingerprint,
        "reward_model": models.reward_model.fingerprint,
        "rows": config.score_batch_size,
        "unieval_max_tokens": config.unieval_max_tokens,
        "reward_model_max_tokens": config.reward_model_max_tokens,
    }
    return json_hash([PUBLISHED, parts])


@contextmanager
def loaded_published_judge(
    models: PublishedModels, config: JudgeConfig, device: Device, expected: str | None = None
) -> Iterator[Judge]:
    """Load both models; free their memory at the end.

    Raises:
        JudgeError: the fingerprint is not `expected`.
        PublishedModelError: a model is of another architecture than is needed.
    """
    fingerprint = published_fingerprint(models, config)
    if expected not in (None, fingerprint):
        raise JudgeError(
            "the published judge's files or config have changed since feedback_judge was "
            "materialised",
            where=f"{models.unieval.path}, {models.reward_model.path}",
            fix="materialise feedback_judge again",
        )
    rows = config.score_batch_size
    with (
        loaded_unieval(models.unieval, device, rows, config.unieval_max_tokens) as unieval,
        loaded_reward_model(
            models.reward_model, device, rows, config.reward_model_max_tokens
        ) as reward_model,
    ):
        yield PublishedJudge(unieval, reward_model, fingerprint)


def measure_published_judge(
    models: PublishedModels,
    seeds: Sequence[Example],
    config: JudgeConfig,
    device: Device,
    run_seed: str,
) -> MeasuredJudge:
    """Accuracies on the held-out ones of the seeds and `config.primer_tasks` primer tasks."""
    _, testing = split_examples(seeds, config, run_seed)
    if not testing:
        raise JudgeError(
            f"of {len(set(seeds))} seeds and {config.primer_tasks} primer tasks none is held out "
            "to measure the judge on",
            where="config fields judge.primer_tasks and judge.held_out_share",
            fix="give more seeds, or raise one of the fields",
        )
    with loaded_published_judge(models, config, device) as judge:
        accuracies, examples = judge_accuracies(judge, testing, run_seed)
        return MeasuredJudge(accuracies, examples, judge.fingerprint)
