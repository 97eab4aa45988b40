"""The story that `docs/lineage.md` is told on: four seeds, one edit, one removal, two exports.

Everything is the project's own code, from the draws to the decisions, but for the models: what a
model writes, how a judge scores and what training leaves are looked up here, and the clock is made
up. Ids, counts and digests of content are therefore the same on every machine. Left out are the
base policy's own instances, the baselines, the evaluation and the SQL models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from refine_dagster.config.dataset import InstanceConfig, SelectionConfig, SelfInstructConfig
from refine_dagster.draws import held_out_split
from refine_dagster.generation.completions import CompletionsStore
from refine_dagster.generation.request import Completion, Request
from refine_dagster.generation.session import GeneratorSession
from refine_dagster.hashing import content_id
from refine_dagster.home import Home
from refine_dagster.judge.judge import PARTS, Part, Scores
from refine_dagster.lineage.export import export_dataset
from refine_dagster.prompts.example import Example
from refine_dagster.refine_af.feedback import Feedback
from refine_dagster.refine_af.instances import (
    InstancePrompt,
    SeedTriple,
    dataset_rows,
    decision_rows,
    instance_prompts,
    write_instances,
)
from refine_dagster.refine_af.reward import PRESETS
from refine_dagster.self_instruct.decisions import (
    Demonstration,
    InstructionDecider,
    filtered_rows,
)
from refine_dagster.self_instruct.rounds import Proposer, propose
from refine_dagster.warehouse import ledger
from refine_dagster.warehouse.checkpoints import Checkpoint, CheckpointStore
from refine_dagster.warehouse.ledger import Commit, Record
from refine_dagster.warehouse.rows import Parent, Row, frame, make_row
from refine_dagster.warehouse.warehouse import Warehouse
from tests.fake_judges import scores_of

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
    with mock.patch.object(ledger, "datetime", Clock()):
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


@dataclass
class ScriptedModel:
    """A backend that looks its answers up."""

    fingerprint: str
    name: str = "script"

    def generate(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, Completion]]]:
        """All answers in one batch; a word is a token."""
        yield [
            (place, Completion(text, "stop", len(request.prompt.split()), len(text.split())))
            for place, request in enumerate(requests)
            for text in [self._answer(request)]
        ]

    def count_tokens(self, text: str) -> int:
        """Words."""
        return len(text.split())

    def cut(self, text: str, max_tokens: int) -> str:
        """The first words."""
        return " ".join(text.split()[:max_tokens])

    def _answer(self, request: Request) -> str:
        if request.role == "propose":
            lines = request.prompt.rpartition("\n\n")[2].splitlines()
            return PROPOSALS[tuple(line.partition(": ")[2] for line in lines[:-1])]
        instruction = request.prompt.rpartition("Instruction: ")[2].splitlines()[0]
        given, output, _ = ANSWERS[instruction]
        return f" {given or '<noinput>'}\nOutput: {output}"


@dataclass
class ScriptedJudge:
    """A judge whose four scores are looked up."""

    fingerprint: str
    parts: tuple[Part, ...] = PARTS

    def score(self, examples: Sequence[Example]) -> list[Scores]:
        """Scores by instruction."""
        found = [ANSWERS[example.instruction][2] for example in examples]
        return [scores_of(quality, quality) for quality in found]


@dataclass
class Story:
    """Makes assets in a home, one run after another."""

    home: Home
    run_id: str = ""
    live: dict[str, list[Row]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.warehouse = Warehouse(self.home.warehouse)
        self.checkpoints = CheckpointStore(self.home.checkpoints)

    def run(self, run_id: str, seeds: Mapping[str, tuple[str, str, str]]) -> None:
        """One run of the graph: nine materializations."""
        self.run_id = run_id
        self._commit("seed_tasks", seed_tasks=[_seed(name, *seeds[name]) for name in seeds])
        self._base_model()
        self._feedback_judge()
        self._instructions()
        self._rl_policy_checkpoint()
        self._instruction_dataset()
        self._fine_tuned_model()

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
        self._commit("exports", exports=[*self.live.get("exports", []), row])

    def _base_model(self) -> None:
        payload = {
            "model": "models/small",
            "revision": None,
            "fingerprint": content_id("fingerprint", "models/small"),
            "parameters": 1_000_000,
            "vocab_size": 2000,
            "context_length": 512,
            "checkpoint_hash": None,
        }
        self._commit(
            "base_model",
            base_model=[make_row("base_model", payload)],
            base_model_steps=[],
        )

    def _feedback_judge(self) -> None:
        learnt = [row["instruction"] for row in self.live["seed_tasks"]]
        checkpoint = self._trained("feedback_judge", learnt)
        payload = {
            "kind": "offline",
            "fingerprint": content_id("fingerprint", checkpoint.content_hash),
            "checkpoint_hash": checkpoint.content_hash,
            "held_out_examples": 4,
        }
        parents = [*self._all("base_model", "backbone"), *self._all("seed_tasks", "trained_on")]
        self._commit(
            "feedback_judge",
            checkpoint=checkpoint,
            feedback_judge=[make_row("feedback_judge", payload, parents)],
            feedback_judge_accuracy=[],
            feedback_judge_quality=[],
            feedback_judge_calibration=[],
        )

    def _instructions(self) -> None:
        (base,) = self.live["base_model"]
        model, store = ScriptedModel(base["fingerprint"]), self._store()
        (generator,) = self._all("base_model", "generator")
        seeds = [
            Demonstration("seed_tasks", row["row_id"], row["seed_id"], row["instruction"])
            for row in self.live["seed_tasks"]
        ]
        proposer = Proposer(
            partial(store.complete, model),
            model.count_tokens,
            partial(store.key_of, model.fingerprint),
            model.fingerprint,
            generator,
        )
        candidates = propose(seeds, proposer, PROPOSING, RUN_SEED).rows
        self._commit("raw_instructions", store=store, raw_instructions=candidates)
        decisions = InstructionDecider(seeds, PROPOSING).decide(candidates)
        self._commit("instruction_decisions", instruction_decisions=decisions)
        accepted = filtered_rows(candidates, decisions)
        self._commit("filtered_instructions", filtered_instructions=accepted)

    def _rl_policy_checkpoint(self) -> None:
        prompts = {one.instruction["instruction"]: one for one in self._prompts()}
        training, held_out = held_out_split(prompts, 0.25, RUN_SEED)
        checkpoint = self._trained(
            "rl_policy_checkpoint", [prompts[name].prompt for name in training]
        )
        payload = {
            "policy": content_id("fingerprint", checkpoint.content_hash),
            "algorithm": "grpo",
            "preset": "refine_af",
            "checkpoint_hash": checkpoint.content_hash,
            "steps": 2,
            "held_out_prompts": len(held_out),
            "reward_before": 0.0,
            "reward_after": 0.5,
            "gain": 0.5,
            "gain_low": 0.25,
            "gain_high": 0.75,
        }
        parents = [
            *self._all("base_model", "base"),
            *self._all("feedback_judge", "judge"),
            *(_instruction(prompts[name], "trained_on") for name in training),
            *(_instruction(prompts[name], "measured_on") for name in held_out),
            *(
                Parent("seed_tasks", seed.row_id, "demonstration")
                for one in prompts.values()
                for seed in one.shown
            ),
        ]
        self._commit(
            "rl_policy_checkpoint",
            checkpoint=checkpoint,
            rl_policy_checkpoint=[make_row("rl_policy_checkpoint", payload, parents)],
            rl_policy_checkpoint_steps=[],
        )

    def _instruction_dataset(self) -> None:
        (refined,), (judge,) = self.live["rl_policy_checkpoint"], self.live["feedback_judge"]
        model, store = ScriptedModel(refined["policy"]), self._store()
        session = GeneratorSession(model, store, model.fingerprint)
        feedback = Feedback(ScriptedJudge(judge["fingerprint"]), PRESETS["refine_af"], -1.0)
        written = write_instances(self._prompts(), session, feedback, ANSWERING, RUN_SEED)
        made_by = [
            *self._all("feedback_judge", "judge"),
            *self._all("rl_policy_checkpoint", "policy"),
        ]
        decisions = decision_rows("instance_decisions", written, made_by, SELECTING)
        self._commit(
            "instruction_dataset",
            store=store,
            instruction_dataset=dataset_rows(decisions),
            instance_decisions=decisions,
        )

    def _fine_tuned_model(self) -> None:
        rows = self.live["instruction_dataset"]
        checkpoint = self._trained("fine_tuned_model", [row["output"] for row in rows])
        payload = {
            "arm": "refine_af",
            "fingerprint": content_id("fingerprint", checkpoint.content_hash),
            "checkpoint_hash": checkpoint.content_hash,
            "rows": len(rows),
            "steps": 3,
            "loss_first": 2.5,
            "loss_last": 1.5,
        }
        parents = [
            *self._all("base_model", "base"),
            *self._all("instruction_dataset", "trained_on"),
        ]
        self._commit(
            "fine_tuned_model",
            checkpoint=checkpoint,
            fine_tuned_model=[make_row("fine_tuned_model", payload, parents)],
            fine_tuned_model_steps=[],
        )

    def _prompts(self) -> list[InstancePrompt]:
        seeds = [
            SeedTriple(
                row["row_id"],
                row["seed_id"],
                Example(row["instruction"], row["input"], row["output"]),
            )
            for row in self.live["seed_tasks"]
        ]
        count = ScriptedModel("").count_tokens
        return instance_prompts(
            self.live["filtered_instructions"], seeds, count, ANSWERING, RUN_SEED
        )

    def _trained(self, asset: str, learnt: Sequence[str]) -> Checkpoint:
        """A checkpoint whose only weight is the hash of what it learnt."""

        def train(out: Path) -> dict[str, Any]:
            weights = content_id("weights", asset, list(learnt))
            (out / "adapter.safetensors").write_text(weights, encoding="utf-8")
            return {"rows": len(learnt)}

        return self.checkpoints.train_or_reuse(asset, {"learnt": list(learnt)}, train)

    def _store(self) -> CompletionsStore:
        return CompletionsStore(self.warehouse, self.run_id)

    def _all(self, table: str, role: str) -> list[Parent]:
        return [Parent(table, row["row_id"], role) for row in self.live[table]]

    def _commit(
        self,
        asset: str,
        *,
        store: CompletionsStore | None = None,
        checkpoint: Checkpoint | None = None,
        **tables: list[Row],
    ) -> Commit:
        """Commit an asset as a run would: an asset whose inputs are as they were stands."""
        read, config = GRAPH[asset]
        inputs = {name: self.warehouse.data_version(name) or "" for name in read}
        if asset == "base_model":
            inputs["file:model"] = content_id("fingerprint", "models/small")
        config = {**config, "salt": RUN_SEED}
        config_hash = content_id("config", config)
        record = Record(
            asset=asset,
            run_id=self.run_id,
            code_version=f"1.{config_hash[:12]}",
            config_hash=config_hash,
            inputs=inputs,
            config=config,
            usage=store.usage if store else {},
            uses=store.uses if store else {},
        )
        self.live |= tables
        frames = {name: frame(name, rows) for name, rows in tables.items()}
        return self.warehouse.commit(record, frames, [checkpoint] if checkpoint else [])


def _seed(name: str, instruction: str, given: str, output: str) -> Row:
    return make_row(
        "seed_tasks",
        {
            "seed_id": name,
            "name": name,
            "instruction": instruction,
            "input": given,
            "output": output,
            "instances": [{"input": given, "output": output}],
            "is_classification": False,
        },
    )


def _instruction(prompt: InstancePrompt, role: str) -> Parent:
    return Parent("filtered_instructions", prompt.instruction["row_id"], role)
