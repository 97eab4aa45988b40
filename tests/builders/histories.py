"""Histories of a project, generated: what a user does to seeds and config between runs.

A walk is a home that lives through one change after another. After each step it has another history
behind it, so a walk of eight steps has eight.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from refine_dagster.config.profile import Profile, load_profile

# The graph as small as it goes with rows in every table.
SMALLEST: Mapping[str, Any] = {
    "base_model.learn_seeds": False,
    "self_instruct.target": 8,
    "self_instruct.requests_per_round": 3,
    "self_instruct.human_demonstrations": 3,
    "self_instruct.machine_demonstrations": 1,
    "teams_rl.algorithm": "round_robin",
    "teams_rl.evolved_seeds": 2,
    "teams_rl.min_valid_rate": 0.0,
    "instances.demonstrations": 1,
    "reinforcement.held_out_samples": 1,
    "evaluation.max_instances": 1,
    "evaluation.bootstrap_samples": 100,
    "privacy.bootstrap_samples": 100,
}
# Each set by a change of the config, in place of the one that was set before.
CONFIGS: tuple[Mapping[str, Any], ...] = (
    {},
    {"base_model.learn_seeds": True},
    {"judge.steps": 7},
    {"self_instruct.novelty_threshold": 0.5},
    {"self_instruct.target": 5},
    {"teams_rl.evolved_seeds": 0},
    {"reward.preset": "balanced"},
    {"reward.whiten": True},
    {"selection.keep_share": 0.5},
    {"reinforcement.steps": 3},
    {"supervised.epochs": 1},
    {"evaluation.max_new_tokens": 3},
)
TEXTS = (
    "Name three birds that live near the sea.",
    "Write one sentence about a rainy day.",
    "Sort the numbers from high to low.",
    "Is the sentence a question or a statement?",
)
# Where the run after a change ends, as a user has it end who materialises a part of the graph, with
# a weight; None is the whole graph.
REACH = {"filtered_instructions": 8, "instruction_dataset": 1, None: 1}
KINDS = {
    "edit": 4,
    "remove": 4,
    "add": 2,
    "undo": 2,
    "config": 4,
    "cosmetic": 1,
    "reorder": 1,
    "rounds": 1,
}


@dataclass(frozen=True)
class Project:
    """What a user has: seeds in the order of the file (id -> instruction), and what is configured.

    Attributes:
        rounds: policy rounds.
        blanks: put around every instruction; no content.
    """

    seeds: tuple[tuple[str, str], ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    rounds: int = 1
    blanks: int = 0

    def profile(self, folder: Path) -> Profile:
        """Write the seed file; the profile that names it. `folder` has the held-out tasks."""
        path = folder / "seeds.jsonl"
        pad = " " * self.blanks
        lines = [
            json.dumps({"id": name, "instruction": f"{pad}{text}{pad}", "output": f"a {name}"})
            for name, text in self.seeds
        ]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        files = {"seeds.path": str(path), "evaluation.tasks": str(folder / "tasks")}
        return load_profile(
            "offline", {**SMALLEST, **files, **self.config, "rounds": self.rounds}, {}
        )


FIRST = Project(tuple((f"s{number}", f"Say word {number} and why.") for number in range(10)))


@dataclass(frozen=True)
class Step:
    """A change, and the run after it.

    Attributes:
        kind: of the change.
        project: as it is afterwards.
        reach: the last asset of the run; None for the whole graph.
        killed_after: requests after which a first run is killed; None where none is.
    """

    kind: str
    project: Project
    reach: str | None
    killed_after: int | None


def walk(number: int, length: int) -> Iterator[Step]:
    """The steps of a walk, the same for the same number; the last run reaches the whole graph."""
    rng = random.Random(number)
    before = now = FIRST
    for left in reversed(range(length)):
        [kind] = rng.choices(list(KINDS), list(KINDS.values()))
        then = before if kind == "undo" else changed(now, kind, rng)
        before, now = now, then
        [reach] = rng.choices(list(REACH), list(REACH.values()))
        killed_after = rng.randrange(8) if rng.random() < 0.15 else None
        yield Step(kind, now, reach if left else None, killed_after)


def changed(project: Project, kind: str, rng: random.Random) -> Project:
    """The project after a change."""
    seeds = list(project.seeds)
    place = rng.randrange(len(seeds))
    if kind == "edit":
        seeds[place] = (seeds[place][0], f"{rng.choice(TEXTS)} ({rng.randrange(100)})")
    elif kind == "remove" and len(seeds) > 4:
        del seeds[place]
    elif kind == "add":
        seeds.insert(place, (f"new{rng.randrange(1000)}", f"{rng.choice(TEXTS)} Be brief."))
    elif kind == "reorder":
        rng.shuffle(seeds)
    elif kind == "config":
        return replace(project, config=rng.choice(CONFIGS))
    elif kind == "rounds":
        return replace(project, rounds=3 - project.rounds)
    elif kind == "cosmetic":
        return replace(project, blanks=project.blanks + 1)
    return replace(project, seeds=tuple(seeds))
