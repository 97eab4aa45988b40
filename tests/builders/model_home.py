"""A home with language models of every kind, none of them trained: adapters are random."""

from __future__ import annotations

from pathlib import Path

from refine_dagster.home import Home
from refine_dagster.models.language_model import ModelRef, resolve_model, with_adapter
from refine_dagster.warehouse.checkpoints import Checkpoint, CheckpointStore
from refine_dagster.warehouse.rows import Parent, Row, parents
from refine_dagster.warehouse.warehouse import Warehouse
from tests.builders.random_adapter import random_adapter
from tests.builders.rows import row, seed_row
from tests.builders.warehouse import commit, new_warehouse

SCORES = {"base": (10.0, 20.0, 12.0), "refine_af": (15.0, 18.0, 30.0)}


def model_home(root: Path, base_folder: Path) -> tuple[Home, dict[str, ModelRef]]:
    """The home, and its models by name: `base`, `start`, `policy` and `refine_af`.

    The policy's adapter lies on that of its start. `base` and `refine_af` are evaluated.
    """
    home = Home(root)
    warehouse, store = new_warehouse(home.warehouse), CheckpointStore(home.checkpoints)
    ref = resolve_model(str(base_folder))
    refs = {"base": ref}
    seeds = [seed_row("s1"), seed_row("s2", "Count the words.", "x y z", "3")]
    learnt = parents(seeds, "seed_tasks", "trained_on")
    with warehouse.held():
        commit(warehouse, "seed_tasks", seeds)
        base = row("base_model", model=str(base_folder), fingerprint=ref.fingerprint)
        commit(warehouse, "base_model", [base])
        on_base = parents([base], "base_model", "base")
        start = _trained(warehouse, store, refs, "start", "policy_start", ref, [*on_base, *learnt])
        on_start = parents([start], "policy_start", "base")
        _trained(warehouse, store, refs, "policy", "rl_policy_checkpoint", refs["start"], on_start)
        arm = _trained(
            warehouse, store, refs, "refine_af", "fine_tuned_model", ref, [*on_base, *learnt]
        )
        _evaluate(warehouse, base, arm)
    return home, refs


def _trained(
    warehouse: Warehouse,
    store: CheckpointStore,
    refs: dict[str, ModelRef],
    name: str,
    table: str,
    base: ModelRef,
    made_from: list[Parent],
) -> Row:
    checkpoint = _checkpoint(store, table, base, seed=len(refs))
    refs[name] = with_adapter(base, checkpoint.path)
    arm = {"arm": name} if table == "fine_tuned_model" else {}
    column = "policy" if table == "rl_policy_checkpoint" else "fingerprint"
    made = row(
        table,
        made_from,
        checkpoint_hash=checkpoint.content_hash,
        **{column: refs[name].fingerprint},
        **arm,
    )
    commit(warehouse, table, [made], [checkpoint], config={"language": "en"})
    return made


def _checkpoint(store: CheckpointStore, asset: str, base: ModelRef, seed: int) -> Checkpoint:
    def train(folder: Path) -> dict[str, int]:
        random_adapter(base, folder, seed=seed, rank=4)
        return {"seed": seed}

    return store.train_or_reuse(asset, {"seed": seed}, train)


def _evaluate(warehouse: Warehouse, base: Row, arm: Row) -> None:
    owners = {
        "base": parents([base], "base_model", "model"),
        "refine_af": parents([arm], "fine_tuned_model", "model"),
    }
    scores = [
        row("evaluation_report", owners[name], arm=name, task=f"t{task}", rouge_l=score)
        for name, scores in SCORES.items()
        for task, score in enumerate(scores)
    ]
    against = row(
        "evaluation_comparisons",
        arm="refine_af",
        against="base",
        wins=2,
        losses=1,
        ties=0,
        mean_delta=7.0,
        delta_low=-2.0,
        delta_high=18.0,
    )
    tables = {"evaluation_report": scores, "evaluation_comparisons": [against]}
    commit(warehouse, "evaluation_report", tables)
