"""Trained language models as rows: the base model, policies and arms, with their steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from refine_dagster.config.policy_round import split_name
from refine_dagster.models.language_model import ModelRef
from refine_dagster.models.memory import model_size
from refine_dagster.refine_af.instances import InstancePrompt
from refine_dagster.training.policy_steps import PolicyStep
from refine_dagster.warehouse.checkpoints import Checkpoint
from refine_dagster.warehouse.rows import Parent, Row, as_parent, make_row, parents

Tables = dict[str, list[Row]]


def base_tables(
    model: str,
    ref: ModelRef,
    trained_on: Sequence[Parent] = (),
    checkpoint: Checkpoint | None = None,
) -> Tables:
    """The base model's tables; `model` is `offline`, a Hugging Face id or a folder."""
    size = model_size(ref)
    payload = {
        "model": model,
        "revision": ref.revision,
        "fingerprint": ref.fingerprint,
        "parameters": size.parameters,
        "vocab_size": size.vocab,
        "context_length": size.context,
        "checkpoint_hash": checkpoint.content_hash if checkpoint else None,
    }
    row = make_row("base_model", payload, trained_on)
    logged = checkpoint.record["steps"] if checkpoint else []
    return _with_steps("base_model", row, logged, "model")


def pair_rows(
    name: str,
    checkpoint: Checkpoint,
    prompts: Mapping[str, InstancePrompt],
    made_by: Sequence[Parent],
) -> list[Row]:
    """The pairs that a policy learned from, rows of the slice `name`; none but for DPO.

    Args:
        prompts: instruction -> its prompt.
        made_by: the policy that wrote the completions, and the judge.
    """
    rows = []
    for pair in checkpoint.record.get("pairs", []):
        prompt = prompts[pair["instruction"]]
        made_from = [
            as_parent(prompt.pool, prompt.instruction, "instruction"),
            *parents(prompt.shown, "seed_tasks", "demonstration"),
            *made_by,
        ]
        payload = {"instruction_id": prompt.instruction["row_id"], **pair}
        rows.append(make_row(name, payload, made_from))
    return rows


def policy_tables(
    name: str,
    ref: ModelRef,
    checkpoint: Checkpoint,
    figures: Mapping[str, Any],
    made_from: Sequence[Parent],
    pairs: Sequence[Row] = (),
) -> Tables:
    """A policy's tables.

    Args:
        name: the slice of its round.
        figures: algorithm, preset and gain.
        pairs: what it learned from, if it learned from pairs.
    """
    base, policy_round = split_name(name)
    of_pairs = policy_round.name(f"{base}_pairs")
    made_from = [*made_from, *parents(pairs, of_pairs, "trained_on")]
    logged = [asdict(PolicyStep.of_record(step)) for step in checkpoint.record["steps"]]
    payload = {
        "policy": ref.fingerprint,
        "checkpoint_hash": checkpoint.content_hash,
        "steps": len(logged),
        **figures,
    }
    tables = _with_steps(name, make_row(name, payload, made_from), logged, "policy")
    return {**tables, of_pairs: list(pairs)}


def tuned_tables(
    name: str,
    arm: str | None,
    ref: ModelRef,
    checkpoint: Checkpoint,
    made_from: Sequence[Parent],
) -> Tables:
    """The tables `name` and `<name>_steps` of an arm, or of a start, which is no arm."""
    logged = checkpoint.record["steps"]
    shared = {"arm": arm} if arm else {}
    payload = {
        **shared,
        "fingerprint": ref.fingerprint,
        "checkpoint_hash": checkpoint.content_hash,
        "rows": checkpoint.record["rows"],
        "steps": checkpoint.manifest["steps"],
        "loss_first": logged[0]["loss"],
        "loss_last": logged[-1]["loss"],
    }
    row = make_row(name, payload, made_from)
    return _with_steps(name, row, [{**shared, **step} for step in logged], "model")


def _with_steps(name: str, row: Row, logged: Sequence[Mapping[str, Any]], role: str) -> Tables:
    base, policy_round = split_name(name)
    steps = policy_round.name(f"{base}_steps")
    owner = as_parent(name, row, role)
    return {name: [row], steps: [make_row(steps, step, [owner]) for step in logged]}
