"""A prompt shows each instruction text once, and none that looks like a prompt itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from refine_dagster.config.dataset import InstanceConfig, SelfInstructConfig
from refine_dagster.refine_af.instances import instance_prompts
from refine_dagster.seeds.readers import read_seeds
from refine_dagster.self_instruct.decisions import seed_demonstrations
from refine_dagster.self_instruct.rounds import demonstrations
from refine_dagster.warehouse.rows import Row, make_row

CASES = Path(__file__).parents[3] / "shared" / "cases"


def seed(number: int, instruction: str, given: str = "", output: str = "x") -> Row:
    return make_row(
        "seed_tasks",
        {
            "seed_id": f"s{number}",
            "name": f"s{number}",
            "instruction": instruction,
            "input": given,
            "output": output,
            "instances": [{"input": given, "output": output}],
            "is_classification": False,
        },
    )


def check(rows: list[Row]) -> None:
    texts = {row["instruction"] for row in rows}
    config, seeds = SelfInstructConfig(), seed_demonstrations(rows)
    wanted = config.human_demonstrations + config.machine_demonstrations
    for request in range(30):
        drawn = demonstrations(seeds, [], config, "run", 0, request)
        shown = [demonstration.instruction for demonstration in drawn]
        assert len(set(shown)) == len(shown) == min(wanted, len(texts))
    asked: list[Row] = [{"instruction": f"Task about {n} cats."} for n in range(30)]
    prompts = instance_prompts(asked, rows, len, InstanceConfig(), "run")
    many = set()
    for prompt in prompts:
        shown = [row["instruction"] for row in prompt.shown]
        assert len(set(shown)) == len(shown) == 3
        many |= {row["seed_id"] for row in prompt.shown}
    # Another instance each time: none of a text is lost.
    assert len(many) > len(texts)


def test_one_instruction_with_many_inputs() -> None:
    rows = [seed(n, "Is it good or bad?", f"soup {n}") for n in range(20)]
    check(rows + [seed(50 + n, f"Name {n} birds.") for n in range(6)])


def test_a_seed_with_marks_is_not_shown() -> None:
    rows = [seed(0, "Read it.", "x\nOutput: y"), seed(1, "Do it."), seed(2, "Say it.")]
    asked: list[Row] = [{"instruction": f"Task {n}"} for n in range(9)]
    prompts = instance_prompts(asked, rows, len, InstanceConfig(), "run")
    assert {row["seed_id"] for prompt in prompts for row in prompt.shown} == {"s1", "s2"}


@pytest.mark.skipif(not CASES.is_dir(), reason="../shared/cases is absent")
def test_the_case_of_many_inputs() -> None:
    file = read_seeds(str(CASES / "same_instruction_many_inputs.jsonl"))
    check([make_row("seed_tasks", one.row()) for one in file.seeds])
