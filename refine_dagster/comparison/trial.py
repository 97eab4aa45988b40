"""Runs a study: one process for each random seed, from the pool to the scores of every cell.

A trial runs the pipeline's stages with a completions store and checkpoints of its own, so it never
writes into the home's warehouse, and what was asked or trained before an interruption is not asked
or trained again. Random seeds share nothing that is written, so they run side by side.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from statistics import fmean

from refine_dagster import progress, stages
from refine_dagster.comparison.arms import SELF_INSTRUCT, Arm
from refine_dagster.comparison.held_out_seeds import seed_parts
from refine_dagster.comparison.policy_results import TimedCheckpoints, policy_result
from refine_dagster.comparison.study import (
    CellFolder,
    CellKey,
    CellResult,
    DatasetResult,
    Study,
)
from refine_dagster.config.learning import RewardConfig
from refine_dagster.errors import RefineError
from refine_dagster.evaluation.answers import ArmScores
from refine_dagster.evaluation.diversity import distinct_bigrams
from refine_dagster.generation.completions import CompletionsStore, open_generator
from refine_dagster.judge.judge import Judge, Scores
from refine_dagster.language import language_of
from refine_dagster.models.device import Device, device_session
from refine_dagster.prompts.example import Example, examples_of
from refine_dagster.refine_af.feedback import Feedback, feedback_of, needs_student, open_judge
from refine_dagster.refine_af.instances import WrittenInstance
from refine_dagster.refine_af.reward import OpenedPart
from refine_dagster.runtime import Lesson, Made, Model, Runtime, Trained
from refine_dagster.seeding import request_seed
from refine_dagster.statistics import spearman
from refine_dagster.warehouse.checkpoints import CheckpointStore
from refine_dagster.warehouse.rows import Row, frame, with_entries
from refine_dagster.warehouse.warehouse import Warehouse

CELLS = "cells"
POLL_S = 1.0
# Answers of which the best is taken.
ANSWERS_EACH = 8
INFLUENCE = "influence"
PAIRS = "rl_policy_checkpoint_pairs"


def run_study(study: Study, root: Path, workers: int = 1) -> list[CellResult]:
    """Compute what is not there yet and return every cell of the study, in the plan's order.

    Args:
        root: folder of all comparisons.
        workers: processes at a time.

    Raises:
        RefineError: of the first trial that failed; finished cells stay.
    """
    folder = root / study.name
    cells, keys = CellFolder(folder / CELLS), study.cell_keys()

    def done() -> int:
        return sum(cells.has(key) for key in keys)

    shown = done()
    with progress.task("comparison, cells", total=len(keys)) as advance:
        advance(shown)
        if shown < len(keys):
            # A forked child would inherit PyTorch's threads and locks.
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(workers, mp_context=context) as pool:
                running = {
                    pool.submit(_run_trial, study, number, folder)
                    for number in range(1, study.random_seeds + 1)
                }
                try:
                    while running:
                        finished, running = wait(running, POLL_S, FIRST_EXCEPTION)
                        now = done()
                        advance(now - shown, seeds_running=min(workers, len(running)))
                        shown = now
                        for trial in finished:
                            trial.result()
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    for process in multiprocessing.active_children():
                        process.terminate()
                    raise
    return [cells.read(key) for key in keys]


def _run_trial(study: Study, random_seed: int, folder: Path) -> int:
    """`run_trial` in a process of its own; only an error's text survives the way back."""
    try:
        return run_trial(study, random_seed, folder)
    except RefineError as error:
        raise RefineError(str(error), where=f"random seed {random_seed}") from None


def run_trial(study: Study, random_seed: int, folder: Path) -> int:
    """Compute the missing cells of one random seed in the study's folder, and count them."""
    cells = CellFolder(folder / CELLS)
    todo = [key for key in study.cell_keys(random_seed) if not cells.has(key)]
    if not todo:
        return 0
    profile, inputs = study.profile, study.inputs
    with (
        device_session(profile.device) as device,
        open_judge(
            inputs.judge,
            CheckpointStore(inputs.checkpoints),
            device,
            profile.judge,
            inputs.base.ref,
        ) as judge,
        ExitStack() as stack,
    ):
        of_seed = folder / f"seed_{random_seed}"
        trial = _Trial(study, random_seed, of_seed, device, judge, stack)
        for key in todo:
            progress.note(f"comparison: {key.arm.name}, seed {key.random_seed}, size {key.size}")
            cells.write(key, trial.cell(key))
    return len(todo)


class _Trial:
    """One random seed's work; models are loaded for as long as they are asked, and no longer."""

    def __init__(
        self,
        study: Study,
        random_seed: int,
        folder: Path,
        device: Device,
        judge: Judge,
        stack: ExitStack,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        warehouse = Warehouse(folder / "warehouse.duckdb")
        store = CompletionsStore(warehouse, f"comparison-{random_seed}")
        self._study = study
        self._inputs, self._profile = study.inputs, study.profile
        self._seeds = seed_parts(study.inputs.seeds, f"{study.profile.run_seed}/{random_seed}")
        self._judge, self._stack = judge, stack
        self._rows = folder / "rows"
        self._runtime = Runtime(
            run_seed=f"{study.profile.run_seed}/comparison/{random_seed}",
            language=language_of(study.profile.language),
            device=device,
            checkpoints=TimedCheckpoints(folder / "checkpoints", warehouse),
            generator=lambda ref: open_generator(ref, device, store, study.profile.generator),
        )
        self._written: dict[str, dict[str, WrittenInstance]] = {}
        self._policies: dict[str, Trained] = {}
        # Size -> answers to each question.
        self._groups: dict[int, list[list[WrittenInstance]]] = {}
        self._scales: dict[tuple[str, ...], list[Scores]] = {}
        # Scores what the judge scores, and the config's reward parts.
        self._unwhitened = self._unscaled(study.profile.reward)

    def cell(self, key: CellKey) -> CellResult:
        # What the arm learns from is made before the clock starts: other sizes share it.
        lesson = self._lesson(key)
        started = time.monotonic()
        # An arm that has nothing to learn from is the base model.
        model = self._inputs.base if lesson is None else self._tuned(key, lesson)
        scores = stages.score_arm(
            key.arm.name, model, self._study.tasks, self._profile.evaluation, self._runtime
        )
        return CellResult(
            arm=key.arm.name,
            random_seed=key.random_seed,
            size=key.size,
            tasks=scores.tasks,
            dataset=None if lesson is None else self._dataset(key, lesson),
            policy=policy_result(self._policy(key.arm)) if key.arm.kind == "refined" else None,
            answers=self._correlations(scores),
            losses=stages.measure_losses(
                model,
                self._study.tasks,
                self._seeds.calibration,
                self._profile.evaluation,
                self._runtime,
            ),
            seconds=round(time.monotonic() - started, 2),
        )

    def _lesson(self, key: CellKey) -> Lesson | None:
        """What a cell learns from; None for the base arm, and where nothing is selected."""
        if key.arm.kind == "base":
            return None
        if key.arm.kind == "seeds_only":
            return Lesson("seed_tasks", self._seeds.learned)
        policy = self._writer(key.arm)
        if key.arm.kind == "own_answers":
            chosen = self._own_answers
        else:
            written = self._instances(key.arm)
            chosen = [written[row["instruction"]] for row in self._instructions(key)]
        table, selection = "instance_decisions", self._profile.selection
        if key.arm.kind == "own_answers":
            # An end of the test bed: the judge has no say.
            selection = selection.model_copy(update={"keep_share": 1.0})
        if key.arm.criterion is not None:
            decided = self._select_best(key, chosen)
        else:
            decided = stages.select(table, chosen, policy, self._inputs.judge, selection)
        self._keep_rows(f"{key.arm.name}__size_{key.size}", table, decided.tables[table])
        kept = [row for row in decided.tables[table] if row["kept"]]
        return Lesson(table, kept) if kept else None

    def _instructions(self, key: CellKey) -> Sequence[Row]:
        if key.arm.method is not None:
            return self._study.share(key.arm.method, key.size).instructions
        return self._order[: key.size]

    @cached_property
    def _order(self) -> list[Row]:
        """The pool in the order in which sizes take from it."""
        run_seed = self._runtime.run_seed
        return sorted(
            self._inputs.pool, key=lambda row: request_seed(run_seed, "size", row["instruction"])
        )

    @cached_property
    def _start(self) -> Model:
        """The policy before any reward; the base model where `instances.start_steps` is 0."""
        base, profile = self._inputs.base, self._profile
        if not profile.instances.start_steps:
            return base
        learnt = self._seeds.learned, profile.instances, profile.supervised
        return stages.start_policy(base, *learnt, self._runtime).model

    def _writer(self, arm: Arm) -> Model:
        return self._policy(arm).model if arm.kind == "refined" else self._start

    def _instances(self, arm: Arm) -> dict[str, WrittenInstance]:
        """Instruction -> the arm's instance of it, for all that any of its cells may learn from.

        An instance depends on the instruction's text and the random seed, not on the method.
        """
        # The questions of the best answers are those of Self-Instruct.
        name = {"method": "method", "best": SELF_INSTRUCT}.get(arm.kind, arm.name)
        if name not in self._written:
            pool = self._inputs.pool
            if arm.kind == "method":
                rows = (row for share in self._study.shares for row in share.instructions)
                pool = tuple({row["instruction"]: row for row in rows}.values())
            self._written[name] = self._write(self._writer(arm), pool, self._feedback(arm))
        return self._written[name]

    def _write(
        self, policy: Model, pool: Sequence[Row], feedback: Feedback
    ) -> dict[str, WrittenInstance]:
        seeds, config = self._seeds.learned, self._profile.instances
        written = stages.write_instances(policy, pool, seeds, feedback, config, self._runtime)
        return {instance.prompt.instruction["instruction"]: instance for instance in written}

    def _select_best(self, key: CellKey, written: Sequence[WrittenInstance]) -> Made:
        assert key.arm.criterion is not None
        by_influence = key.arm.criterion == INFLUENCE
        if key.size not in self._groups:
            config, feedback = self._profile.instances, self._feedback(key.arm)
            self._groups[key.size] = stages.answer_again(
                self._start, written, feedback, config, ANSWERS_EACH, self._runtime
            )
        return stages.select_best(
            "instance_decisions",
            self._groups[key.size],
            key.arm.criterion,
            self._start,
            self._inputs.judge,
            self._profile.selection,
            self._runtime,
            self._opened[INFLUENCE] if by_influence else None,
        )

    def _keep_rows(self, name: str, table: str, rows: Sequence[Row]) -> None:
        """Write what an arm was decided on or learned from: rows with their values and parents."""
        self._rows.mkdir(exist_ok=True)
        path = self._rows / f"{name.replace('/', '-')}.parquet"
        with_entries(frame(table, rows)).write_parquet(path)

    @cached_property
    def _opened(self) -> dict[str, OpenedPart]:
        """The student of this random seed, loaded until its cells are done."""
        reward = self._profile.reward.model_copy(update={"preset": INFLUENCE})
        seeds = self._seeds
        opening = stages.opened_parts(
            self._inputs.base, seeds.learned, seeds.reference, reward, self._runtime
        )
        return self._stack.enter_context(opening)

    def _unscaled(self, reward: RewardConfig) -> Feedback:
        """The judge and the reward parts of a config; a student only where one is needed."""
        opened = self._opened if needs_student(reward) else {}
        return feedback_of(self._judge, reward.model_copy(update={"whiten": False}), (), opened)

    @cached_property
    def _own_answers(self) -> list[WrittenInstance]:
        """The base policy's answers to the seeds that arms learn from."""
        config = self._profile.instances
        learned = self._seeds.learned
        return stages.answer_seeds(self._start, learned, self._unwhitened, config, self._runtime)

    def _scale(self, reward: RewardConfig) -> list[Scores]:
        """The scores of the base policy's valid instances on a rule's parts: the rewards' scale."""
        feedback = self._unscaled(reward)
        parts = tuple(part.name for part in feedback.parts)
        if parts not in self._scales:
            written = self._write(self._start, self._inputs.pool, feedback)
            scores = (instance.scored.scores for instance in written.values())
            self._scales[parts] = [parts for parts in scores if parts is not None]
        return self._scales[parts]

    def _feedback(self, arm: Arm) -> Feedback:
        reward = arm.profile(self._profile).reward
        opened = self._opened if needs_student(reward) else {}
        scale = self._scale(reward) if reward.whiten else []
        return feedback_of(self._judge, reward, scale, opened)

    def _policy(self, arm: Arm) -> Trained:
        if arm.name not in self._policies:
            profile = arm.profile(self._profile)
            trained = stages.refine_policy(
                self._start,
                self._inputs.pool,
                self._seeds.learned,
                self._inputs.judge,
                self._feedback(arm),
                profile.reinforcement,
                profile.reward,
                profile.instances,
                self._runtime,
            )
            if pairs := trained.tables[PAIRS]:
                self._keep_rows(f"{arm.name}__pairs", PAIRS, pairs)
            self._policies[arm.name] = trained
        return self._policies[arm.name]

    def _tuned(self, key: CellKey, lesson: Lesson) -> Model:
        return stages.fine_tune(
            "fine_tuned_model",
            key.arm.name,
            self._inputs.base,
            lesson,
            self._study.steps(key.size),
            self._profile.supervised,
            self._runtime,
        ).model

    def _dataset(self, key: CellKey, lesson: Lesson) -> DatasetResult:
        examples = examples_of(lesson.rows)
        judge = self._unwhitened.judge
        scores = judge.score(examples)
        return DatasetResult(
            rows=len(examples),
            format_valid=self._format_valid(key),
            parts={part.name: fmean(row[part.name] for row in scores) for part in judge.parts},
            distinct_bigrams=distinct_bigrams([example.output for example in examples]),
        )

    def _format_valid(self, key: CellKey) -> float:
        if key.arm.kind == "seeds_only":
            return 1.0
        if key.arm.kind == "own_answers":
            return fmean(answer.scored.instance.format_valid for answer in self._own_answers)
        written = self._instances(key.arm)
        of_method = key.arm.kind == "method"
        texts = [row["instruction"] for row in self._instructions(key)] if of_method else written
        return fmean(written[text].scored.instance.format_valid for text in texts)

    def _correlations(self, scores: ArmScores) -> Mapping[str, float | None]:
        """How each part of the judge's scores of the answers goes with the answers' ROUGE-L."""
        tasks = {task.name: task for task in self._study.tasks}
        examples = [
            Example(
                tasks[answer.task].definition,
                tasks[answer.task].instances[answer.instance].input,
                answer.prediction,
            )
            for answer in scores.instances
        ]
        judge = self._unwhitened.judge
        judged = judge.score(examples)
        truth = [answer.rouge_l for answer in scores.instances]
        return {
            part.name: spearman([row[part.name] for row in judged], truth) for part in judge.parts
        }
