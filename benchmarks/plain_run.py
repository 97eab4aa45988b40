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
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from refine_dagster.device import Device, device_session
from refine_dagster.evaluation.answers import predict, score
from refine_dagster.evaluation.comparison import compare_arms
from refine_dagster.evaluation.privacy_audit import AuditedArm, audit_arms
from refine_dagster.evaluation.privacy_split import Example
from refine_dagster.evaluation.super_ni import load_tasks
from refine_dagster.generation.request import Backend, Completion, Request
from refine_dagster.generation.session import GeneratorSession
from refine_dagster.generation.transformers_backend import TransformersBackend
from refine_dagster.language_model import ModelRef, loaded_model, resolve_model, with_adapter
from refine_dagster.lineage import rows as row_naming
from refine_dagster.lineage.rows import Parent, Row
from refine_dagster.profile import Profile
from refine_dagster.refine_af.feedback import Feedback
from refine_dagster.refine_af.gain import mean_rewards
from refine_dagster.refine_af.instance_prompt import Triple
from refine_dagster.refine_af.instances import (
    InstancePrompt,
    Policy,
    dataset_rows,
    instance_prompts,
    scored_instances,
    seed_triples,
)
from refine_dagster.refine_af.judge import Judge, Scores, loaded_judge
from refine_dagster.refine_af.judge_quality import judge_quality
from refine_dagster.refine_af.judge_training import train_judge
from refine_dagster.refine_af.lent_judge import feedback_of
from refine_dagster.seeds.readers import read_seeds
from refine_dagster.self_instruct.decisions import (
    Demonstration,
    InstructionDecider,
    filtered_rows,
    in_slot_order,
)
from refine_dagster.self_instruct.rounds import Proposer, propose
from refine_dagster.teams_rl.embedding import HashedEmbedding
from refine_dagster.teams_rl.evolution import evolve, model_evolver
from refine_dagster.teams_rl.evolved_rows import Origin, as_seeds, evolved_rows, seed_parts
from refine_dagster.teams_rl.instructor import InstructorTask, train_instructor, untrained_policy
from refine_dagster.teams_rl.learned_policy import load_instructor
from refine_dagster.teams_rl.policies import InstructorPolicy
from refine_dagster.training.base_model import train_base_model
from refine_dagster.training.policy_gain import held_out_split, paired_gain
from refine_dagster.training.reinforcement import PolicyPrompt, train_policy
from refine_dagster.training.supervised import steps_for, train_supervised

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
        profile, salt = self.profile, self.profile.salt
        with self.stage("seed_tasks"):
            made = [seed.row() for seed in read_seeds(profile.seeds.path).seeds]
            seeds = in_order([row_naming.make_row("seed_tasks", one) for one in made])
            of_seeds = triples(seeds)
        with self.stage("base_model"):
            learnt = of_seeds if profile.base_model.learn_seeds else []
            folder = self.folder / "base_model"
            train_base_model(learnt, profile.base_model, folder, self.device, salt)
            base = resolve_model(str(folder))
        with self.stage("feedback_judge"):
            folder = self.folder / "judge"
            train_judge(base, of_seeds, profile.judge, folder, self.device, salt)
            with loaded_judge(folder, self.device) as judge:
                judge_quality(judge, of_seeds, profile.judge, salt)
        pool = self.pool(seeds, base)
        with self.model(base) as session:
            count = session.backend.count_tokens
            prompts = instance_prompts(pool, seed_triples(seeds), count, profile.instances, salt)
        with loaded_judge(folder, self.device) as judge:
            with self.stage("reward_scored_instructions"):
                by_base = self.instances("reward_scored_instructions", base, prompts, judge, [])
                names = [one.name for one in fields(Scores)]
                scale = [
                    Scores(**{name: row[name] for name in names})
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
                    [Example(row["row_id"], triple_of(row)) for row in rows],
                    steps=steps,
                    rows=tuned[arm][1],
                )
                for arm, rows in sources.items()
            ]
            audit_arms(base, audited, profile.privacy, profile.supervised, self.device, salt)
        refs = {"base": base, "policy": refined, **arms}
        return {name: ref.fingerprint for name, ref in refs.items()}

    def pool(self, seeds: list[Row], base: ModelRef) -> list[Row]:
        """Propose, evolve, decide: the accepted instructions, in slot order."""
        profile, salt = self.profile, self.profile.salt
        shown = [
            Demonstration("seed_tasks", row["row_id"], row["seed_id"], row["instruction"])
            for row in seeds
        ]
        with self.stage("raw_instructions"), self.model(base) as session:
            backend = session.backend
            proposer = Proposer(
                session.complete, backend.count_tokens, session.key_of, session.model, ME
            )
            proposed = propose(shown, proposer, profile.self_instruct, salt).rows
        evolved: list[Row] = []
        if profile.teams_rl.evolved_seeds:
            parts = seed_parts(seeds, profile.teams_rl, salt)
            with self.stage("instructor_policy"):
                policy = self.instructor(parts.training, base)
            with self.stage("evolved_instructions"), self.model(base) as session:
                evolver = model_evolver(session.complete, profile.teams_rl, salt)
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
        knobs, salt = self.profile.teams_rl, self.profile.salt
        if untrained := untrained_policy(knobs, salt):
            return untrained
        folder = self.folder / "instructor"
        folder.mkdir()
        embedding = HashedEmbedding(knobs.embedding_dimensions)
        with self.model(base) as session:
            evolver = model_evolver(session.complete, knobs, salt)
            train_instructor(
                InstructorTask(as_seeds(seeds), evolver, embedding, knobs, salt, folder)
            )
        return load_instructor(folder, embedding, salt)

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
                profile.salt,
                whiten_by_own=not scale and profile.reward.whiten,
            )

    def refined(self, base: ModelRef, prompts: list[InstancePrompt], judge: Feedback) -> ModelRef:
        """The policy after reinforcement learning, measured before and after."""
        knobs, salt = self.profile.reinforcement, self.profile.salt
        by_text = {one.instruction["instruction"]: one for one in prompts}
        training, held_out = held_out_split(by_text, knobs.held_out_share, salt)
        asked = [PolicyPrompt.of(text, by_text[text].prompt) for text in training]
        measured = [by_text[text] for text in held_out]
        folder = self.folder / "policy"
        before = self.rewards(base, measured, judge)
        instances = self.profile.instances
        train_policy(base, asked, judge, knobs, instances, folder, self.device, salt)
        policy = with_adapter(base, folder)
        paired_gain(before, self.rewards(policy, measured, judge), salt=salt)
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
                self.profile.salt,
            )

    def tuned(self, base: ModelRef, arm: str, rows: list[Row], steps: int) -> tuple[ModelRef, int]:
        """The base model fine-tuned on an arm's rows, and how many of them were short enough."""
        folder = self.folder / arm
        knobs = self.profile.supervised
        done = train_supervised(
            base, triples(rows), knobs, steps, folder, self.device, self.profile.salt
        )
        return with_adapter(base, folder), done.rows

    def evaluate(self, arms: dict[str, ModelRef]) -> None:
        """Answer and score the held-out tasks, and compare the arms."""
        knobs = self.profile.evaluation
        tasks = load_tasks(knobs.tasks, knobs.max_instances, knobs.split)
        scores: dict[str, dict[str, float]] = {}
        for arm, ref in arms.items():
            with self.model(ref) as session:
                said = predict(session.complete, session.backend.cut, tasks, knobs)
            scores[arm] = {one.task: one.rouge_l for one in score(arm, tasks, said).tasks}
        samples, margin = knobs.bootstrap_samples, knobs.tie_margin
        compare_arms(scores, tie_margin=margin, samples=samples, salt=self.profile.salt)


def triple_of(row: Row) -> Triple:
    """The instruction, input and output of a row."""
    return Triple(row["instruction"], row["input"], row["output"])


def triples(rows: list[Row]) -> list[Triple]:
    """Triples in the order of their texts."""
    return sorted((triple_of(row) for row in rows), key=Triple.render)


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
