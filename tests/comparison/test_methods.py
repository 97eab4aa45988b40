"""What methods have for equal numbers of calls, in a home whose calls are counted by hand.

Self-Instruct sent four requests of two candidates each: the third's second is no candidate, the
fourth's first says what the first request said already. TeaMs-RL evolved two seeds by three
operations, whose rows cost 3, 1, 3, 3, 1 and 3 calls, 14 in all; the second and the last were
eliminated, and the third says what Self-Instruct's second candidate says.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from refine_dagster.comparison.arms import METHODS, Method, parse_methods
from refine_dagster.comparison.figures import figures_of
from refine_dagster.comparison.methods import MethodCalls, Share, read_method_calls
from refine_dagster.comparison.report import CALL_HEADINGS, call_table, call_text
from refine_dagster.comparison.study import (
    CellResult,
    DatasetResult,
    Study,
    StudyError,
    StudyInputs,
    plan_study,
)
from refine_dagster.config.dataset import SelfInstructConfig, TeamsRLConfig
from refine_dagster.config.profile import load_profile
from refine_dagster.errors import RefineError
from refine_dagster.evaluation.answers import TaskScore
from refine_dagster.models.language_model import ModelRef
from refine_dagster.runtime import Model
from refine_dagster.self_instruct.decisions import Demonstration, InstructionDecider
from refine_dagster.teams_rl.evolution import instructor_payload
from refine_dagster.warehouse.rows import Row, make_row
from refine_dagster.warehouse.warehouse import Warehouse
from tests.builders.fake_judge import PART_NAMES
from tests.builders.losses import losses_of
from tests.builders.rows import row, seed_row
from tests.builders.warehouse import commit, new_warehouse

PROPOSED = [
    ["Describe a very old lighthouse by the sea.", "Compare two ways of crossing wide rivers."],
    ["Explain why bread dough has to rest.", "List five tools that gardeners need."],
    ["Turn this sentence into a polite question.", "no candidate"],
    ["Describe a very old lighthouse by the sea.", "Suggest names for a small bakery."],
]
EVOLVED = [
    ("seed_a", "Count the vowels of each given word.", 2, True),
    ("seed_b", "Sort.", 0, False),
    ("seed_a", "Compare two ways of crossing wide rivers.", 2, True),
    ("seed_b", "Sort these animals by how fast they run.", 2, True),
    ("seed_a", "Find the longest palindrome that hides here.", 0, True),
    ("seed_b", "Sort these.", 2, False),
]
TRAINING = 1000
PROFILE = load_profile("offline", {"supervised.epochs": 1}, environment={})
CONFIG = PROFILE.self_instruct


def proposal(request: int, position: int, instruction: str) -> Row:
    parsed = instruction != "no candidate"
    return row(
        "raw_instructions",
        slot=f"{request // 2:04d}/{request % 2:04d}/{position:03d}",
        round=request // 2,
        request=request % 2,
        position=position,
        instruction=instruction,
        parsed=parsed,
        parse_problem=None if parsed else "unnumbered",
        completion_key=f"proposal {request}",
        policy="model",
    )


def rewrite(place: int, seed_id: str, instruction: str, reviews: int, valid: bool) -> Row:
    step = place // 2 + 1
    return row(
        "evolved_instructions",
        method="teams_rl",
        slot=f"evolved/{step:02d}/{seed_id}",
        round=step,
        seed_id=seed_id,
        operation="breadth",
        instruction=instruction,
        valid=valid,
        rule="kept" if valid else "too_short",
        completion_key=f"rewrite {place}",
        review_keys=[f"review {place} {one}" for one in range(reviews)],
        policy="model",
    )


SEEDS = [
    seed_row("seed_a", "Count the letters in a word."),
    seed_row("seed_b", "Sort the animals."),
]
RAW = [proposal(at, place, PROPOSED[at][place]) for at in range(4) for place in range(2)]
MADE = [rewrite(place, *one) for place, one in enumerate(EVOLVED)]


def demonstrations() -> list[Demonstration]:
    return [
        Demonstration("seed_tasks", row["row_id"], row["seed_id"], row["instruction"])
        for row in SEEDS
    ]


CALLS = MethodCalls(tuple(SEEDS), tuple(RAW), tuple(MADE), TRAINING, CONFIG)


def texts(share: Share) -> list[str]:
    return [row["instruction"] for row in share.instructions]


def test_calls_are_counted_by_request_and_by_rewrite_with_its_reviews() -> None:
    assert CALLS.totals == {"self_instruct": 4, "teams_rl": 14}
    assert CALLS.most == 4


def test_a_proposal_brings_all_its_candidates() -> None:
    two, four = (CALLS.share("self_instruct", calls) for calls in (2, 4))
    assert texts(two) == [*PROPOSED[0], *PROPOSED[1]]
    assert (two.spent, two.candidates) == ({"propose": 2, "rewrite": 0, "review": 0}, 4)
    # One is no candidate, one repeats the first.
    assert texts(four) == [*texts(two), PROPOSED[2][0], PROPOSED[3][1]]
    assert (four.candidates, four.training) == (8, 0)
    assert four.per_instruction == four.per_instruction_with_training == 4 / 6


def test_a_rewrite_is_had_once_its_reviews_are_paid() -> None:
    spent = {calls: CALLS.share("teams_rl", calls).spent for calls in (2, 3, 4, 6, 7, 14)}
    assert [(one["rewrite"], one["review"]) for one in spent.values()] == [
        (0, 0),
        (1, 2),
        (2, 2),
        (2, 2),
        (3, 4),
        (6, 8),
    ]
    assert {one["propose"] for one in spent.values()} == {0}
    four = CALLS.share("teams_rl", 4)
    assert texts(four) == [EVOLVED[0][1]]
    assert (four.candidates, four.training) == (2, TRAINING)
    assert four.per_instruction == 4
    assert four.per_instruction_with_training == 1004
    nothing = CALLS.share("teams_rl", 2)
    assert (nothing.instructions, nothing.per_instruction) == ((), None)
    assert nothing.per_instruction_with_training is None


def test_a_method_is_decided_on_as_though_there_were_no_other() -> None:
    alone, both = CALLS.share("teams_rl", 14), CALLS.share("both", 28)
    assert texts(alone) == [EVOLVED[place][1] for place in (0, 2, 3, 4)]
    # Beside all that was proposed, what repeats a proposal is not new.
    assert texts(both) == [
        *texts(CALLS.share("self_instruct", 4)),
        *(EVOLVED[place][1] for place in (0, 3, 4)),
    ]
    assert both.spent == {"propose": 4, "rewrite": 6, "review": 8}
    assert both.training == TRAINING


def test_both_spend_one_half_each() -> None:
    assert CALLS.share("both", 6).spent == {"propose": 3, "rewrite": 1, "review": 2}
    assert CALLS.share("both", 7).spent == {"propose": 4, "rewrite": 1, "review": 2}
    assert CALLS.share("both", 1).spent == {"propose": 1, "rewrite": 0, "review": 0}


@pytest.mark.parametrize("method", METHODS[:2])
def test_more_calls_never_take_an_instruction_away(method: Method) -> None:
    most = texts(CALLS.share(method, 14))
    for calls in range(14):
        had = texts(CALLS.share(method, calls))
        assert had == most[: len(had)]


def study(*calls: int, methods: str = "self_instruct,teams_rl,both") -> Study:
    base = Model(ModelRef("nowhere", "f"), "base_model", {})
    inputs = StudyInputs(base, {"fingerprint": "j"}, (), tuple(RAW[:3]), Path("nowhere"))
    arms = parse_methods(methods, "base,seeds_only", PROFILE)
    return plan_study(inputs, PROFILE, arms, calls, 2, [], CALLS)


def test_without_numbers_the_shorter_method_sets_the_calls() -> None:
    planned = study(methods="self_instruct")
    assert (planned.sizes, planned.size_name) == ((4,), "calls")
    assert [(one.arm.name, one.random_seed, one.size) for one in planned.cell_keys()] == [
        ("base", 0, 0),
        ("seeds_only", 1, 4),
        ("method/self_instruct", 1, 4),
        ("seeds_only", 2, 4),
        ("method/self_instruct", 2, 4),
    ]


def test_all_arms_take_the_steps_of_the_largest_dataset_compared_or_not() -> None:
    one_each = {"supervised.epochs": 1, "supervised.batch_size": 1}
    profile = load_profile("offline", one_each, environment={})
    inputs = study(4).inputs
    for methods in ("teams_rl", "self_instruct,both"):
        arms = parse_methods(methods, "", profile)
        planned = plan_study(inputs, profile, arms, [3, 4], 1, [], CALLS)
        # Self-Instruct has 5 instructions of 3 calls, and 6 of 4.
        assert [planned.steps(size) for size in planned.sizes] == [5, 6]
    assert plan_study(inputs, profile, [], [], 1, []).steps(3) == 3


def test_a_study_is_named_by_its_calls_and_not_by_arms_or_sizes() -> None:
    planned = study(3, 4)
    assert planned.name == study(4, methods="teams_rl").name
    without = plan_study(planned.inputs, PROFILE, planned.arms[:2], [2], 1, [])
    assert without.name != planned.name
    fewer = MethodCalls(CALLS.seeds, CALLS.proposed, CALLS.evolved[:5], TRAINING, CONFIG)
    assert fewer.content != CALLS.content
    longer = MethodCalls(CALLS.seeds, CALLS.proposed, CALLS.evolved, 5, CONFIG)
    assert longer.content == CALLS.content


def test_numbers_of_calls_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(StudyError, match="no such number of calls: 0, 5; the home has 4 calls by"):
        study(0, 4, 5)
    assert study(4, 2, 4).sizes == (2, 4)


def cell(arm: str, random_seed: int, size: int, rows: int) -> CellResult:
    dataset = DatasetResult(rows, 1.0, dict.fromkeys(PART_NAMES, 0.5), 1.0) if rows else None
    tasks = (TaskScore(arm, "t", "c", 1, 10.0, 5.0),)
    return CellResult(arm, random_seed, size, tasks, dataset, None, {}, losses_of(2.0), 1.0)


def test_the_report_tells_calls_instructions_and_examples() -> None:
    cells = [
        cell("base", 0, 0, 0),
        *(cell("seeds_only", one, 4, 2) for one in (1, 2)),
        *(cell("method/self_instruct", one, 4, 3 + one) for one in (1, 2)),
        *(cell("method/teams_rl", one, 4, 1) for one in (1, 2)),
        *(cell("method/both", one, 4, 3) for one in (1, 2)),
    ]
    found = figures_of(cells, ("method/self_instruct",), tie_margin=0, samples=9, run_seed="s")
    assert [one.arm for one in found.duels] == ["method/teams_rl", "method/both"] * 2
    # The seeds' dataset is the same at every size.
    assert {one.datasets for one in found.links} == {6}
    lines = [[str(cell) for cell in line] for line in call_table(study(4), found).lines]
    assert [dict(zip(CALL_HEADINGS, line, strict=True)) for line in lines[:2]] == [
        {
            "arm": "method/self_instruct",
            "calls": "4",
            "proposals": "4",
            "rewrites": "0",
            "reviews": "0",
            "training calls": "0",
            "candidates": "8",
            "instructions": "6",
            "examples": "4.5",
            "calls each": "0.67",
            "with training": "0.67",
        },
        {
            "arm": "method/teams_rl",
            "calls": "4",
            "proposals": "0",
            "rewrites": "2",
            "reviews": "2",
            "training calls": "1000",
            "candidates": "2",
            "instructions": "1",
            "examples": "1.0",
            "calls each": "4.00",
            "with training": "1004.00",
        },
    ]
    # Two proposals, and no rewrite: the first one costs three calls.
    assert lines[2][:8] == ["method/both", "4", "2", "0", "0", "1000", "4", "4"]
    told = call_text(CALLS)
    assert "4 proposals and 14 rewrites and reviews, and 1000 calls to train" in told


def home(folder: Path, *, evolved: bool = True, config: SelfInstructConfig = CONFIG) -> Warehouse:
    """A warehouse in which both methods' candidates were decided on together."""
    warehouse = new_warehouse(folder / "warehouse.duckdb")
    decider = InstructionDecider(demonstrations(), config)
    decided = [*decider.decide(RAW), *decider.decide_evolved(MADE if evolved else [])]
    instructor = {
        **instructor_payload(TeamsRLConfig(), "version"),
        "rewrite_calls": TRAINING - 10,
        "review_calls": 10,
    }
    commit(warehouse, "seed_tasks", {"seed_tasks": SEEDS})
    commit(warehouse, "raw_instructions", {"raw_instructions": RAW})
    row = make_row("instructor_policy", instructor)
    owned = {"instructor_policy": [row], "instructor_policy_steps": []}
    commit(warehouse, "instructor_policy", owned)
    commit(
        warehouse,
        "evolved_instructions",
        {"evolved_instructions": MADE if evolved else []},
    )
    commit(warehouse, "instruction_decisions", {"instruction_decisions": decided})
    return warehouse


def test_a_home_gives_its_calls(tmp_path: Path) -> None:
    found = read_method_calls(home(tmp_path), CONFIG)
    assert (found.totals, found.training) == (CALLS.totals, TRAINING)
    assert found.content == CALLS.content
    assert found.share("both", 28) == CALLS.share("both", 28)


def test_the_target_of_the_loop_is_no_bound_on_what_calls_bring(tmp_path: Path) -> None:
    short = SelfInstructConfig(target=2)
    found = read_method_calls(home(tmp_path, config=short), short)
    # One of the four evolved ones says what the second proposal says.
    assert len(found.accepted_in_home()) == 2 + 3
    assert found.content == CALLS.content
    for method in METHODS:
        assert found.share(method, 4) == CALLS.share(method, 4)


def test_config_that_the_home_was_not_made_with_are_refused(tmp_path: Path) -> None:
    warehouse = home(tmp_path)
    with pytest.raises(RefineError, match="would have accepted other candidates"):
        read_method_calls(warehouse, SelfInstructConfig(target=2))


def test_a_home_without_evolution_is_told_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(RefineError, match=r"needs evolved_instructions, .*no rows") as caught:
        read_method_calls(home(tmp_path, evolved=False), CONFIG)
    assert "teams_rl.evolved_seeds" in str(caught.value.fix)
