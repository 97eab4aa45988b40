"""The whole pipeline as one script: no Dagster, no DuckDB, no completions store, no ledger.

`overhead.py` runs it beside the graph. Every stage calls the engine's functions that the asset of
the same name calls, with the same arguments, so that its models come out byte for byte the same;
rows are lists of dicts, completions stay in a dict, and models are folders. What it leaves out is
what the overhead pays for: history, lineage, ledger, checks, marts, previews, and going on after a
kill. Rows still get their ids (`make_row`), since the engine's functions make them so;
`NamingRows` tells what that costs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refine_dagster.config.profile import Profile
from refine_dagster.draws import held_out_split
from refine_dagster.evaluation.answers import predict, score
from refine_dagster.evaluation.comparison import compare_arms
from refine_dagster.evaluation.super_ni import load_tasks
from refine_dagster.generation.request import Backend, Completion, Request
from refine_dagster.generation.session import GeneratorSession
from refine_dagster.generation.transformers_backend import TransformersBackend
from refine_dagster.judge.judge import PARTS, Judge, Scores, loaded_judge
from refine_dagster.judge.quality import judge_quality
from refine_dagster.judge.training import train_judge
from refine_dagster.models.device import Device, device_session
from refine_dagster.models.language_model import ModelRef, loaded_model, resolve_model, with_adapter
from refine_dagster.offline.base_model import train_base_model
from refine_dagster.privacy.audit import AuditedArm, AuditExample, audit_arms
from refine_dagster.prompts.example import Example
from refine_dagster.refine_af.feedback import Feedback, feedback_of
from refine_dagster.refine_af.instances import (
    InstancePrompt,
    Policy,
    dataset_rows,
    instance_prompts,
    mean_rewards,
    scored_instances,
    seed_examples,
)
from refine_dagster.seeds.readers import read_seeds
from refine_dagster.self_instruct.decisions import (
    Demonstration,
    InstructionDecider,
    filtered_rows,
    in_slot_order,
)
from refine_dagster.self_instruct.rounds import Proposer, propose
from refine_dagster.statistics import paired_gain
from refine_dagster.teams_rl.embedding import HashedEmbedding
from refine_dagster.teams_rl.evolution import evolve, model_evolver
from refine_dagster.teams_rl.evolved_rows import Origin, as_seeds, evolved_rows, seed_parts
from refine_dagster.teams_rl.instructor import InstructorTask, train_instructor, untrained_policy
from refine_dagster.teams_rl.learned_policy import InstructorPolicy, load_instructor
from refine_dagster.training.reinforcement import PolicyPrompt, train_policy
from refine_dagster.training.sft import steps_for, train_supervised
from refine_dagster.warehouse import rows as row_naming
from refine_dagster.warehouse.rows import Parent, Row

ME = Parent("plain", "0" * 32, "plain")


class NamingRows:
    """Counts what `make_row` costs, wherever the engine calls it."""

    def __init__(self) -> None:
        self.cpu_s = 0.0
        self.rows = 0
        self._named = row_naming.make_row
        for module in list(sys.modules.values()):
            if getattr(module, "make_row", None) is self._named:
                module.make_row = self  # type: ignore[attr-defined]

    def __call__(self, *given: Any) -> Row:
        begun = time.process_time()
        row = self._named(*given)
        self.cpu_s += time.process_time() - begun
        self.rows += 1
        return row


@dataclass
class Answers:
    """Completions in a dict: as in the graph, no model is asked the same thing twice."""

    known: dict[tuple[str, Request], Completion] = field(default_factory=dict)

    def complete(
        self, backend: Backend, requests: Sequence[Request], also: Sequence[str] = ()
    ) -> list[Completion]:
        keys = [(backend.fingerprint, request) for request in requests]
        todo = list(dict.fromkeys(key for key in keys if key not in self.known))
        for batch in backend.generate([request for _, request in todo]) if todo else ():
            self.known.update({todo[place]: completion for place, completion in batch})
        return [self.known[key] for key in keys]

    def key_of(self, fingerprint: str, request: Request) -> str:
        return request.key(fingerprint)


@dataclass
class PlainRun:
    """One run of a profile (of one policy round) into a folder."""

    profile: Profile
    folder: Path
    device: Device
    answers: Answers = field(default_factory=Answers)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Any:
        begun = time.process_time()
        yield
        self.seconds[name] = time.process_time() - begun

    @contextmanager
    def model(self, ref: ModelRef) -> Any:
        with loaded_model(ref, self.device) as loaded:
            backend = TransformersBackend(loaded, self.profile.generator.batch_size)
            yield GeneratorSession(backend, self.answers, ref.fingerprint)  # type: ignore[arg-type]

    def run(self) -> dict[str, str]:
        """Run every stage; name -> fingerprint of every model that was made."""
        profile, run_seed = self.profile, self.profile.run_seed
        with self.stage("seed_tasks"):
            made = [seed.row() for seed in read_seeds(profile.seeds.path).seeds]
            seeds = in_order([row_naming.make_row("seed_tasks", one) for one in made])
            of_seeds = examples_of(seeds)
        with self.stage("base_model"):
            learnt = of_seeds if profile.base_model.learn_seeds else []
            folder = self.folder / "base_model"
            train_base_model(learnt, profile.base_model, folder, self.device, run_seed)
            base = resolve_model(str(folder))
        with self.stage("feedback_judge"):
            folder = self.folder / "judge"
            train_judge(base, of_seeds, profile.judge, folder, self.device, run_seed)
            with loaded_judge(folder, self.device) as judge:
                judge_quality(judge, of_seeds, profile.judge, run_seed)
        pool = self.pool(seeds, base)
        with self.model(base) as session:
            count = session.backend.count_tokens
            prompts = instance_prompts(
                pool, seed_examples(seeds), count, profile.instances, run_seed
            )
        with loaded_judge(folder, self.device) as judge:
            with self.stage("reward_scored_instructions"):
                by_base = self.instances("reward_scored_instructions", base, prompts, judge, [])
                scale: list[Scores] = [
                    {part.name: row[part.name] for part in PARTS}
                    for row in in_order(by_base)
                    if row["format_valid"]
                ]
            with self.stage("rl_policy_checkpoint"):
                refined = self.refined(base, prompts, feedback_of(judge, profile.reward, scale))
            with self.stage("instruction_dataset"):
                decided = self.instances("instance_decisions", refined, prompts, judge, scale)
                dataset = in_order(dataset_rows(decided))
        sources = {
            "seeds_only": seeds,
            "self_instruct": [row for row in in_order(by_base) if row["kept"]],
            "refine_af": dataset,
        }
        with self.stage("fine_tuning"):
            steps = steps_for(len(pool), profile.supervised)
            tuned = {arm: self.tuned(base, arm, rows, steps) for arm, rows in sources.items()}
        arms = {arm: ref for arm, (ref, _) in tuned.items()}
        with self.stage("evaluation_report"):
            self.evaluate({"base": base, **arms})
        with self.stage("privacy_report"):
            audited = [
                AuditedArm(
                    arm,
                    [AuditExample(row["row_id"], example_of(row)) for row in rows],
                    steps=steps,
                    rows=tuned[arm][1],
                )
                for arm, rows in sources.items()
            ]
            audit_arms(base, audited, profile.privacy, profile.supervised, self.device, run_seed)
        refs = {"base": base, "policy": refined, **arms}
        return {name: ref.fingerprint for name, ref in refs.items()}

    def pool(self, seeds: list[Row], base: ModelRef) -> list[Row]:
        """Propose, evolve, decide: the accepted instructions, in slot order."""
        profile, run_seed = self.profile, self.profile.run_seed
        shown = [
            Demonstration("seed_tasks", row["row_id"], row["seed_id"], row["instruction"])
            for row in seeds
        ]
        with self.stage("raw_instructions"), self.model(base) as session:
            backend = session.backend
            proposer = Proposer(
                session.complete, backend.count_tokens, session.key_of, session.model, ME
            )
            proposed = propose(shown, proposer, profile.self_instruct, run_seed).rows
        evolved: list[Row] = []
        if profile.teams_rl.evolved_seeds:
            parts = seed_parts(seeds, profile.teams_rl, run_seed)
            with self.stage("instructor_policy"):
                policy = self.instructor(parts.training, base)
            with self.stage("evolved_instructions"), self.model(base) as session:
                evolver = model_evolver(session.complete, profile.teams_rl, run_seed)
                steps = evolve(as_seeds(parts.evolved), policy, evolver)
                origin = Origin(
                    parts.evolved, {"row_id": ME.row_id}, ME, session.model, session.key_of
                )
                evolved = evolved_rows(steps, origin, profile.teams_rl)
        with self.stage("instruction_decisions"):
            decider = InstructionDecider(shown, profile.self_instruct)
            decisions = decider.decide(by_slot(proposed))
            decisions += decider.decide_evolved(by_slot(evolved))
            return in_slot_order(in_order(filtered_rows(proposed, decisions, evolved=evolved)))

    def instructor(self, seeds: list[Row], base: ModelRef) -> InstructorPolicy:
        """The policy that chooses operations."""
        config, run_seed = self.profile.teams_rl, self.profile.run_seed
        if untrained := untrained_policy(config, run_seed):
            return untrained
        folder = self.folder / "instructor"
        folder.mkdir()
        embedding = HashedEmbedding(config.embedding_dimensions)
        with self.model(base) as session:
            evolver = model_evolver(session.complete, config, run_seed)
            train_instructor(
                InstructorTask(as_seeds(seeds), evolver, embedding, config, run_seed, folder)
            )
        return load_instructor(folder, embedding, run_seed)

    def instances(
        self,
        table: str,
        ref: ModelRef,
        prompts: list[InstancePrompt],
        judge: Judge,
        scale: list[Scores],
    ) -> list[Row]:
        """A policy's instance of every instruction, scored and decided on."""
        profile = self.profile
        with self.model(ref) as session:
            return scored_instances(
                table,
                prompts,
                Policy.of(session, ME),
                feedback_of(judge, profile.reward, scale),
                ME,
                profile.instances,
                profile.selection,
                profile.run_seed,
                whiten_by_own=not scale and profile.reward.whiten,
            )

    def refined(self, base: ModelRef, prompts: list[InstancePrompt], judge: Feedback) -> ModelRef:
        """The policy after reinforcement learning, measured before and after."""
        config, run_seed = self.profile.reinforcement, self.profile.run_seed
        by_text = {one.instruction["instruction"]: one for one in prompts}
        training, held_out = held_out_split(by_text, config.held_out_share, run_seed)
        asked = [PolicyPrompt.of(text, by_text[text].prompt) for text in training]
        measured = [by_text[text] for text in held_out]
        folder = self.folder / "policy"
        before = self.rewards(base, measured, judge)
        instances = self.profile.instances
        train_policy(base, asked, judge, config, instances, folder, self.device, run_seed)
        policy = with_adapter(base, folder)
        paired_gain(before, self.rewards(policy, measured, judge), run_seed=run_seed)
        return policy

    def rewards(self, ref: ModelRef, prompts: list[InstancePrompt], judge: Feedback) -> list[float]:
        """A policy's mean reward of each prompt."""
        samples = self.profile.reinforcement.held_out_samples
        with self.model(ref) as session:
            return mean_rewards(
                prompts,
                session.complete,
                judge,
                self.profile.instances,
                samples,
                self.profile.run_seed,
            )

    def tuned(self, base: ModelRef, arm: str, rows: list[Row], steps: int) -> tuple[ModelRef, int]:
        """The base model fine-tuned on an arm's rows, and how many of them were short enough."""
        folder = self.folder / arm
        config = self.profile.supervised
        done = train_supervised(
            base, examples_of(rows), config, steps, folder, self.device, self.profile.run_seed
        )
        return with_adapter(base, folder), done.rows

    def evaluate(self, arms: dict[str, ModelRef]) -> None:
        """Answer and score the held-out tasks, and compare the arms."""
        config = self.profile.evaluation
        tasks = load_tasks(config.tasks, config.max_instances, config.split)
        scores: dict[str, dict[str, float]] = {}
        for arm, ref in arms.items():
            with self.model(ref) as session:
                said = predict(session.complete, session.backend.cut, tasks, config)
            scores[arm] = {one.task: one.rouge_l for one in score(arm, tasks, said).tasks}
        samples, margin = config.bootstrap_samples, config.tie_margin
        compare_arms(scores, tie_margin=margin, samples=samples, run_seed=self.profile.run_seed)


def example_of(row: Row) -> Example:
    """The instruction, input and output of a row."""
    return Example(row["instruction"], row["input"], row["output"])


def examples_of(rows: list[Row]) -> list[Example]:
    """Examples in the order of their texts."""
    return sorted((example_of(row) for row in rows), key=Example.render)


def in_order(rows: list[Row]) -> list[Row]:
    """Rows by id."""
    return sorted(rows, key=lambda row: str(row["row_id"]))


def by_slot(rows: list[Row]) -> list[Row]:
    """Candidates in the order in which they are decided on."""
    return sorted(rows, key=lambda row: str(row["slot"]))


def plain_run(profile: Profile, folder: Path) -> dict[str, Any]:
    """Run a profile into an empty folder and tell what it came to.

    Returns:
        `models`: name -> fingerprint; `stages`: name -> CPU seconds; `naming_rows`: CPU seconds of
        `make_row`; `rows`: how many it named; `requests`: completions that models were asked for.
    """
    naming = NamingRows()
    with device_session(profile.device) as device:
        run = PlainRun(profile, folder, device)
        models = run.run()
    return {
        "models": models,
        "stages": run.seconds,
        "naming_rows": naming.cpu_s,
        "rows": naming.rows,
        "requests": len(run.answers.known),
    }
