"""The published judge: UniEval and the OpenAssistant reward model together.

Nothing is trained. Its fingerprint covers the files of both models and what decides how a text is
cut and padded. Its accuracy is measured on the examples that the offline judge is tested on, so
that the two compare.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from refine_dagster.config.learning import JudgeConfig
from refine_dagster.hashing import json_hash
from refine_dagster.judge.judge import DECIMALS, PARTS, Judge, Part, Scores
from refine_dagster.judge.network import JudgeError
from refine_dagster.judge.published_model import find_published
from refine_dagster.judge.quality import JudgeAccuracy, judge_accuracies
from refine_dagster.judge.reward_model import RewardModel, loaded_reward_model
from refine_dagster.judge.training import split_examples
from refine_dagster.judge.unieval import UniEval, loaded_unieval
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import ModelRef
from refine_dagster.prompts.example import Example

PUBLISHED = "published"
FORMAT = 1


@dataclass(frozen=True)
class PublishedModels:
    """The two models on this machine's disk."""

    unieval: ModelRef
    reward_model: ModelRef


@dataclass(frozen=True)
class PublishedMeasure:
    """The judge's accuracies; `fingerprint` is that of the loaded judge."""

    accuracies: list[JudgeAccuracy]
    held_out_examples: int
    fingerprint: str


class PublishedJudge:
    """A `Judge` made of the two loaded models.

    Attributes:
        fingerprint: names everything that decides the scores.
    """

    parts: tuple[Part, ...] = PARTS

    def __init__(self, unieval: UniEval, reward_model: RewardModel, fingerprint: str) -> None:
        self._unieval = unieval
        self._reward_model = reward_model
        self.fingerprint = fingerprint

    def score(self, examples: Sequence[Example]) -> list[Scores]:
        """Scores, rounded to six decimals; equal examples are read once."""
        different = list(dict.fromkeys(examples))
        shares = self._unieval.score(
            [question for example in different for question in self._unieval.questions(example)]
        )
        rewards = self._reward_model.score(
            [self._reward_model.conversation(example) for example in different]
        )
        found = {
            example: {
                part.name: round(value, DECIMALS)
                for part, value in zip(
                    PARTS, (*shares[3 * number : 3 * number + 3], rewards[number]), strict=True
                )
            }
            for number, example in enumerate(different)
        }
        return [found[example] for example in examples]


def find_published_models(config: JudgeConfig) -> PublishedModels:
    """Both models, found and hashed.

    Raises:
        PublishedModelError: one is not there, or files are missing.
    """
    return PublishedModels(
        find_published(config.unieval, config.unieval_revision, "judge.unieval"),
        find_published(config.reward_model, config.reward_model_revision, "judge.reward_model"),
    )


def published_fingerprint(models: PublishedModels, config: JudgeConfig) -> str:
    """The judge's name: sha256 over both models and the fields that shape texts, 64 hex digits."""
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

    Args:
        expected: the fingerprint that the judge must have; None accepts any.

    Raises:
        JudgeError: the fingerprint is another.
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
) -> PublishedMeasure:
    """Accuracies on the held-out seeds and primer tasks and their corruptions.

    Args:
        seeds: good examples, in any order, to which `config.primer_tasks` primer tasks are added.
        run_seed: decides which are held out, and seeds the corruptions.

    Raises:
        JudgeError: no example is held out.
        PublishedModelError: a model is of another architecture than is needed.
    """
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
        return PublishedMeasure(accuracies, examples, judge.fingerprint)
