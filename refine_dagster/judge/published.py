"""The published judge: UniEval and the OpenAssistant reward model behind one interface.

Nothing is trained here. The judge is named by the files of both models and by what decides how a
text is cut and laid out; how well it tells good examples from bad is measured on the very examples
that the offline judge is tested on, so that the two can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from refine_dagster.config.learning import JudgeConfig
from refine_dagster.hashing import json_hash
from refine_dagster.judge.judge import DECIMALS, PARTS, Judge, Part, Scores
from refine_dagster.judge.network import JudgeError
from refine_dagster.judge.quality import JudgeAccuracy, judge_accuracies
from refine_dagster.judge.reward_model import RewardModel, find_published, loaded_reward_model
from refine_dagster.judge.training import is_held_out
from refine_dagster.judge.unieval import UniEval, loaded_unieval
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import ModelRef
from refine_dagster.offline.primer import primer_tasks
from refine_dagster.prompts.example import Example
from refine_dagster.seeding import request_seed

PUBLISHED = "published"
FORMAT = 1


@dataclass(frozen=True)
class PublishedModels:
    """The two models on this machine's disk."""

    unieval: ModelRef
    reward_model: ModelRef


@dataclass(frozen=True)
class PublishedMeasure:
    """How well the judge does; `fingerprint` is the one that the loaded judge has."""

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
        asked = [self._unieval.questions(example) for example in different]
        shares = self._unieval.score([question for questions in asked for question in questions])
        rewards = self._reward_model.score(
            [self._reward_model.conversation(example) for example in different]
        )
        found = {
            example: {
                part.name: round(value, DECIMALS)
                for part, value in zip(
                    PARTS, (*shares[3 * place : 3 * place + 3], rewards[place]), strict=True
                )
            }
            for place, example in enumerate(different)
        }
        return [found[example] for example in examples]


def find_published_models(config: JudgeConfig) -> PublishedModels:
    """Both models, found and hashed.

    Raises:
        PublishedModelError: one is not there or not whole.
    """
    return PublishedModels(
        find_published(config.unieval, config.unieval_revision, "judge.unieval"),
        find_published(config.reward_model, config.reward_model_revision, "judge.reward_model"),
    )


def published_fingerprint(models: PublishedModels, config: JudgeConfig) -> str:
    """The judge's name: sha256 over both models and what lays the texts out, 64 hex digits."""
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
    """Load both models; give their memory back at the end.

    Args:
        expected: the fingerprint that the judge must have; None takes it as it is.

    Raises:
        JudgeError: the judge is not the expected one.
        PublishedModelError: a model is not what its indicator needs.
    """
    fingerprint = published_fingerprint(models, config)
    if expected not in (None, fingerprint):
        raise JudgeError(
            "the published judge's files or knobs have changed since feedback_judge was "
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
        seeds: good examples, in any order; `config.primer_tasks` primer tasks are put beside them.
        run seed: decides which are held out, and seeds the corruptions.

    Raises:
        JudgeError: no example is held out.
        PublishedModelError: a model is not what its indicator needs.
    """
    testing = held_out_examples(seeds, config, run_seed)
    if not testing:
        raise JudgeError(
            f"of {len(set(seeds))} seeds and {config.primer_tasks} primer tasks none is held out "
            "to measure the judge on",
            where="knobs judge.primer_tasks and judge.held_out_share",
            fix="give more seeds, or raise one of the knobs",
        )
    with loaded_published_judge(models, config, device) as judge:
        accuracies, examples = judge_accuracies(judge, testing, run_seed)
        return PublishedMeasure(accuracies, examples, judge.fingerprint)


def held_out_examples(
    seeds: Sequence[Example], config: JudgeConfig, run_seed: str
) -> list[Example]:
    """The good examples that an offline judge of this config would be tested on, in text order."""
    primer = primer_tasks(config.primer_tasks, request_seed(run_seed, "judge", "primer"))
    good = {*seeds, *(task.example for task in primer)}
    return sorted(
        (example for example in good if is_held_out(example, config.held_out_share, run_seed)),
        key=lambda example: (example.instruction, example.input, example.output),
    )
