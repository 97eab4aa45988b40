"""A warehouse small enough to work out by hand what every mart must say of it.

Two rounds propose six candidates from three seeds: three are accepted, two rejected, one is no
candidate. The base policy's instances of the three are kept, rejected and failed; of the refined
policy's, two are kept and make the dataset.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl

from refine_dagster.warehouse.rows import Parent, Row, make_row, parents
from refine_dagster.warehouse.tables import TABLES
from refine_dagster.warehouse.warehouse import Warehouse
from tests.builders.fake_judge import PART_NAMES, scores_of
from tests.builders.rows import row, seed_row
from tests.builders.warehouse import commit, new_warehouse

BASE, POLICY, JUDGE = "base-model", "refined-policy", "the-judge"


def small_warehouse(path: Path) -> Warehouse:
    """The warehouse described above, in a new file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_made())
    return Warehouse(path)


@cache
def _made() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "warehouse.duckdb"
        _make(new_warehouse(path))
        return path.read_bytes()


def _make(warehouse: Warehouse) -> None:
    with warehouse.held():
        seeds = [
            seed_row("s1", "Reverse the order of the words.", "a b", "b a"),
            seed_row("s2", "Name a fruit."),
            seed_row("s3", "Count the words.", "x y z", "3"),
        ]
        commit(warehouse, "seed_tasks", seeds)
        learnt = parents(seeds, "seed_tasks", "trained_on")
        base = row("base_model", learnt, model="offline", fingerprint=BASE)
        commit(warehouse, "base_model", [base])
        backbone = parents([base], "base_model", "backbone")
        judge = row("feedback_judge", backbone, kind="offline", fingerprint=JUDGE)
        commit(warehouse, "feedback_judge", [judge])
        accepted = _instructions(warehouse, seeds, base)
        _instances(warehouse, accepted, seeds, base, judge)
        scores = [
            _score("base", "t1", 10.0),
            _score("refine_af", "t1", 15.5),
            _score("base", "t2", 20.0),
            _score("refine_af", "t2", 18.0),
        ]
        commit(warehouse, "evaluation_report", scores)
        _completions(warehouse)


def _instructions(warehouse: Warehouse, seeds: list[Row], base: Row) -> list[Row]:
    """Commit candidates, decisions and pool; the pool."""
    written = parents([base], "base_model", "generator")
    first_prompt = [*written, *parents(seeds[:2], "seed_tasks", "demonstration")]
    candidates = [
        _candidate("0000/0000/00", "Name a colour.", first_prompt),
        _candidate("0000/0000/01", "Name a colour", first_prompt),
        _candidate("0000/0000/02", "12.", first_prompt, problem="empty"),
    ]
    pool = [_accepted(candidates[0])]
    second_prompt = [
        *written,
        *parents(seeds[2:], "seed_tasks", "demonstration"),
        *parents(candidates[:1], "raw_instructions", "demonstration"),
    ]
    candidates += [
        _candidate("0001/0000/00", "Count the letters of the word.", second_prompt),
        _candidate("0001/0000/01", "Draw", second_prompt),
        _candidate("0001/0000/02", "Name a bird.", second_prompt),
    ]
    pool += [_accepted(candidates[3]), _accepted(candidates[5])]
    rules = ["kept", "too_similar", "unparsed", "kept", "too_short", "kept"]
    decisions = [_decided(*one) for one in zip(candidates, rules, strict=True)]
    commit(warehouse, "raw_instructions", candidates)
    commit(warehouse, "instruction_decisions", decisions)
    commit(warehouse, "filtered_instructions", pool)
    return pool


def _candidate(slot: str, text: str, prompt: list[Parent], problem: str | None = None) -> Row:
    round_number, request, position = (int(part) for part in slot.split("/"))
    return row(
        "raw_instructions",
        prompt,
        slot=slot,
        round=round_number,
        request=request,
        position=position,
        instruction=text,
        parsed=problem is None,
        parse_problem=problem,
        completion_key=f"k{round_number}",
        policy=BASE,
    )


def _decided(candidate: Row, rule: str) -> Row:
    return row(
        "instruction_decisions",
        parents([candidate], "raw_instructions", "candidate"),
        candidate_id=candidate["row_id"],
        kept=rule == "kept",
        rule=rule,
        **{name: candidate[name] for name in ("slot", "round", "instruction")},
    )


def _accepted(candidate: Row) -> Row:
    return row(
        "filtered_instructions",
        parents([candidate], "raw_instructions", "candidate"),
        nearest_score=0.5,
        **{name: candidate[name] for name in ("slot", "instruction", "policy")},
    )


def _instances(
    warehouse: Warehouse, pool: list[Row], seeds: list[Row], base: Row, judge: Row
) -> None:
    """Commit both policies' instances of the pool, and the refined policy."""
    by_judge = parents([judge], "feedback_judge", "judge")
    by_base = [*by_judge, *parents([base], "base_model", "policy")]
    colour, letters, bird = pool
    scored = [
        _instance(colour, BASE, by_base, ("", "red"), (0.8, 0.6, 0.4, 1.0), 2.0, "kept"),
        _instance(letters, BASE, by_base, ("", ""), None, -1.0, "format"),
        _instance(bird, BASE, by_base, ("", "an"), (0.4, 0.2, 0.4, 0.0), 0.5, "low_reward"),
    ]
    table = "reward_scored_instructions"
    commit(warehouse, table, [make_row(table, *instance) for instance in scored])
    policy = row(
        "rl_policy_checkpoint",
        [*by_judge, *parents([base], "base_model", "base")],
        policy=POLICY,
        algorithm="grpo",
        preset="refine_af",
        checkpoint_hash="h",
        steps=2,
        reward_before=0.0,
        reward_after=1.0,
        gain=1.0,
        gain_high=1.5,
    )
    steps = [_step(number, reward, policy) for number, reward in ((1, 0.5), (2, 1.5))]
    tables = {"rl_policy_checkpoint": [policy], "rl_policy_checkpoint_steps": steps}
    commit(warehouse, "rl_policy_checkpoint", tables)
    by_policy = [
        *by_judge,
        *parents([policy], "rl_policy_checkpoint", "policy"),
        *parents(seeds[2:], "seed_tasks", "demonstration"),
    ]
    refined = [
        _instance(colour, POLICY, by_policy, ("", "bright red"), (0.9, 0.8, 0.5, 2.0), 3.0, "kept"),
        _instance(letters, POLICY, by_policy, ("ship", "4"), (0.7, 0.6, 0.5, 1.0), 1.0, "kept"),
        _instance(bird, POLICY, by_policy, ("", "an"), (0.5, 0.1, 0.5, 0.0), -1.0, "low_reward"),
    ]
    columns = TABLES["instruction_dataset"].columns
    kept = [
        make_row("instruction_dataset", {name: payload[name] for name in columns}, made_by)
        for payload, made_by in refined
        if payload["kept"]
    ]
    decided = [make_row("instance_decisions", *instance) for instance in refined]
    tables = {"instruction_dataset": kept, "instance_decisions": decided}
    commit(warehouse, "instruction_dataset", tables)


def _instance(
    instruction: Row,
    policy: str,
    made_by: list[Parent],
    texts: tuple[str, str],
    scores: tuple[float, float, float, float] | None,
    reward: float,
    rule: str,
) -> tuple[dict[str, Any], list[Parent]]:
    """Payload and parents of a scored instance, in whatever table."""
    payload = {
        "instruction_id": instruction["row_id"],
        "instruction": instruction["instruction"],
        "input": texts[0],
        "output": texts[1],
        "method": instruction["method"],
        "policy": policy,
        "completion_key": f"{policy}/{instruction['slot']}",
        "format_valid": scores is not None,
        "format_problem": None if scores else "no output",
        "parts": scores_of(*scores) if scores else dict.fromkeys(PART_NAMES),
        "reward": reward,
        "kept": rule == "kept",
        "rule": rule,
        "value": None,
        "threshold": None,
    }
    return payload, [*made_by, *parents([instruction], "filtered_instructions", "instruction")]


def _step(number: int, reward: float, policy: Row) -> Row:
    owner = parents([policy], "rl_policy_checkpoint", "policy")
    figures = {"step": number, "reward": reward, "parts": scores_of()}
    return row("rl_policy_checkpoint_steps", owner, **figures)


def _score(arm: str, task: str, rouge_l: float) -> Row:
    figures = {"instances": 5, "rouge_l": rouge_l, "exact_match": 0.0}
    return row("evaluation_report", arm=arm, task=task, category="Sorting", **figures)


def _completions(warehouse: Warehouse) -> None:
    calls = [
        ("k0", "propose", "stop", 10, 5, 0.5),
        ("k1", "propose", "length", 20, 15, 1.5),
        ("k2", "instance", "eos", 7, 3, 0.25),
    ]
    rows = pl.DataFrame(
        [
            {
                "key": key,
                "role": role,
                "model": BASE,
                "prompt": "a prompt",
                "sampling": "{}",
                "seed": 1,
                "text": "an answer",
                "finish_reason": finish,
                "prompt_tokens": prompt_tokens,
                "completion_tokens": completion_tokens,
                "seconds": seconds,
                "run_id": "run",
            }
            for key, role, finish, prompt_tokens, completion_tokens, seconds in calls
        ]
    )
    with warehouse.connect() as connection:
        connection.register("answered", rows.to_arrow())
        connection.execute("INSERT INTO store.completions BY NAME FROM answered")
