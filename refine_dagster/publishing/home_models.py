"""The models of a home by name: what each was made from, where it lies, what was measured of it.

Names are `base`, `start` (the policy's start), `policy` (`policy_round_2`, ... of later rounds),
the arms `seeds_only`, `self_instruct` and `refine_af`, and `instructor`. A model is followed
through the parents of its row, so that one whose base model has changed since is still found.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from refine_dagster.config.policy_round import split_name
from refine_dagster.errors import RefineError
from refine_dagster.evaluation.report import ARMS, REPORT
from refine_dagster.language import ENGLISH, Language, language_of
from refine_dagster.models.language_model import ModelRef, registered_base, registered_policy
from refine_dagster.seeding import request_seed
from refine_dagster.statistics import bootstrap_intervals
from refine_dagster.warehouse.checkpoints import CheckpointStore
from refine_dagster.warehouse.rows import Row
from refine_dagster.warehouse.tables import slice_of
from refine_dagster.warehouse.warehouse import Warehouse

Kind = Literal["base", "start", "policy", "arm", "instructor"]
POLICY = "rl_policy_checkpoint"
# Resamples of the interval of a mean over held-out tasks.
RESAMPLES = 2000


@dataclass(frozen=True)
class HomeModel:
    """A model of the home.

    Attributes:
        table: the slice that its row stands in, which is also the checkpoint's asset.
        fingerprint: of base model and adapters; of the instructor its version.
        learnt_from: slice -> how many of its rows the last training learnt from.
        stale: whether a row that it was made from is no longer live.
    """

    name: str
    kind: Kind
    table: str
    row: Row
    fingerprint: str
    learnt_from: dict[str, int]
    stale: bool

    @property
    def checkpoint_hash(self) -> str | None:
        """The content of the checkpoint trained here; None for a given model."""
        checkpoint: str | None = self.row["checkpoint_hash"]
        return checkpoint


def home_models(warehouse: Warehouse) -> list[HomeModel]:
    """Every model of the home's live rows, in the order of the graph."""
    with warehouse.held():
        return [
            HomeModel(
                name=name,
                kind=kind,
                table=table,
                row=row,
                fingerprint=row.get("fingerprint") or row.get("policy") or row["version"],
                learnt_from=dict(
                    Counter(p["asset"] for p in row["parents"] if p["role"] == "trained_on")
                ),
                stale=not _parents_are_live(warehouse, row),
            )
            for name, kind, table, row in _model_rows(warehouse)
        ]


def find_model(warehouse: Warehouse, name: str) -> HomeModel:
    """The home's model of a name.

    Raises:
        RefineError: there is none of that name.
    """
    models = home_models(warehouse)
    for model in models:
        if model.name == name:
            return model
    there = ", ".join(model.name for model in models)
    raise RefineError(
        f"there is no model {name!r} in this home",
        fix=f"one of {there}" if there else "run `refine-dagster run` first",
    )


def model_ref(warehouse: Warehouse, store: CheckpointStore, model: HomeModel) -> ModelRef:
    """A language model's files: the base model with the adapters that were trained on it, in order.

    Raises:
        RefineError: the model is the instructor, which writes no text.
        CheckpointError: a checkpoint's folder is gone.
        ModelError: the files are not those that were recorded.
    """
    if model.kind == "instructor":
        raise RefineError(
            "the instructor chooses operations and writes no text",
            where=model.name,
            fix=f"find its files in {store.path_of(model.table, model.checkpoint_hash or '')}"
            if model.checkpoint_hash
            else "name a language model of `refine-dagster model list`",
        )
    (_, base), *trained = training_chain(warehouse, model)
    ref = registered_base(store, base)
    for table, row in trained:
        ref = registered_policy(store, table, row["checkpoint_hash"], ref)
    return ref


def training_chain(warehouse: Warehouse, model: HomeModel) -> list[tuple[str, Row]]:
    """The rows of the base model and of each training on top of it, with their slices, in order."""
    chain = [(model.table, model.row)]
    while chain[0][0] != "base_model" and model.kind != "instructor":
        (parent,) = [p for p in chain[0][1]["parents"] if p["role"] == "base"]
        row = _row_that_was(warehouse, parent["asset"], parent["row_id"])
        chain.insert(0, (parent["asset"], row))
    return chain


@dataclass(frozen=True)
class Measured:
    """A figure with its 95 % interval; `what` says of what, in words."""

    what: str
    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.what} {self.value:.4g}"
        return f"{self.what} {self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def figures_of(warehouse: Warehouse, model: HomeModel) -> list[Measured]:
    """What was measured of this very model; empty where nothing was, or of a former one."""
    row = model.row
    if model.kind == "policy":
        gain = row["gain"], row["gain_low"], row["gain_high"]
        return [
            Measured("held-out reward", row["reward_after"]),
            Measured("gain", *gain),
        ]
    if model.kind == "instructor":
        return []
    if model.kind == "start":
        return [Measured("last loss", row["loss_last"])]
    scores = [
        score["rouge_l"]
        for score in warehouse.read(REPORT).to_dicts()
        if any(p["row_id"] == row["row_id"] and p["role"] == "model" for p in score["parents"])
    ]
    if not scores:
        return []
    seed = request_seed("mean over held-out tasks", model.name)
    (interval,) = bootstrap_intervals([scores], samples=RESAMPLES, seed=seed)
    return [Measured("ROUGE-L", sum(scores) / len(scores), interval.low, interval.high)]


def config_of(warehouse: Warehouse, model: HomeModel) -> dict[str, Any]:
    """The config of the materialization that added the model's row."""
    found = warehouse.query(
        f"SELECT config FROM history.{slice_of(model.table).table.name} AS made "
        "JOIN lineage.materializations ON sequence = made.added_in "
        "JOIN lineage.configs USING (config_hash) "
        "WHERE row_id = ? ORDER BY sequence DESC LIMIT 1",
        [model.row["row_id"]],
    )
    config: dict[str, Any] = json.loads(found["config"][0]) if found.height else {}
    return config


def language_of_model(warehouse: Warehouse, model: HomeModel) -> Language:
    """The language of the run that made a model."""
    return language_of(config_of(warehouse, model).get("language", ENGLISH.code))


def _model_rows(warehouse: Warehouse) -> Iterator[tuple[str, Kind, str, Row]]:
    for row in warehouse.read("base_model").to_dicts():
        yield "base", "base", "base_model", row
    for row in warehouse.read("instructor_policy").to_dicts():
        yield "instructor", "instructor", "instructor_policy", row
    for row in warehouse.read("policy_start").to_dicts():
        yield "start", "start", "policy_start", row
    policies = [part.name for part in warehouse.slices() if part.table.name == POLICY]
    for table in sorted(policies, key=lambda name: split_name(name)[1].number):
        for row in warehouse.read(table).to_dicts():
            yield split_name(table)[1].name("policy"), "policy", table, row
    arms = [
        (table, row)
        for table in ("baseline_model", "fine_tuned_model")
        for row in warehouse.read(table).to_dicts()
    ]
    for table, row in sorted(arms, key=lambda arm: ARMS.index(arm[1]["arm"])):
        yield row["arm"], "arm", table, row


def _row_that_was(warehouse: Warehouse, table: str, row_id: str) -> Row:
    """A row by its id, live or not."""
    found = warehouse.query(
        f"SELECT * FROM history.{slice_of(table).table.name} WHERE row_id = ? LIMIT 1", [row_id]
    )
    if found.is_empty():
        raise RefineError(
            f"the row {row_id} of {table}, which the model was made from, was pruned",
            fix=f"materialise {table} and what follows it again",
        )
    return found.to_dicts()[0]


def _parents_are_live(warehouse: Warehouse, row: Row) -> bool:
    wanted: dict[str, set[str]] = {}
    for parent in row["parents"]:
        wanted.setdefault(parent["asset"], set()).add(parent["row_id"])
    for table, ids in wanted.items():
        live = warehouse.query(f"SELECT row_id FROM {slice_of(table).live}")["row_id"]
        if not ids <= set(live):
            return False
    return True
