"""One random seed of a comparison, from the pool to the scores of every arm and size.

The same engine as the graph's assets: instances through a completions store, policies by
`train_policy`, fine-tuning by `train_supervised`, answers by the SUPER-NI protocol. A trial keeps a
store and checkpoints of its own, so it never writes into the home's warehouse, and what was asked
or trained before an interruption is not asked or trained again.

Runs a study, one process for each random seed, and shows how far it is.

Random seeds share nothing that is written, so they run side by side. A process that is interrupted
leaves its finished cells; the next run takes the others up.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
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
from refine_dagster.config.profile import Profile
from refine_dagster.config.registered import plug_ins_of
from refine_dagster.draws import held_out_split
from refine_dagster.errors import RefineError
from refine_dagster.evaluation.answers import ArmScores, predict, score
from refine_dagster.evaluation.diversity import distinct_bigrams
from refine_dagster.generation.completions import CompletionsStore
from refine_dagster.generation.session import GeneratorSession, open_generator
from refine_dagster.judge.judge import Judge, Scores
from refine_dagster.models.device import Device, device_session
from refine_dagster.models.language_model import ModelRef, registered_policy
from refine_dagster.prompts.example import Example
from refine_dagster.refine_af.feedback import Feedback, ScoredInstance, feedback_of, open_judge
from refine_dagster.refine_af.instances import (
    InstancePrompt,
    instance_prompts,
    instance_requests,
    mean_rewards,
    scored_answers,
)
from refine_dagster.refine_af.selection import Judged, decide_instances
from refine_dagster.seeding import request_seed
from refine_dagster.self_instruct.decisions import TEAMS_RL
from refine_dagster.statistics import paired_gain, spearman
from refine_dagster.training.reinforcement import PolicyPrompt, train_policy
from refine_dagster.training.sft import train_supervised
from refine_dagster.warehouse.checkpoints import CheckpointStore
from refine_dagster.warehouse.rows import Row
from refine_dagster.warehouse.warehouse import Warehouse

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
        with open_judge(study.material.judge, store, device, study.profile.judge) as judge:
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
        self._run_seed = f"{study.profile.run_seed}/comparison/{random_seed}"
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
        examples = self._learnt_from(place)
        started = time.monotonic()
        if place.arm.kind == "refined":
            policy = self._policy(place.arm)[1]
        # An arm that has nothing to learn from is the base model.
        if examples is not None:
            dataset = self._dataset_result(place, examples)
            model = self._tuned(examples, self._study.steps(place.size))
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
            self._run_seed,
        )

    @cached_property
    def _order(self) -> list[int]:
        """Places in the pool in the order in which sizes take them."""
        return sorted(
            range(len(self._prompts)),
            key=lambda place: request_seed(
                self._run_seed, "size", self._prompts[place].instruction["instruction"]
            ),
        )

    @cached_property
    def _unwhitened(self) -> Feedback:
        return feedback_of(self._judge, self._study.profile.reward)

    @cached_property
    def _base_scores(self) -> list[Scores]:
        """The judge's scores of the base policy's valid instances: the scale of the rewards."""
        with self._session(self._base) as session:
            scored = self._answered(session, self._prompts, self._unwhitened)
        return [one.scores for one in scored if one.scores is not None]

    def _feedback(self, profile: Profile) -> Feedback:
        return feedback_of(self._judge, profile.reward, self._base_scores)

    def _answered(
        self, session: GeneratorSession, prompts: Sequence[InstancePrompt], feedback: Feedback
    ) -> list[ScoredInstance]:
        requests = instance_requests(prompts, self._study.profile.instances, self._run_seed)
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

    def _learnt_from(self, place: Place) -> list[Example] | None:
        """The examples of a cell's dataset; None for the base arm, and where none is selected."""
        if place.arm.kind == "base":
            return None
        if place.arm.kind == "seeds_only":
            return [seed.example for seed in self._study.material.seeds]
        judged = self._judged(place)
        rejections = decide_instances(judged, self._study.profile.selection)
        examples = [
            Example(one.instruction, one.scored.instance.input, one.scored.instance.output)
            for one, rejection in zip(judged, rejections, strict=True)
            if rejection is None
        ]
        return examples or None

    def _dataset_result(self, place: Place, examples: Sequence[Example]) -> DatasetResult:
        judge = self._unwhitened.judge
        scores = judge.score(examples)
        return DatasetResult(
            rows=len(examples),
            format_valid=self._format_valid(place),
            parts={part.name: fmean(one[part.name] for one in scores) for part in judge.parts},
            distinct_bigrams=distinct_bigrams([example.output for example in examples]),
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
        config = profile.reinforcement
        feedback = self._feedback(profile)
        pool = {one.instruction["instruction"]: one for one in self._prompts}
        training, held_out = held_out_split(pool, config.held_out_share, self._run_seed)
        measured = [pool[text] for text in held_out]
        before = self._rewards(self._base, measured, feedback, profile)
        manifest = {
            "arm": arm.name,
            "study": self._study.name,
            "salt": self._run_seed,
            "prompts": training,
            **plug_ins_of(config),
        }
        asked = [PolicyPrompt.of(text, pool[text].prompt) for text in training]
        resume = self._checkpoints.resume_folder(POLICY, manifest)

        def train(out: Path) -> dict[str, Any]:
            started = time.monotonic()
            trained = train_policy(
                self._base,
                asked,
                feedback,
                config,
                profile.instances,
                out,
                self._device,
                self._run_seed,
                resume,
            )
            return {**trained.record(), "seconds": round(time.monotonic() - started, 2)}

        checkpoint = self._checkpoints.train_or_reuse(POLICY, manifest, train)
        model = registered_policy(self._checkpoints, POLICY, checkpoint.content_hash, self._base)
        after = self._rewards(model, measured, feedback, profile)
        gain = paired_gain(before, after, run_seed=self._run_seed)
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
                self._run_seed,
            )

    def _tuned(self, examples: Sequence[Example], steps: int) -> ModelRef:
        config = self._study.profile.supervised
        examples = sorted(examples, key=Example.render)
        manifest = {
            "study": self._study.name,
            "salt": self._run_seed,
            "steps": steps,
            "examples": [example.render() for example in examples],
        }
        tune = partial(
            train_supervised,
            self._base,
            examples,
            config,
            steps,
            device=self._device,
            run_seed=self._run_seed,
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
        examples = [
            Example(
                tasks[one.task].definition,
                tasks[one.task].instances[one.instance].input,
                one.prediction,
            )
            for one in scores.instances
        ]
        judge = self._unwhitened.judge
        opinions = judge.score(examples)
        truth = [one.rouge_l for one in scores.instances]
        return {
            part.name: spearman([one[part.name] for one in opinions], truth) for part in judge.parts
        }


POLL_S = 1.0


def run_study(study: Study, root: Path, workers: int = 1) -> list[Cell]:
    """Compute what is not there yet and return every cell of the study, in the plan's order.

    Args:
        root: comparisons' folder; the study's own is named by what its cells depend on.
        workers: processes at a time.

    Raises:
        RefineError: of the first trial that failed; finished cells stay.
    """
    folder = root / study.name
    cells = CellFolder(folder / CELLS)
    places = study.places()

    def done() -> int:
        return sum(cells.has(one.arm.name, one.random_seed, one.size) for one in places)

    told = done()
    with progress.task("comparison, cells", total=len(places)) as advance:
        advance(told)
        if told < len(places):
            # A forked child would inherit PyTorch's threads and locks.
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(workers, mp_context=context) as pool:
                running = {
                    pool.submit(_trial, study, number, folder)
                    for number in range(1, study.random_seeds + 1)
                }
                try:
                    while running:
                        finished, running = wait(running, POLL_S, FIRST_EXCEPTION)
                        now = done()
                        advance(now - told, seeds_running=min(workers, len(running)))
                        told = now
                        _raise_first(finished)
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    for process in multiprocessing.active_children():
                        process.terminate()
                    raise
    found = [cells.find(one.arm.name, one.random_seed, one.size) for one in places]
    return [cell for cell in found if cell is not None]


def _trial(study: Study, random_seed: int, folder: Path) -> int:
    """`run_trial` in a process of its own.

    Errors with arguments of their own do not survive the way back; their text does.
    """
    try:
        return run_trial(study, random_seed, folder)
    except RefineError as error:
        raise RefineError(str(error), where=f"random seed {random_seed}") from None


def _raise_first(finished: set[Future[int]]) -> None:
    for one in finished:
        one.result()
