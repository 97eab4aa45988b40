"""Seeds split and drawn, evolved rows and their parents, and the decisions on them."""

from __future__ import annotations

from dataclasses import replace
from operator import methodcaller
from typing import Any

import pytest

from refine_dagster.config.dataset import SelfInstructConfig, TeamsRLConfig
from refine_dagster.errors import RefineError
from refine_dagster.self_instruct.decisions import (
    SELF_INSTRUCT,
    Demonstration,
    InstructionDecider,
    filtered_rows,
)
from refine_dagster.teams_rl.chain import Evolver, Outcome, Review
from refine_dagster.teams_rl.evolution import (
    Origin,
    as_seeds,
    evolution_calls,
    evolve,
    evolved_rows,
    instructor_payload,
    seed_parts,
    slot_of,
)
from refine_dagster.teams_rl.policies import RandomPolicy
from refine_dagster.warehouse.rows import Parent, Row, make_row
from template_executor import RuleReviewer, TemplateExecutor
from tests.builders.packaged_seeds import packaged_seeds
from tests.builders.rows import seed_row

CONFIG = TeamsRLConfig(algorithm="random", evolved_seeds=5)
POLICY = RandomPolicy("salt")
BASE = Parent("base_model", "b" * 32, "generator")


SEEDS = [seed_row(one.seed_id, one.text) for one in packaged_seeds()[:40]]
INSTRUCTOR = make_row("instructor_policy", instructor_payload(CONFIG, POLICY.version))


def names(rows: list[Row]) -> set[str]:
    return {row["seed_id"] for row in rows}


def evolved(seeds: list[Row], config: TeamsRLConfig = CONFIG) -> tuple[list[Outcome], list[Row]]:
    steps = evolve(as_seeds(seeds), POLICY, Evolver(TemplateExecutor("salt"), RuleReviewer()))
    origin = Origin(seeds, INSTRUCTOR, BASE, "model", methodcaller("key", "backend"))
    return steps, evolved_rows(steps, origin, config)


def test_the_parts_have_no_seed_in_common_and_stay_where_they_are() -> None:
    parts = seed_parts(SEEDS, CONFIG, "salt")
    assert not names(parts.training) & names(parts.evolved)
    assert len(parts.evolved) == 5
    assert 10 <= len(parts.training) <= 30
    fewer = seed_parts([row for row in SEEDS if row not in parts.training[:3]], CONFIG, "salt")
    assert names(fewer.training) == names(parts.training[3:])
    assert names(fewer.evolved) == names(parts.evolved)
    edited = [{**row, "instruction": "Name a bird."} for row in reversed(SEEDS)]
    assert names(seed_parts(edited, CONFIG, "salt").evolved) == names(parts.evolved)
    assert names(seed_parts(SEEDS, CONFIG, "other").evolved) != names(parts.evolved)
    more = seed_parts(SEEDS, CONFIG.model_copy(update={"evolved_seeds": 8}), "salt")
    assert names(parts.evolved) < names(more.evolved)


def test_few_and_long_seeds() -> None:
    one = seed_parts(SEEDS[:1], CONFIG, "salt")
    assert names(one.training) == names(one.evolved) == names(SEEDS[:1])
    two = seed_parts(SEEDS[:2], CONFIG, "salt")
    assert [len(two.training), len(two.evolved)] == [1, 1]
    long = seed_row("long", "word " * (CONFIG.max_words + 1))
    assert "long" not in names(seed_parts([*SEEDS, long], CONFIG, "salt").training)
    with pytest.raises(RefineError, match="at most 60 words"):
        seed_parts([long], CONFIG, "salt")


def test_a_row_is_made_from_the_last_one_that_was_kept() -> None:
    seeds = seed_parts(SEEDS, CONFIG, "salt").evolved
    steps, rows = evolved(seeds)
    assert len(rows) == 6 * len(seeds)
    assert len({row["slot"] for row in rows}) == len(rows)
    assert 0 < sum(row["valid"] for row in rows) < len(rows)
    for seed in seeds:
        last = Parent("seed_tasks", seed["row_id"], "evolved")
        text = seed["instruction"]
        chain = [row for row in rows if row["seed_id"] == seed["seed_id"]]
        assert [row["slot"] for row in chain] == [
            slot_of(place, seed["seed_id"]) for place in range(1, 7)
        ]
        for row in chain:
            found = {(one["asset"], one["row_id"], one["role"]) for one in row["parents"]}
            assert found == {
                (last.asset, last.row_id, last.role),
                ("base_model", BASE.row_id, "generator"),
                ("instructor_policy", INSTRUCTOR["row_id"], "instructor"),
            }
            assert (row["parent_instruction"], row["instructor"]) == (text, POLICY.version)
            if row["valid"]:
                last = Parent("evolved_instructions", row["row_id"], "evolved")
                text = row["instruction"]
    again = evolved(seeds)[1]
    assert again == rows
    lost = [row for row in rows if row["rule"] in ("too_short", "too_long", "lost_parent")]
    assert all(row["value"] is not None and row["threshold"] is not None for row in lost)
    # No model is asked by templates and rules.
    assert {row["completion_key"] for row in rows} == {None}
    assert len(steps) == sum(evolution_calls(rows, INSTRUCTOR).generation.values())


def test_an_equal_rewrite_tells_the_reviewers_probability() -> None:
    steps, _ = evolved(SEEDS[:1])
    step = replace(steps[0], rule="equal", review=Review(False, probability=0.25))
    origin = Origin(SEEDS[:1], INSTRUCTOR, BASE, "model", methodcaller("key", "backend"))
    (row,) = evolved_rows([step], origin, CONFIG)
    assert (row["rule"], row["value"], row["threshold"]) == ("equal", 0.25, CONFIG.review_threshold)


def demonstrations() -> list[Demonstration]:
    return [
        Demonstration("seed_tasks", row["row_id"], row["seed_id"], row["instruction"])
        for row in SEEDS
    ]


def proposed(place: int, instruction: str) -> Row:
    payload: dict[str, Any] = {
        "method": SELF_INSTRUCT,
        "slot": f"0000/0000/{place:03d}",
        "round": 0,
        "request": 0,
        "position": place,
        "instruction": instruction,
        "parsed": True,
        "parse_problem": None,
        "completion_key": "k",
        "policy": "model",
    }
    return make_row("raw_instructions", payload, [BASE])


def test_evolved_candidates_are_decided_on_behind_the_others() -> None:
    config = SelfInstructConfig(target=1)
    candidates = [
        proposed(0, "Write a riddle whose answer is a very old lighthouse."),
        proposed(1, "Compare two ways of crossing a wide river."),
    ]
    made = evolved(seed_parts(SEEDS, CONFIG, "salt").evolved)[1]
    alone = InstructionDecider(demonstrations(), config).decide(candidates)
    assert [row["rule"] for row in alone] == ["kept", "over_target"]
    # What was proposed already is no longer new when it is evolved.
    copy = {**made[0], "valid": True, "rule": "kept", "instruction": candidates[0]["instruction"]}
    copy = make_row(
        "evolved_instructions",
        {name: value for name, value in copy.items() if name not in ("row_id", "parents")},
        [BASE],
    )
    decider = InstructionDecider(demonstrations(), config)
    assert decider.decide(candidates) == alone
    decided = decider.decide_evolved([copy, *made])
    assert (decided[0]["rule"], decided[0]["nearest_asset"]) == ("too_similar", "raw_instructions")
    assert [row["candidate_id"] for row in decided[1:]] == [row["row_id"] for row in made]
    for candidate, decision in zip(made, decided[1:], strict=True):
        # Its target is no bound on them; a rule of elimination is the reason.
        assert decision["rule"] != "over_target"
        if not candidate["valid"]:
            told = (decision["rule"], decision["value"], decision["threshold"])
            assert told == (candidate["rule"], candidate["value"], candidate["threshold"])
    assert any(row["kept"] for row in decided)

    pool = filtered_rows(candidates, [*alone, *decided], evolved=[copy, *made])
    assert len(pool) == 1 + sum(row["kept"] for row in decided)
    of_evolved = [row for row in pool if row["method"] == "teams_rl"]
    assert {one["asset"] for row in of_evolved for one in row["parents"]} == {
        "evolved_instructions",
        "instruction_decisions",
    }
    assert [one.evolved for one in decider.accepted] == [
        row["method"] == "teams_rl" for row in pool
    ]
