"""A warehouse small enough to work out by hand what every mart must say of it.

Two rounds propose six candidates from three seeds: three are accepted, two rejected, one is no
candidate. The base policy's instances of the three are kept, rejected and failed; of the refined
policy's, two are kept and make the dataset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from refine_dagster.warehouse.ledger import Record
from refine_dagster.warehouse.rows import Parent, Row, frame, make_row
from refine_dagster.warehouse.tables import TABLES
from refine_dagster.warehouse.warehouse import Warehouse
from tests.fake_judges import PART_NAMES, scores_of

BASE, POLICY, JUDGE = "base-model", "refined-policy", "the-judge"


def commit(warehouse: Warehouse, asset: str, tables: Mapping[str, Sequence[Row]]) -> None:
    """Commit rows for an asset as a run would."""
    record = Record(asset=asset, run_id="run", code_version="1", config_hash="c")
    warehouse.commit(record, {name: frame(name, rows) for name, rows in tables.items()})


def small_warehouse(path: Path) -> Warehouse:
    """The warehouse described above, in a new file."""
    warehouse = Warehouse(path)
    seeds = [
        _seed("s1", "Reverse the order of the words.", "a b", "b a"),
        _seed("s2", "Name a fruit.", "", "a pear"),
        _seed("s3", "Count the words.", "x y z", "3"),
    ]
    commit(warehouse, "seed_tasks", {"seed_tasks": seeds})
    base = make_row(
        "base_model",
        {
            "model": "offline",
            "revision": None,
            "fingerprint": BASE,
            "parameters": 10,
            "vocab_size": 8,
            "context_length": 16,
            "checkpoint_hash": None,
        },
        _parents("seed_tasks", seeds, "trained_on"),
    )
    commit(warehouse, "base_model", {"base_model": [base], "base_model_steps": []})
    judge = make_row(
        "feedback_judge",
        {
            "kind": "offline",
            "fingerprint": JUDGE,
            "checkpoint_hash": None,
            "held_out_examples": 4,
        },
        _parents("base_model", [base], "backbone"),
    )
    commit(
        warehouse,
        "feedback_judge",
        {
            "feedback_judge": [judge],
            "feedback_judge_accuracy": [],
            "feedback_judge_quality": [],
            "feedback_judge_calibration": [],
        },
    )
    accepted = _instructions(warehouse, seeds, base)
    _instances(warehouse, accepted, seeds, base, judge)
    commit(
        warehouse,
        "evaluation_report",
        {
            "evaluation_report": [
                _score("base", "t1", 10.0),
                _score("refine_af", "t1", 15.5),
                _score("base", "t2", 20.0),
                _score("refine_af", "t2", 18.0),
            ],
            "evaluation_comparisons": [],
            "evaluation_predictions": [],
        },
    )
    _completions(warehouse)
    return warehouse


def _seed(seed_id: str, instruction: str, given: str, output: str) -> Row:
    return make_row(
        "seed_tasks",
        {
            "seed_id": seed_id,
            "name": seed_id,
            "instruction": instruction,
            "input": given,
            "output": output,
            "instances": [{"input": given, "output": output}],
            "is_classification": False,
        },
    )


def _parents(asset: str, rows: Sequence[Row], role: str) -> list[Parent]:
    return [Parent(asset, row["row_id"], role) for row in rows]


def _instructions(warehouse: Warehouse, seeds: list[Row], base: Row) -> list[Row]:
    written = _parents("base_model", [base], "generator")
    first_prompt = [*written, *_parents("seed_tasks", seeds[:2], "demonstration")]
    candidates = [
        _candidate("0000/0000/00", "Name a colour.", first_prompt),
        _candidate("0000/0000/01", "Name a colour", first_prompt),
        _candidate("0000/0000/02", "12.", first_prompt, problem="empty"),
    ]
    pool = [_accept(candidates[0])]
    second_prompt = [
        *written,
        *_parents("seed_tasks", seeds[2:], "demonstration"),
        *_parents("raw_instructions", candidates[:1], "demonstration"),
    ]
    candidates += [
        _candidate("0001/0000/00", "Count the letters of the word.", second_prompt),
        _candidate("0001/0000/01", "Draw", second_prompt),
        _candidate("0001/0000/02", "Name a bird.", second_prompt),
    ]
    pool += [_accept(candidates[3]), _accept(candidates[5])]
    rules = ["kept", "too_similar", "unparsed", "kept", "too_short", "kept"]
    decisions = [
        make_row(
            "instruction_decisions",
            {
                "candidate_id": candidate["row_id"],
                "method": candidate["method"],
                "slot": candidate["slot"],
                "round": candidate["round"],
                "instruction": candidate["instruction"],
                "kept": rule == "kept",
                "rule": rule,
                "value": None,
                "threshold": None,
                "nearest_asset": None,
                "nearest_id": None,
                "nearest_score": None,
            },
            _parents("raw_instructions", [candidate], "candidate"),
        )
        for candidate, rule in zip(candidates, rules, strict=True)
    ]
    commit(warehouse, "raw_instructions", {"raw_instructions": candidates})
    commit(warehouse, "instruction_decisions", {"instruction_decisions": decisions})
    commit(warehouse, "filtered_instructions", {"filtered_instructions": pool})
    return pool


def _candidate(
    slot: str, instruction: str, parents: list[Parent], problem: str | None = None
) -> Row:
    round_number, request, position = (int(part) for part in slot.split("/"))
    return make_row(
        "raw_instructions",
        {
            "method": "self_instruct",
            "slot": slot,
            "round": round_number,
            "request": request,
            "position": position,
            "instruction": instruction,
            "parsed": problem is None,
            "parse_problem": problem,
            "completion_key": f"k{round_number}",
            "policy": BASE,
        },
        parents,
    )


def _accept(candidate: Row) -> Row:
    return make_row(
        "filtered_instructions",
        {
            "instruction": candidate["instruction"],
            "method": candidate["method"],
            "slot": candidate["slot"],
            "policy": candidate["policy"],
            "nearest_score": 0.5,
        },
        _parents("raw_instructions", [candidate], "candidate"),
    )


def _instances(
    warehouse: Warehouse, accepted: list[Row], seeds: list[Row], base: Row, judge: Row
) -> None:
    by_judge = _parents("feedback_judge", [judge], "judge")
    by_base = [*by_judge, *_parents("base_model", [base], "policy")]
    colour, letters, bird = accepted
    scored = [
        _instance(colour, BASE, by_base, ("", "red"), (0.8, 0.6, 0.4, 1.0), 2.0, "kept"),
        _instance(letters, BASE, by_base, ("", ""), None, -1.0, "format"),
        _instance(bird, BASE, by_base, ("", "an"), (0.4, 0.2, 0.4, 0.0), 0.5, "low_reward"),
    ]
    commit(
        warehouse,
        "reward_scored_instructions",
        {
            "reward_scored_instructions": [
                make_row("reward_scored_instructions", payload, parents)
                for payload, parents in scored
            ]
        },
    )
    policy = make_row(
        "rl_policy_checkpoint",
        {
            "policy": POLICY,
            "algorithm": "grpo",
            "preset": "refine_af",
            "checkpoint_hash": "h",
            "steps": 2,
            "held_out_prompts": 1,
            "reward_before": 0.0,
            "reward_after": 1.0,
            "gain": 1.0,
            "gain_low": 0.5,
            "gain_high": 1.5,
        },
        [*by_judge, *_parents("base_model", [base], "base")],
    )
    steps = [_step(number, reward, policy) for number, reward in ((1, 0.5), (2, 1.5))]
    commit(
        warehouse,
        "rl_policy_checkpoint",
        {"rl_policy_checkpoint": [policy], "rl_policy_checkpoint_steps": steps},
    )
    by_policy = [
        *by_judge,
        *_parents("rl_policy_checkpoint", [policy], "policy"),
        *_parents("seed_tasks", seeds[2:], "demonstration"),
    ]
    refined = [
        _instance(colour, POLICY, by_policy, ("", "bright red"), (0.9, 0.8, 0.5, 2.0), 3.0, "kept"),
        _instance(letters, POLICY, by_policy, ("ship", "4"), (0.7, 0.6, 0.5, 1.0), 1.0, "kept"),
        _instance(bird, POLICY, by_policy, ("", "an"), (0.5, 0.1, 0.5, 0.0), -1.0, "low_reward"),
    ]
    left_out = ("format_valid", "format_problem", "kept", "rule", "value", "threshold")
    commit(
        warehouse,
        "instruction_dataset",
        {
            "instruction_dataset": [
                make_row(
                    "instruction_dataset",
                    {name: value for name, value in payload.items() if name not in left_out},
                    parents,
                )
                for payload, parents in refined
                if payload["kept"]
            ],
            "instance_decisions": [
                make_row("instance_decisions", payload, parents) for payload, parents in refined
            ],
        },
    )


def _instance(
    instruction: Row,
    policy: str,
    parents: list[Parent],
    texts: tuple[str, str],
    scores: tuple[float, float, float, float] | None,
    reward: float,
    rule: str,
) -> tuple[dict[str, Any], list[Parent]]:
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
    return payload, [*parents, *_parents("filtered_instructions", [instruction], "instruction")]


def _step(number: int, reward: float, policy: Row) -> Row:
    payload: dict[str, Any] = dict.fromkeys(TABLES["rl_policy_checkpoint_steps"].columns, 0.5)
    return make_row(
        "rl_policy_checkpoint_steps",
        {**payload, "step": number, "reward": reward, "parts": scores_of()},
        _parents("rl_policy_checkpoint", [policy], "policy"),
    )


def _score(arm: str, task: str, rouge_l: float) -> Row:
    return make_row(
        "evaluation_report",
        {
            "arm": arm,
            "task": task,
            "category": "Sorting",
            "instances": 5,
            "rouge_l": rouge_l,
            "exact_match": 0.0,
        },
    )


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
