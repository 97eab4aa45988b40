"""Random histories of a seed file and of the configuration, for the tests of incremental runs."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

KINDS = ("edit", "cosmetic", "add", "remove", "reorder", "knob")
TEXTS = (
    "Name three birds that live near the sea.",
    "Write one sentence about a rainy day at school.",
    "Sort the numbers from high to low.",
    "Is the sentence a question or a statement?",
    "Give a short tip for a long train journey.",
)
CONFIG: tuple[dict[str, Any], ...] = (
    {},
    {"self_instruct.novelty_threshold": 0.6},
    {"self_instruct.temperature": 0.8},
    {"self_instruct.target": 20},
)


@dataclass(frozen=True)
class Change:
    """One thing that a user does between two runs; `at` picks the seed, `text` the words."""

    kind: str
    at: int
    text: str


changes = st.builds(
    Change,
    kind=st.sampled_from(KINDS),
    at=st.integers(0, 10_000),
    text=st.sampled_from(TEXTS),
)


def packaged_seeds(count: int) -> list[dict[str, Any]]:
    """The first `count` packaged seeds, as the file has them."""
    text = (files("refine_dagster.seeds") / "packaged.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()[:count]]


@dataclass
class Project:
    """A seed file and overrides, as a user keeps them.

    Attributes:
        path: the seed file.
        seeds: what is in it.
        overrides: dotted config field -> value.
    """

    path: Path
    seeds: list[dict[str, Any]]
    overrides: dict[str, Any] = field(default_factory=dict)
    added: int = 0

    def apply(self, change: Change) -> None:
        """Do what `change` says, in memory."""
        place = change.at % len(self.seeds)
        seed = self.seeds[place]
        if change.kind == "edit":
            self.seeds[place] = {**seed, "instruction": f"{change.text} ({change.at})"}
        elif change.kind == "cosmetic":
            self.seeds[place] = {**seed, "instruction": f"  {seed['instruction']}  "}
        elif change.kind == "add":
            self.added += 1
            fresh = {"id": f"added_{self.added}", "instruction": f"{change.text} {self.added}"}
            self.seeds.insert(place, {**seed, **fresh})
        elif change.kind == "remove":
            del self.seeds[place]
        elif change.kind == "reorder":
            random.Random(change.at).shuffle(self.seeds)
        else:
            self.overrides = dict(CONFIG[change.at % len(CONFIG)])

    def write(self) -> dict[str, Any]:
        """Write the seed file; the overrides that point to it."""
        lines = (json.dumps(seed, ensure_ascii=False) + "\n" for seed in self.seeds)
        self.path.write_text("".join(lines), encoding="utf-8")
        return {**self.overrides, "seeds.path": str(self.path)}
