"""The story that `docs/lineage.md` is told on: four seeds, one edit, one removal, two exports.

The pipeline's stages run on models that are made up (`fake_models.py`): what they write and how the
judge scores it is looked up here, and so is the clock. Ids, counts and digests of content are
therefore the same on every machine. Left out are the base policy's own instances, the baselines,
the evaluation and the SQL models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any
from unittest import mock

from refine_dagster import stages
from refine_dagster.config.dataset import InstanceConfig, SelectionConfig, SelfInstructConfig
from refine_dagster.config.learning import (
    JudgeConfig,
    ReinforcementConfig,
    RewardConfig,
    SupervisedConfig,
)
from refine_dagster.generation.completions import CompletionsStore
from refine_dagster.generation.request import Request
from refine_dagster.hashing import content_id
from refine_dagster.home import Home
from refine_dagster.judge.judge import Scores
from refine_dagster.lineage.export import export_dataset
from refine_dagster.models.language_model import ModelRef
from refine_dagster.prompts.example import Example
from refine_dagster.refine_af.feedback import Feedback
from refine_dagster.refine_af.reward import PRESETS
from refine_dagster.runtime import Lesson, Made, Runtime
from refine_dagster.seeds.readers import SeedFile
from refine_dagster.seeds.task import SeedInstance, SeedTask
from refine_dagster.warehouse import ledger
from refine_dagster.warehouse.ledger import Record
from refine_dagster.warehouse.rows import Parent, Row, frame, make_row
from refine_dagster.warehouse.warehouse import Warehouse
from tests.builders.fake_judge import FakeJudge, scores_of
from tests.builders.fake_models import FakeTraining, fake_models, fake_runtime

RUN_SEED = "c"
SEEDS = {
    "colour": ("Name a colour.", "", "red"),
    "fruit": ("Name a fruit.", "", "a pear"),
    "reverse": ("Put the list in reverse order.", "a, b, c", "c, b, a"),
    "words": ("Count the words of the sentence.", "I am here.", "3"),
}
EDITED = {**SEEDS, "colour": ("Name a colour of the sky.", "", "blue")}
WITHOUT = {name: example for name, example in EDITED.items() if name != "reverse"}

PROPOSING = SelfInstructConfig(
    target=8,
    requests_per_round=2,
    max_rounds=2,
    human_demonstrations=1,
    machine_demonstrations=1,
)
ANSWERING = InstanceConfig(demonstrations=1)
SELECTING = SelectionConfig(keep_share=0.75)
REFINING = ReinforcementConfig(steps=2, held_out_samples=1)
SMALL = ModelRef("models/small", content_id("fingerprint", "models/small"))
# asset -> (what it reads, its config)
GRAPH: Mapping[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "seed_tasks": ((), {}),
    "base_model": (("seed_tasks",), {"base_model": {"id": "models/small", "learn_seeds": False}}),
    "feedback_judge": (("seed_tasks", "base_model"), {"judge": {"kind": "offline"}}),
    "raw_instructions": (
        ("seed_tasks", "base_model"),
        {"self_instruct": PROPOSING.model_dump(mode="json")},
    ),
    "instruction_decisions": (
        ("raw_instructions", "seed_tasks"),
        {"self_instruct": PROPOSING.model_dump(mode="json")},
    ),
    "filtered_instructions": (("raw_instructions", "instruction_decisions"), {}),
    "rl_policy_checkpoint": (
        ("seed_tasks", "base_model", "feedback_judge", "filtered_instructions"),
        {"instances": ANSWERING.model_dump(mode="json"), "reinforcement": {"steps": 2}},
    ),
    "instruction_dataset": (
        (
            "seed_tasks",
            "base_model",
            "feedback_judge",
            "filtered_instructions",
            "rl_policy_checkpoint",
        ),
        {
            "instances": ANSWERING.model_dump(mode="json"),
            "selection": SELECTING.model_dump(mode="json"),
        },
    ),
    "fine_tuned_model": (("base_model", "instruction_dataset"), {"supervised": {"epochs": 3}}),
    "exports": (("instruction_dataset",), {}),
}

# The tasks shown -> what the model writes after them.
PROPOSALS: Mapping[tuple[str, ...], str] = {
    ("Count the words of the sentence.", "Name a fruit."): (
        " Name a vegetable that grows in the ground.\nTask 4: Name a green fruit."
    ),
    ("Count the words of the sentence.", "Put the list in reverse order."): (
        " Put the numbers in ascending order.\nTask 4: Draw a map of the town."
    ),
    ("Name a colour.", "Name a vegetable that grows in the ground."): (
        " Name an animal that sleeps in winter."
    ),
    ("Name a fruit.", "Put the numbers in ascending order."): " Sort the words by their length.",
    # After the edit of seed `colour`.
    ("Name a colour of the sky.", "Name a vegetable that grows in the ground."): (
        " Name a bird that cannot fly."
    ),
    # After the removal of seed `reverse`.
    ("Count the words of the sentence.", "Name a colour of the sky."): (
        " Write a sentence about the sea.\nTask 4: Draw a map of the sea."
    ),
    ("Name a fruit.", "Write a sentence about the sea."): " Write a greeting for a friend.",
}
# The instruction -> the policy's input and output, and how good the judge thinks they are.
ANSWERS: Mapping[str, tuple[str, str, float]] = {
    "Name a vegetable that grows in the ground.": ("", "a potato", 0.9),
    "Put the numbers in ascending order.": ("3, 1, 2", "1, 2, 3", 0.95),
    "Name an animal that sleeps in winter.": ("", "a dormouse", 0.8),
    "Name a bird that cannot fly.": ("", "a penguin", 0.85),
    "Sort the words by their length.": ("cat mouse ox", "ox mouse cat", 0.2),
    "Write a sentence about the sea.": ("", "The sea is deep.", 0.7),
    "Write a greeting for a friend.": ("", "Hello", 0.3),
}


def tell(home: Home) -> Warehouse:
    """The whole story in a new home: materializations 1 to 29."""
    story = Story(home)
    with mock.patch.object(ledger, "datetime", Clock()), story.warehouse.held():
        story.run("run-1", SEEDS)
        story.export("alpaca", "exports/dataset.json")
        story.run("run-2", EDITED)
        story.run("run-3", WITHOUT)
        story.export("messages", "exports/dataset.jsonl")
    return story.warehouse


class Clock:
    """Goes on by a second each time somebody looks."""

    def __init__(self) -> None:
        self._time = datetime(2026, 1, 5, 9, tzinfo=UTC)

    def now(self, zone: tzinfo) -> datetime:
        """The time."""
        self._time += timedelta(seconds=1)
        return self._time.astimezone(zone)


def write(model: ModelRef, request: Request) -> str:
    """What a model writes; without an adapter it answers no instruction in the format."""
    if request.role == "propose":
        lines = request.prompt.rpartition("\n\n")[2].splitlines()
        return PROPOSALS[tuple(line.partition(": ")[2] for line in lines[:-1])]
    instruction = request.prompt.rpartition("Instruction: ")[2].splitlines()[0]
    given, output, _ = ANSWERS[instruction]
    return f" {given or '<noinput>'}" + f"\nOutput: {output}" * bool(model.adapters)


def judged(example: Example) -> Scores:
    """The judge's scores."""
    quality = ANSWERS[example.instruction][2]
    return scores_of(quality, quality)


@dataclass
class Story:
    """Makes assets in a home, one run after another."""

    home: Home
    run_id: str = ""
    _exports: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.warehouse = Warehouse(self.home.warehouse)
        self._checkpoints = FakeTraining(self.home.checkpoints)
        self._store = CompletionsStore(self.warehouse, self.run_id)

    def run(self, run_id: str, tasks: Mapping[str, tuple[str, str, str]]) -> None:
        """One run of the graph: nine materializations."""
        self.run_id = run_id
        feedback = Feedback(FakeJudge(judged), PRESETS["refine_af"], -1.0)
        with fake_models(feedback.judge):
            self._run(tasks, feedback)

    def _run(self, tasks: Mapping[str, tuple[str, str, str]], feedback: Feedback) -> None:
        made = [SeedTask(name, name, task[0], (SeedInstance(*task[1:]),), False)
                for name, task in tasks.items()]  # fmt: skip
        seeds = self._commit("seed_tasks", stages.seed_rows(SeedFile(made, "", "", [])))
        base = stages.given_base(SMALL.path, SMALL)
        self._commit("base_model", base)
        trained = stages.train_judge(base.model, seeds, JudgeConfig(), self._runtime())
        [judge] = self._commit("feedback_judge", trained)
        proposed = stages.propose(base.model, seeds, PROPOSING, self._runtime())
        raw = self._commit("raw_instructions", proposed)
        decisions = self._commit("instruction_decisions", stages.decide(raw, [], seeds, PROPOSING))
        pool = self._commit("filtered_instructions", stages.accept(raw, [], decisions))
        refined = stages.refine_policy(
            base.model, pool, seeds, judge, feedback, REFINING, RewardConfig(), ANSWERING,
            self._runtime(),
        )  # fmt: skip
        self._commit("rl_policy_checkpoint", refined)
        policy, runtime = refined.model, self._runtime()
        written = stages.write_instances(policy, pool, seeds, feedback, ANSWERING, runtime)
        decided = stages.select("instance_decisions", written, policy, judge, SELECTING)
        dataset = self._commit("instruction_dataset", stages.keep(decided))
        lesson = Lesson("instruction_dataset", dataset)
        tuned = stages.fine_tune(
            "fine_tuned_model", "refine_af", base.model, lesson, 2, SupervisedConfig(),
            self._runtime(),
        )  # fmt: skip
        self._commit("fine_tuned_model", tuned)

    def export(self, format: Any, path: str) -> None:
        """`refine-dagster export`, but with a path relative to the home."""
        rows = self.warehouse.read("instruction_dataset")
        version = self.warehouse.data_version("instruction_dataset")
        written = export_dataset(rows, format, self.home.root / path, data_version=version)
        payload = {
            "path": path,
            "format": format,
            "sha256": written.sha256,
            "rows": written.rows,
            "data_version": version,
        }
        parents = [Parent("instruction_dataset", row_id, "exported") for row_id in rows["row_id"]]
        self.run_id = "export"
        row = make_row("exports", payload, parents)
        self._commit("exports", Made({"exports": [*self._exports, row]}))
        self._exports.append(row)

    def _runtime(self) -> Runtime:
        """For the next asset: what it asks is counted by itself."""
        self._store = CompletionsStore(self.warehouse, self.run_id)
        return fake_runtime(RUN_SEED, self._checkpoints, self._store, write)

    def _commit(self, asset: str, made: Made) -> list[Row]:
        """Commit an asset as a run would, and return its own rows."""
        read, config = GRAPH[asset]
        inputs = {name: self.warehouse.data_version(name) or "" for name in read}
        if asset == "base_model":
            inputs["file:model"] = SMALL.fingerprint
        config = {**config, "run_seed": RUN_SEED}
        config_hash = content_id("config", config)
        record = Record(
            asset=asset,
            run_id=self.run_id,
            code_version=f"1.{config_hash[:12]}",
            config_hash=config_hash,
            inputs=inputs,
            config=config,
            usage=self._store.usage,
            uses=self._store.uses,
        )
        self._store = CompletionsStore(self.warehouse, self.run_id)
        frames = {name: frame(name, rows) for name, rows in made.tables.items()}
        self.warehouse.commit(record, frames, made.checkpoints)
        return made.tables[asset]
