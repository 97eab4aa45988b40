"""Trainings that cost nothing: the weights are the hash of everything that a training is given.

What a training leaves follows from its arguments, not from its manifest. So a manifest that leaves
something out shows: a model is reused that a build from nothing would train to other weights.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from refine_dagster import stages
from refine_dagster.config.learning import (
    JudgeConfig,
    PrivacyConfig,
    ReinforcementConfig,
    SupervisedConfig,
)
from refine_dagster.config.models import BaseModelConfig
from refine_dagster.hashing import content_id
from refine_dagster.judge import training as judge_training
from refine_dagster.judge.judge import PARTS, Judge, Scores
from refine_dagster.judge.quality import JudgeQuality, MeasuredJudge
from refine_dagster.language import Language
from refine_dagster.models.device import Device
from refine_dagster.models.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from refine_dagster.models.language_model import ModelRef
from refine_dagster.offline.base_model import BaseModelTraining, TrainingStep
from refine_dagster.privacy.attacks import ATTACKS, AttackResult
from refine_dagster.privacy.audit import NONE, Audit, AuditedArm, ExampleScores, split_examples
from refine_dagster.prompts.example import Example
from refine_dagster.refine_af import feedback as judging
from refine_dagster.refine_af.feedback import Feedback
from refine_dagster.training import report, sft
from refine_dagster.training.policy_steps import PolicyPrompt, PolicyStep, PolicyTraining
from refine_dagster.training.sft import Form, SupervisedStep, SupervisedTraining
from tests.builders.fake_judge import FakeJudge, scores_of

WEIGHTS = "model.safetensors"


@contextmanager
def fake_training() -> Iterator[None]:
    """In this context stages train, load and measure models of the fake kind."""
    size = SimpleNamespace(parameters=1_000_000, vocab=2000, context=512)
    with ExitStack() as stack:
        for owner, name, fake in (
            (stages, "train_base_model", _train_base_model),
            (judge_training, "train_judge", _train_judge),
            (stages, "loaded_judge", _loaded_judge),
            (judging, "loaded_judge", _loaded_judge),
            (stages, "judge_quality", lambda *_: JudgeQuality((), ())),
            (stages, "train_policy", _train_policy),
            (sft, "fine_tune", _fine_tune),
            (stages, "audit_arms", _audit_arms),
            (report, "model_size", lambda ref: size),
        ):
            stack.enter_context(mock.patch.object(owner, name, fake))
        yield


def _train_base_model(
    seeds: Sequence[Example], config: BaseModelConfig, out: Path, device: Device, run_seed: str
) -> BaseModelTraining:
    weights = _weights("base", [seed.render() for seed in seeds], config.model_dump(), run_seed)
    for name in ("config.json", "tokenizer.json"):
        (out / name).write_text("{}", encoding="utf-8")
    (out / WEIGHTS).write_text(weights, encoding="utf-8")
    return BaseModelTraining([TrainingStep(1, _number(weights), 0.01)], 1_000_000)


def _train_judge(
    base: ModelRef,
    seeds: Sequence[Example],
    config: JudgeConfig,
    out: Path,
    device: Device,
    run_seed: str,
) -> MeasuredJudge:
    learnt = [seed.render() for seed in seeds]
    weights = _weights("judge", base.fingerprint, learnt, config.model_dump(), run_seed)
    (out / WEIGHTS).write_text(weights, encoding="utf-8")
    return MeasuredJudge([], len(seeds) // 4, weights)


def _loaded_judge(folder: Path, device: Device, base: ModelRef) -> AbstractContextManager[Judge]:
    weights = (folder / WEIGHTS).read_text(encoding="utf-8")

    def score(example: Example) -> Scores:
        rng = random.Random(_weights(weights, example.render()))
        return scores_of(*(round(rng.random(), 4) for _ in PARTS))

    judge = FakeJudge(score)
    judge.fingerprint = weights
    return nullcontext(judge)


def _train_policy(
    base: ModelRef,
    prompts: Sequence[PolicyPrompt],
    feedback: Feedback,
    config: ReinforcementConfig,
    out: Path,
    *,
    max_new_tokens: int,
    device: Device,
    run_seed: str,
    resume: Path | None,
) -> PolicyTraining:
    asked = sorted(one.prompt for one in prompts)
    scored = feedback.score_rollouts(["Say it."], [" <noinput>\nOutput: it"], [True])
    weights = _weights(
        "policy", base.fingerprint, asked, scored[0].reward, config.model_dump(), run_seed
    )
    _write_adapter(out, weights)
    step = PolicyStep(1, _number(weights), scores_of(), 1.0, 0.1, 0.5, 4.0, 0.5, 0.1)
    return PolicyTraining([step])


def _fine_tune(
    base: ModelRef,
    examples: Sequence[Example],
    config: SupervisedConfig,
    out: Path,
    *,
    steps: int,
    form: Form,
    language: Language,
    device: Device,
    run_seed: str,
) -> SupervisedTraining:
    learnt = [example.render() for example in examples]
    how = (config.model_dump(), steps, form, language.code, run_seed)
    weights = _weights("arm", base.fingerprint, learnt, *how)
    _write_adapter(out, weights)
    return SupervisedTraining([SupervisedStep(1, _number(weights))], len(examples), 0)


def _audit_arms(
    base: ModelRef,
    arms: Sequence[AuditedArm],
    config: PrivacyConfig,
    supervised: SupervisedConfig,
    device: Device,
    run_seed: str,
) -> list[Audit]:
    audits = []
    for arm in arms:
        split = split_examples(arm.examples, config.max_examples, run_seed)
        scores = []
        for side, member in ((split.members, True), (split.others, False)):
            for example in side:
                score = _number(_weights(base.fingerprint, arm.steps, example.example.render()))
                scores.append(ExampleScores(example, member, dict.fromkeys(ATTACKS, score)))
        sides = len(split.members), len(split.others)
        auc = sum(one.scores[ATTACKS[0]] for one in scores) / max(1, len(scores))
        results = [(NONE, AttackResult(name, *sides, auc, 0.0, 1.0, None)) for name in ATTACKS]
        audits.append(Audit(arm.arm, NONE, split, 1, None, tuple(results), tuple(scores), None))
    return audits


def _write_adapter(folder: Path, weights: str) -> None:
    (folder / ADAPTER_CONFIG).write_text("{}", encoding="utf-8")
    (folder / ADAPTER_WEIGHTS).write_text(weights, encoding="utf-8")


def _weights(*learnt: Any) -> str:
    return content_id("weights", *learnt)


def _number(weights: str) -> float:
    """A figure between 0 and 1 that the weights decide."""
    return int(weights[:8], 16) / 0x100000000
