"""A warehouse whose history is told step by step, so that tests know why everything changed.

Seeds, a base model, candidates that show seeds or accepted instructions of earlier rounds, and the
accepted instructions. Each call is one materialization that reads the latest of its inputs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from refine_dagster.hashing import content_id
from refine_dagster.warehouse.ledger import Commit, RoleUsage
from refine_dagster.warehouse.rows import Parent, Row, parents
from tests.builders.rows import row, seed_row
from tests.builders.warehouse import commit, new_warehouse

# slot -> (text, seeds shown, slots of accepted instructions shown)
Candidates = Mapping[str, tuple[str, Sequence[str], Sequence[str]]]
INPUTS = {
    "seed_tasks": (),
    "base_model": ("seed_tasks",),
    "raw_instructions": ("seed_tasks", "base_model"),
    "filtered_instructions": ("raw_instructions",),
}
# Rounds 0 and 1: the last candidate shows the first one, once it is accepted.
FIRST: Candidates = {
    "0/a": ("Name a colour.", ["s1", "s2"], []),
    "0/b": ("Name a bird.", ["s2", "s3"], []),
    "0/c": ("Name a tree.", ["s3"], []),
    "1/d": ("Name a shade of red.", ["s2"], ["0/a"]),
}


class Story:
    """Commits to a new warehouse, in order."""

    def __init__(self, folder: Path) -> None:
        self.warehouse = new_warehouse(folder / "w.duckdb")
        self.seeds: dict[str, Row] = {}
        self.model: Row = {}
        self.candidates: dict[str, Row] = {}

    def told(self) -> Story:
        """The first run: sequences 1 to 4."""
        self.seed_tasks(s1="Name a fruit.", s2="Count the words.", s3="Reverse the list.")
        self.base_model("a")
        self.raw_instructions(FIRST)
        self.filtered_instructions("0/a", "0/b", "1/d")
        return self

    def copy(self, folder: Path) -> Story:
        """The same story so far, in another file."""
        other = Story(folder)
        shutil.copy(self.warehouse.path, other.warehouse.path)
        other.seeds, other.model, other.candidates = self.seeds, self.model, self.candidates
        return other

    def seed_tasks(self, **instructions: str) -> Commit:
        """Commit seeds: id -> instruction."""
        self.seeds = {name: seed_row(name, told) for name, told in instructions.items()}
        outside = {"file:seeds": content_id("file", instructions)}
        return self._commit("seed_tasks", list(self.seeds.values()), inputs=outside)

    def base_model(self, path: str, weights: str = "w", *, steps: int | None = None) -> Commit:
        """Commit a model given by its path, or one trained on the seeds in `steps` steps."""
        trained_on = self.seeds.values() if steps is not None else ()
        learnt = parents(trained_on, "seed_tasks", "trained_on")
        fingerprint = content_id(path, weights, steps)
        self.model = row("base_model", learnt, model=path, fingerprint=fingerprint)
        config = {"base_model": {"id": path, "steps": steps}}
        return self._commit("base_model", [self.model], config=config)

    def raw_instructions(
        self,
        candidates: Candidates,
        *,
        sent: Sequence[str] = (),
        revision: int = 1,
        run_seed: tuple[str, str] = ("run_seed", "x"),
        **config: Any,
    ) -> Commit:
        """Commit candidates.

        Args:
            sent: the slots whose completion was sent, not reused.
            run_seed: the run seed, after the name under which the ledger records it.
        """
        rows: dict[str, Row] = {}
        for slot, (text, seeds, accepted) in sorted(candidates.items()):
            shown = [Parent("seed_tasks", self.seeds[name]["row_id"], "demo") for name in seeds]
            shown += [
                Parent("filtered_instructions", _accepted(rows[name])["row_id"], "demo")
                for name in accepted
            ]
            generator = Parent("base_model", self.model["row_id"], "generator")
            rows[slot] = row(
                "raw_instructions",
                [generator, *shown],
                slot=slot,
                round=int(slot[0]),
                instruction=text,
                completion_key=f"key of {slot}",
                policy=self.model["fingerprint"],
            )
        self.candidates = rows
        return self._commit(
            "raw_instructions",
            list(rows.values()),
            config={"self_instruct": {"target": 3, **config}, run_seed[0]: run_seed[1]},
            revision=revision,
            usage={"propose": RoleUsage(len(rows), len(rows) - len(sent), len(sent))},
            uses={f"key of {slot}": slot in sent for slot in rows},
        )

    def filtered_instructions(self, *slots: str) -> Commit:
        """Commit the accepted ones of the candidates."""
        rows = [_accepted(self.candidates[slot]) for slot in slots]
        return self._commit("filtered_instructions", rows)

    def ids(self, table: str) -> dict[str, str]:
        """Slot or seed id -> row id, of live rows."""
        rows = self.warehouse.read(table)
        name = "seed_id" if table == "seed_tasks" else "slot"
        return dict(zip(rows[name], rows["row_id"], strict=True))

    def _commit(
        self,
        asset: str,
        rows: list[Row],
        *,
        inputs: Mapping[str, str] | None = None,
        config: Mapping[str, Any] | None = None,
        revision: int = 1,
        usage: Mapping[str, RoleUsage] | None = None,
        uses: Mapping[str, bool] | None = None,
    ) -> Commit:
        read = {name: self.warehouse.data_version(name) or "" for name in INPUTS[asset]}
        settings = dict(config or {})
        name = content_id("config", json.loads(json.dumps(settings)))
        return commit(
            self.warehouse,
            asset,
            rows,
            code_version=f"{revision}.{name[:12]}",
            config_hash=name,
            inputs={**read, **(inputs or {})},
            config=settings,
            usage=usage or {},
            uses=uses or {},
        )


def _accepted(candidate: Row) -> Row:
    return row(
        "filtered_instructions",
        parents([candidate], "raw_instructions", "candidate"),
        nearest_score=0.5,
        **{name: candidate[name] for name in ("slot", "instruction", "policy")},
    )
