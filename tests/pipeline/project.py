"""A seed file and a config, as a user keeps them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any


def packaged_seeds(count: int) -> list[dict[str, Any]]:
    """The first `count` packaged seeds, as the file has them."""
    text = (files("refine_dagster.seeds") / "packaged.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()[:count]]


@dataclass
class Project:
    """A seed file and overrides (dotted config field -> value)."""

    path: Path
    seeds: list[dict[str, Any]]
    overrides: dict[str, Any] = field(default_factory=dict)

    def write(self) -> dict[str, Any]:
        """Write the seed file; the overrides that point to it."""
        lines = (json.dumps(seed, ensure_ascii=False) + "\n" for seed in self.seeds)
        self.path.write_text("".join(lines), encoding="utf-8")
        return {**self.overrides, "seeds.path": str(self.path)}

    def options(self) -> list[str]:
        """Write the seed file; the command line's options for it."""
        fields = (f"{name}={value}" for name, value in self.write().items())
        return [word for field in fields for word in ("--set", field)]
