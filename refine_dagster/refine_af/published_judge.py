"""The published judge: UniEval and the OpenAssistant reward model behind one interface.

Nothing is trained here. The judge is named by the files of both models and by what decides how a
text is cut and laid out; how well it tells good triples from bad is measured on the very triples
that the offline judge is tested on, so that the two can be compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from refine_dagster.device import Device
from refine_dagster.generation.request import request_seed
from refine_dagster.knobs import JudgeKnobs
from refine_dagster.language_model import ModelRef
from refine_dagster.lineage.content import canonical_json
from refine_dagster.refine_af.instance_prompt import Triple
from refine_dagster.refine_af.judge import DECIMALS, Judge, Scores
from refine_dagster.refine_af.judge_accuracy import JudgeAccuracy, judge_accuracies
from refine_dagster.refine_af.judge_network import JudgeError
from refine_dagster.refine_af.judge_training import is_held_out
from refine_dagster.refine_af.published_model import find_published
from refine_dagster.refine_af.reward_model import RewardModel, loaded_reward_model
from refine_dagster.refine_af.unieval import UniEval, loaded_unieval
from refine_dagster.training.primer import primer_tasks

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

    def __init__(self, unieval: UniEval, reward_model: RewardModel, fingerprint: str) -> None:
        self._unieval = unieval
        self._reward_model = reward_model
        self.fingerprint = fingerprint

    def score(self, triples: Sequence[Triple]) -> list[Scores]:
        """Scores, rounded to six decimals; equal triples are read once."""
        different = list(dict.fromkeys(triples))
        asked = [self._unieval.questions(triple) for triple in different]
        shares = self._unieval.score([question for questions in asked for question in questions])
        rewards = self._reward_model.score(
            [self._reward_model.conversation(triple) for triple in different]
        )
        found = {
            triple: Scores(
                naturalness=round(shares[3 * place], DECIMALS),
                coherence=round(shares[3 * place + 1], DECIMALS),
                understandability=round(shares[3 * place + 2], DECIMALS),
                reward_model=round(rewards[place], DECIMALS),
            )
            for place, triple in enumerate(different)
        }
        return [found[triple] for triple in triples]


def find_published_models(knobs: JudgeKnobs) -> PublishedModels:
    """Both models, found and hashed.

    Raises:
        PublishedModelError: one is not there or not whole.
    """
    return PublishedModels(
        find_published(knobs.unieval, knobs.unieval_revision, "judge.unieval"),
        find_published(knobs.reward_model, knobs.reward_model_revision, "judge.reward_model"),
    )


def published_fingerprint(models: PublishedModels, knobs: JudgeKnobs) -> str:
    """The judge's name: sha256 over both models and what lays the texts out, 64 hex digits."""
    parts = {
        "format": FORMAT,
        "unieval": models.unieval.fingerprint,
        "reward_model": models.reward_model.fingerprint,
        "rows": knobs.score_batch_size,
        "unieval_max_tokens": knobs.unieval_max_tokens,
        "reward_model_max_tokens": knobs.reward_model_max_tokens,
    }
    return hashlib.sha256(canonical_json([PUBLISHED, parts]).encode()).hexdigest()


@contextmanager
def loaded_published_judge(
    models: PublishedModels, knobs: JudgeKnobs, device: Device, expected: str | None = None
) -> Iterator[Judge]:
    """Load both models; give their memory back at the end.

    Args:
        expected: the fingerprint that the judge must have; None takes it as it is.

    Raises:
        JudgeError: the judge is not the expected one.
        PublishedModelError: a model is not what its indicator needs.
    """
    fingerprint = published_fingerprint(models, knobs)
    if expected not in (None, fingerprint):
        raise JudgeError(
            "the published judge's files or knobs have changed since feedback_judge was "
            "materialised",
            where=f"{models.unieval.path}, {models.reward_model.path}",
            fix="materialise feedback_judge again",
        )
    rows = knobs.score_batch_size
    with (
        loaded_unieval(models.unieval, device, rows, knobs.unieval_max_tokens) as unieval,
        loaded_reward_model(
            models.reward_model, device, rows, knobs.reward_model_max_tokens
        ) as reward_model,
    ):
        yield PublishedJudge(unieval, reward_model, fingerprint)


def measure_published_judge(
    models: PublishedModels,
    seeds: Sequence[Triple],
    knobs: JudgeKnobs,
    device: Device,
    salt: str,
) -> PublishedMeasure:
    """Accuracies on the held-out seeds and primer tasks and their corruptions.

    Args:
        seeds: good triples, in any order; `knobs.primer_tasks` primer tasks are put beside them.
        salt: decides which are held out, and seeds the corruptions.

    Raises:
        JudgeError: no triple is held out.
        PublishedModelError: a model is not what its indicator needs.
    """
    testing = held_out_triples(seeds, knobs, salt)
    if not testing:
        raise JudgeError(
            f"of {len(set(seeds))} seeds and {knobs.primer_tasks} primer tasks none is held out "
            "to measure the judge on",
            where="knobs judge.primer_tasks and judge.held_out_share",
            fix="give more seeds, or raise one of the knobs",
        )
    with loaded_published_judge(models, knobs, device) as judge:
        accuracies, examples = judge_accuracies(judge, testing, salt)
        return PublishedMeasure(accuracies, examples, judge.fingerprint)


def held_out_triples(seeds: Sequence[Triple], knobs: JudgeKnobs, salt: str) -> list[Triple]:
    """The good triples that the offline judge of these knobs would be tested on, in text order."""
    primer = primer_tasks(knobs.primer_tasks, request_seed(salt, "judge", "primer"))
    good = {*seeds, *(task.triple for task in primer)}
    return sorted(
        (triple for triple in good if is_held_out(triple, knobs.held_out_share, salt)),
        key=lambda triple: (triple.instruction, triple.input, triple.output),
    )
