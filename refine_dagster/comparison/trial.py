"""One random seed of a comparison, from the pool to the scores of every arm and size.

The same engine as the graph's assets: instances through a completions store, policies by
`train_policy`, fine-tuning by `train_supervised`, answers by the SUPER-NI protocol. A trial keeps a
store and checkpoints of its own, so it never writes into the home's warehouse, and what was asked
or trained before an interruption is not asked or trained again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean
from typing import Any

from refine_dagster import progress
from refine_dagster.comparison.arms import SELF_INSTRUCT, Arm
from refine_dagster.comparison.cells import (
    Cell,
    CellFolder,
    DatasetResult,
    PolicyResult,
)
from refine_dagster.comparison.study import Place, Study
from refine_dagster.device import Device, device_session
from refine_dagster.evaluation.answers import ArmScores, predict, score
from refine_dagster.generation.request import request_seed
from refine_dagster.generation.session import GeneratorSession, open_generator
from refine_dagster.language_model import ModelRef
from refine_dagster.lineage.checkpoints import CheckpointStore
from refine_dagster.lineage.completions import CompletionsStore
from refine_dagster.lineage.rows import Row
from refine_dagster.lineage.warehouse import Warehouse
from refine_dagster.profile import Profile
from refine_dagster.refine_af.feedback import Feedback, ScoredInstance
from refine_dagster.refine_af.gain import mean_rewards
from refine_dagster.refine_af.instance_prompt import Triple
from refine_dagster.refine_af.instances import (
    InstancePrompt,
    instance_prompts,
    instance_requests,
    scored_answers,
)
from refine_dagster.refine_af.judge import Judge, Scores
from refine_dagster.refine_af.judge_quality import PARTS
from refine_dagster.refine_af.lent_judge import feedback_of, lent_judge
from refine_dagster.refine_af.score_statistics import spearman
from refine_dagster.registered_models import registered_policy
from refine_dagster.self_instruct.decisions import TEAMS_RL
from refine_dagster.self_instruct.instance_rules import Judged, decide_instances
from refine_dagster.training.policy_gain import held_out_split, paired_gain
from refine_dagster.training.policy_steps import distinct_bigrams
from refine_dagster.training.reinforcement import PolicyPrompt, train_policy
from refine_dagster.training.supervised import train_supervised

POLICY = "policy"
TUNED = "tuned"
CELLS = "cells"


def run_trial(study: Study, random_seed: int, folder: Path) -> int:
    """Compute the cells of one random seed that are not there yet, and count them.

    Args:
        folder: the study's; cells go to `cells/`, the rest to `seed_<n>/`.

    Raises:
        RefineError: whatever the engine cannot do.
    """
    cells = CellFolder(folder / CELLS)
    todo = [
        place
        for place in study.places(random_seed)
        if not cells.has(place.arm.name, place.random_seed, place.size)
    ]
    if not todo:
        return 0
    with device_session(study.profile.device) as device:
        store = CheckpointStore(study.material.checkpoints)
        with lent_judge(study.material.judge, store, device, study.profile.judge) as judge:
            trial = _Trial(study, random_seed, folder / f"seed_{random_seed}", device, judge)
            for place in todo:
                cells.write(trial.cell(place))
    return len(todo)


class _Trial:
    """One random seed's work; models are loaded for as long as they are asked, and no longer."""

    def __init__(
        self, study: Study, random_seed: int, folder: Path, device: Device, judge: Judge
    ) -> None:
        self._study = study
        self._salt = f"{study.profile.salt}/comparison/{random_seed}"
        self._device = device
        self._judge = judge
        self._checkpoints = CheckpointStore(folder / "checkpoints")
        folder.mkdir(parents=True, exist_ok=True)
        warehouse = Warehouse(folder / "warehouse.duckdb")
        self._store = CompletionsStore(warehouse, f"comparison-{random_seed}")
        self._instances: dict[str, list[ScoredInstance]] = {}
        self._policies: dict[str, tuple[ModelRef, PolicyResult]] = {}

    def cell(self, place: Place) -> Cell:
        """Compute one cell."""
        progress.note(f"comparison: {place.arm.name}, seed {place.random_seed}, size {place.size}")
        dataset: DatasetResult | None = None
        policy: PolicyResult | None = None
        model = self._base
        # What the arm learns from is made before the clock starts: other sizes share it.
        triples = self._learnt_from(place)
        started = time.monotonic()
        if place.arm.kind == "refined":
            policy = self._policy(place.arm)[1]
        # An arm that has nothing to learn from is the base model.
        if triples is not None:
            dataset = self._dataset_result(place, triples)
            model = self._tuned(triples, self._study.steps(place.size))
        scores = self._scores(place.arm.name, model)
        return Cell(
            arm=place.arm.name,
            random_seed=place.random_seed,
            size=place.size,
            tasks=scores.tasks,
            dataset=dataset,
            policy=policy,
            answers=self._opinion_of(scores),
            seconds=round(time.monotonic() - started, 2),
        )

    @property
    def _base(self) -> ModelRef:
        return self._study.material.base

    def _session(self, model: ModelRef) -> Any:
        return open_generator(model, self._device, self._store, self._study.profile.generator)

    @cached_property
    def _prompts(self) -> list[InstancePrompt]:
        """The prompt of every instruction of the pool, the same for every policy."""
        with self._session(self._base) as session:
            return self._prompts_for(self._study.material.pool, session)

    def _prompts_for(
        self, instructions: Sequence[Row], session: GeneratorSession
    ) -> list[InstancePrompt]:
        return instance_prompts(
            instructions,
            self._study.material.seeds,
            session.backend.count_tokens,
            self._study.profile.instances,
            self._salt,
        )

    @cached_property
    def _order(self) -> list[int]:
        """Places in the pool in the order in which sizes take them."""
        return sorted(
            range(len(self._prompts)),
            key=lambda place: request_seed(
                self._salt, "size", self._prompts[place].instruction["instruction"]
            ),
        )

    @cached_property
    def _base_scores(self) -> list[Scores]:
        """The judge's scores of the base policy's valid instances: the scale of the rewards."""
        plain = feedback_of(self._judge, self._study.profile.reward)
        with self._session(self._base) as session:
            scored = self._answered(session, self._prompts, plain)
        return [one.scores for one in scored if one.scores is not None]

    def _feedback(self, profile: Profile) -> Feedback:
        return feedback_of(self._judge, profile.reward, self._base_scores)

    def _answered(
        self, session: GeneratorSession, prompts: Sequence[InstancePrompt], feedback: Feedback
    ) -> list[ScoredInstance]:
        requests = instance_requests(prompts, self._study.profile.instances, self._salt)
        return scored_answers(prompts, requests, session.complete, feedback)

    def _scored(self, arm: Arm) -> list[ScoredInstance]:
        """The instances that the arm's policy writes for the whole pool, scored by its rule."""
        if arm.name not in self._instances:
            profile = arm.profile(self._study.profile)
            model = self._base if arm.name == SELF_INSTRUCT else self._policy(arm)[0]
            feedback = self._feedback(profile)
            with self._session(model) as session:
                self._instances[arm.name] = self._answered(session, self._prompts, feedback)
        return self._instances[arm.name]

    @cached_property
    def _of_methods(self) -> dict[str, ScoredInstance]:
        """Instruction -> the base policy's instance, for all that the study's methods may have.

        An instance depends on the instruction's text and the random seed, not on the method.
        """
        shares = self._study.shares
        rows = {row["instruction"]: row for share in shares for row in share.instructions}
        feedback = self._feedback(self._study.profile)
        with self._session(self._base) as session:
            prompts = self._prompts_for(list(rows.values()), session)
            return dict(zip(rows, self._answered(session, prompts, feedback), strict=True))

    def _judged(self, place: Place) -> list[Judged]:
        """The instances that a cell may learn from."""
        if place.arm.method is not None:
            share = self._study.share(place.arm.method, place.size)
            made = [(row, self._of_methods[row["instruction"]]) for row in share.instructions]
            # Only a candidate that was evolved names the operation that made it.
            return [Judged(row["instruction"], one, "operation" in row) for row, one in made]
        scored = self._scored(place.arm)
        chosen = [(self._prompts[at].instruction, scored[at]) for at in self._order[: place.size]]
        return [Judged(row["instruction"], one, row["method"] == TEAMS_RL) for row, one in chosen]

    def _learnt_from(self, place: Place) -> list[Triple] | None:
        """The triples of a cell's dataset; None for the base arm, and where none is selected."""
        if place.arm.kind == "base":
            return None
        if place.arm.kind == "seeds_only":
            return [seed.triple for seed in self._study.material.seeds]
        judged = self._judged(place)
        verdicts = decide_instances(judged, self._study.profile.selection)
        triples = [
            Triple(one.instruction, one.scored.instance.input, one.scored.instance.output)
            for one, verdict in zip(judged, verdicts, strict=True)
            if verdict is None
        ]
        return triples or None

    def _dataset_result(self, place: Place, triples: Sequence[Triple]) -> DatasetResult:
        scores = self._judge.score(triples)
        return DatasetResult(
            rows=len(triples),
            format_valid=self._format_valid(place),
            parts={part: fmean(getattr(one, part) for one in scores) for part in PARTS},
            distinct_bigrams=distinct_bigrams([triple.output for triple in triples]),
        )

    def _format_valid(self, place: Place) -> float:
        if place.arm.kind == "seeds_only":
            return 1.0
        if place.arm.kind == "method":
            return fmean(one.scored.instance.format_valid for one in self._judged(place))
        return fmean(one.instance.format_valid for one in self._scored(place.arm))

    def _policy(self, arm: Arm) -> tuple[ModelRef, PolicyResult]:
        if arm.name not in self._policies:
            self._policies[arm.name] = self._train_policy(arm)
        return self._policies[arm.name]

    def _train_policy(self, arm: Arm) -> tuple[ModelRef, PolicyResult]:
        profile = arm.profile(self._study.profile)
        knobs = profile.reinforcement
        feedback = self._feedback(profile)
        pool = {one.instruction["instruction"]: one for one in self._prompts}
        training, held_out = held_out_split(pool, knobs.held_out_share, self._salt)
        measured = [pool[text] for text in held_out]
        before = self._rewards(self._base, measured, feedback, profile)
        manifest = {
            "arm": arm.name,
            "study": self._study.name,
            "salt": self._salt,
            "prompts": training,
        }
        asked = [PolicyPrompt.of(text, pool[text].prompt) for text in training]
        resume = self._checkpoints.resume_folder(POLICY, manifest)

        def train(out: Path) -> dict[str, Any]:
            started = time.monotonic()
            trained = train_policy(
                self._base,
                asked,
                feedback,
                knobs,
                profile.instances,
                out,
                self._device,
                self._salt,
                resume,
            )
            return {**asdict(trained), "seconds": round(time.monotonic() - started, 2)}

        checkpoint = self._checkpoints.train_or_reuse(POLICY, manifest, train)
        model = registered_policy(self._checkpoints, POLICY, checkpoint.content_hash, self._base)
        after = self._rewards(model, measured, feedback, profile)
        gain = paired_gain(before, after, salt=self._salt)
        record = checkpoint.record
        result = PolicyResult(
            steps=len(record["steps"]),
            ended_by=record["ended_by"],
            kl=record["steps"][-1]["kl"],
            reward_before=fmean(before),
            reward_after=fmean(after),
            gain=gain.mean,
            gain_low=gain.low,
            gain_high=gain.high,
            seconds=record["seconds"],
        )
        return model, result

    def _rewards(
        self,
        model: ModelRef,
        prompts: Sequence[InstancePrompt],
        feedback: Feedback,
        profile: Profile,
    ) -> list[float]:
        with self._session(model) as session:
            return mean_rewards(
                prompts,
                session.complete,
                feedback,
                profile.instances,
                profile.reinforcement.held_out_samples,
                self._salt,
            )

    def _tuned(self, triples: Sequence[Triple], steps: int) -> ModelRef:
        knobs = self._study.profile.supervised
        examples = sorted(triples, key=Triple.render)
        manifest = {
            "study": self._study.name,
            "salt": self._salt,
            "steps": steps,
            "examples": [example.render() for example in examples],
        }
        tune = partial(
            train_supervised,
            self._base,
            examples,
            knobs,
            steps,
            device=self._device,
            salt=self._salt,
        )
        checkpoint = self._checkpoints.train_or_reuse(
            TUNED, manifest, lambda out: asdict(tune(out=out))
        )
        return registered_policy(self._checkpoints, TUNED, checkpoint.content_hash, self._base)

    def _scores(self, arm: str, model: ModelRef) -> ArmScores:
        with self._session(model) as session:
            predictions = predict(
                session.complete,
                session.backend.cut,
                self._study.tasks,
                self._study.profile.evaluation,
            )
        return score(arm, self._study.tasks, predictions)

    def _opinion_of(self, scores: ArmScores) -> Mapping[str, float | None]:
        """How the judge's opinion of each answer goes with the answer's ROUGE-L."""
        tasks = {task.name: task for task in self._study.tasks}
        triples = [
            Triple(
                tasks[one.task].definition,
                tasks[one.task].instances[one.instance].input,
                one.prediction,
            )
            for one in scores.instances
        ]
        opinions = self._judge.score(triples)
        truth = [one.rouge_l for one in scores.instances]
        return {part: spearman([getattr(one, part) for one in opinions], truth) for part in PARTS}
