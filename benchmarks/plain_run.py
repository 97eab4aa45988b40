"""The stages as one script: no Dagster, no DuckDB, no completions store, no ledger.

`overhead.py` runs it beside the graph, and its models come out byte for byte the same. Rows are
lists of dicts, completions stay in a dict, and models are folders. What it leaves out is what the
overhead pays for: history, lineage, ledger, checks, marts, previews, and going on after a kill.
Rows still get their ids (`make_row`), since stages name them; `NamingRows` tells what that costs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refine_dagster import stages
from refine_dagster.config.profile import Profile
from refine_dagster.evaluation.diversity import HashedEmbedding
from refine_dagster.evaluation.super_ni import load_tasks
from refine_dagster.generation.completions import GeneratorSession
from refine_dagster.generation.request import Backend, Completion, Request
from refine_dagster.generation.transformers_backend import TransformersBackend
from refine_dagster.judge.judge import Judge, loaded_judge
from refine_dagster.models.device import device_session
from refine_dagster.models.language_model import ModelRef, loaded_model
from refine_dagster.refine_af.feedback import feedback_of
from refine_dagster.refine_af.instances import base_scores, rescaled
from refine_dagster.runtime import Lesson, Made, Model, Runtime
from refine_dagster.seeds.readers import read_seeds
from refine_dagster.teams_rl.instructor import untrained_policy
from refine_dagster.teams_rl.policies import InstructorPolicy, load_instructor
from refine_dagster.training.sft import steps_for
from refine_dagster.warehouse import rows as row_naming
from refine_dagster.warehouse.checkpoints import Checkpoint
from refine_dagster.warehouse.rows import Row


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
class Folders:
    """Checkpoints as plain folders: nothing is hashed, and nothing is found again."""

    root: Path
    made: int = 0

    def train_or_reuse(
        self, asset: str, manifest: Mapping[str, Any], train: Callable[[Path], dict[str, Any]]
    ) -> Checkpoint:
        self.made += 1
        name = f"{asset}_{self.made}"
        folder = self.root / name
        folder.mkdir()
        return Checkpoint(asset, name, manifest, name, folder, name, {}, train(folder), False)

    def resume_folder(self, asset: str, manifest: Mapping[str, Any]) -> None:
        return None


@dataclass
class PlainRun:
    """One run of a profile (of one policy round)."""

    profile: Profile
    runtime: Runtime
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        begun = time.process_time()
        yield
        self.seconds[name] = time.process_time() - begun

    def run(self) -> dict[str, str]:
        """Run every stage; name -> fingerprint of every model that was made."""
        profile, runtime = self.profile, self.runtime
        with self.stage("seed_tasks"):
            seeds = first(stages.seed_rows(read_seeds(profile.seeds.path)))
        with self.stage("base_model"):
            base = stages.train_base(seeds, profile.base_model, runtime).model
        with self.stage("feedback_judge"):
            judged = stages.train_judge(base, seeds, profile.judge, runtime)
        pool = self.pool(seeds, base)
        with loaded_judge(judged.checkpoints[0].path, runtime.device, base.ref) as judge:
            refined, lessons = self.lessons(base, seeds, pool, judge, first(judged)[0])
        arms = {}
        with self.stage("fine_tuning"):
            steps = steps_for(len(pool), profile.supervised)
            for arm, lesson in lessons.items():
                arms[arm] = stages.fine_tune(
                    "fine_tuned_model", arm, base, lesson, steps, profile.supervised, runtime
                ).model
        with self.stage("evaluation_report"):
            config = profile.evaluation
            tasks = load_tasks(config.tasks, config.max_instances, config.split)
            stages.evaluate({"base": base, **arms}, tasks, config, runtime)
        with self.stage("privacy_report"):
            audited = {arm: (lessons[arm], model) for arm, model in arms.items()}
            stages.audit_privacy(base, audited, profile.privacy, profile.supervised, runtime)
        models = {"base": base, "policy": refined, **arms}
        return {name: model.ref.fingerprint for name, model in models.items()}

    def pool(self, seeds: list[Row], base: Model) -> list[Row]:
        """Propose, evolve, decide: the accepted instructions."""
        profile, runtime = self.profile, self.runtime
        with self.stage("raw_instructions"):
            proposed = first(stages.propose(base, seeds, profile.self_instruct, runtime))
        evolved: list[Row] = []
        if profile.teams_rl.evolved_seeds:
            with self.stage("instructor_policy"):
                row, policy = self.instructor(seeds, base)
            with self.stage("evolved_instructions"):
                made = stages.evolve(base, row, policy, seeds, profile.teams_rl, runtime)
                evolved = first(made)
        with self.stage("instruction_decisions"):
            decisions = first(stages.decide(proposed, evolved, seeds, profile.self_instruct))
            return first(stages.accept(proposed, evolved, decisions))

    def instructor(self, seeds: list[Row], base: Model) -> tuple[Row, InstructorPolicy]:
        """The policy that chooses operations, and its row."""
        config, run_seed = self.profile.teams_rl, self.runtime.run_seed
        policy = untrained_policy(config, run_seed)
        made = stages.untrained_instructor(config, run_seed)
        if made is None:
            made = stages.train_instructor(
                base, seeds, config, self.profile.generator, self.runtime
            )
            embedding = HashedEmbedding(config.embedding_dimensions)
            policy = load_instructor(made.checkpoints[0].path, embedding, run_seed)
        assert policy is not None
        return first(made)[0], policy

    def lessons(
        self, base: Model, seeds: list[Row], pool: list[Row], judge: Judge, judge_row: Row
    ) -> tuple[Model, dict[str, Lesson]]:
        """The refined policy, and what each arm learns from."""
        profile, runtime = self.profile, self.runtime
        config, selection = profile.instances, profile.selection
        with self.stage("reward_scored_instructions"):
            table, plain = "reward_scored_instructions", feedback_of(judge, profile.reward)
            written = stages.write_instances(base, pool, seeds, plain, config, runtime)
            written = rescaled(written, plain) if profile.reward.whiten else written
            by_base = first(stages.select(table, written, base, judge_row, selection))
        feedback = feedback_of(judge, profile.reward, base_scores(by_base))
        with self.stage("rl_policy_checkpoint"):
            refined = stages.refine_policy(
                base,
                pool,
                seeds,
                judge_row,
                feedback,
                profile.reinforcement,
                profile.reward,
                config,
                runtime,
            ).model
        with self.stage("instruction_dataset"):
            written = stages.write_instances(refined, pool, seeds, feedback, config, runtime)
            decided = stages.select("instance_decisions", written, refined, judge_row, selection)
            dataset = first(stages.keep(decided))
        return refined, {
            "seeds_only": Lesson("seed_tasks", seeds),
            "self_instruct": Lesson(table, [row for row in by_base if row["kept"]]),
            "refine_af": Lesson("instruction_dataset", dataset),
        }


def first(made: Made) -> list[Row]:
    """The rows of a stage's own table."""
    return next(iter(made.tables.values()))


def plain_run(profile: Profile, folder: Path) -> dict[str, Any]:
    """Run a profile into an empty folder and tell what it came to.

    Returns:
        `models`: name -> fingerprint; `stages`: name -> CPU seconds; `naming_rows`: CPU seconds of
        `make_row`; `rows`: how many it named; `requests`: completions that models were asked for.
    """
    naming, answers = NamingRows(), Answers()
    with device_session(profile.device) as device:

        @contextmanager
        def generator(ref: ModelRef) -> Iterator[GeneratorSession]:
            with loaded_model(ref, device) as loaded:
                backend = TransformersBackend(loaded, profile.generator.batch_size)
                yield GeneratorSession(backend, answers, ref.fingerprint)  # type: ignore[arg-type]

        run = PlainRun(profile, Runtime(profile.run_seed, device, Folders(folder), generator))
        models = run.run()
    return {
        "models": models,
        "stages": run.seconds,
        "naming_rows": naming.cpu_s,
        "rows": naming.rows,
        "requests": len(answers.known),
    }
