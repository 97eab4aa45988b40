"""Several answers to one question: what is asked, what is read, where rows come from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refine_dagster import stages
from refine_dagster.config.dataset import InstanceConfig, SelectionConfig
from refine_dagster.generation.completions import CompletionsStore, GeneratorSession
from refine_dagster.generation.request import Request
from refine_dagster.models.language_model import ModelRef
from refine_dagster.refine_af.candidates import (
    agreement,
    chosen,
    pool_questions,
    seed_questions,
    write_answers,
)
from refine_dagster.refine_af.feedback import Feedback
from refine_dagster.refine_af.instances import instance_prompts, write_instances
from refine_dagster.refine_af.reward import PRESETS
from refine_dagster.runtime import Model
from tests.builders.fake_judge import FakeJudge, scores_of
from tests.builders.fake_models import FakeBackend, FakeTraining, fake_runtime
from tests.builders.rows import row, seed_row
from tests.builders.warehouse import new_warehouse

SEEDS = [
    seed_row("colour", "Name a colour.", output="red"),
    seed_row("fruit"),
    seed_row("twice", "Say it twice.", "sun", "sun sun"),
]
CONFIG = InstanceConfig(demonstrations=2)
FEEDBACK = Feedback(FakeJudge(lambda _: scores_of()), PRESETS["refine_af"], -1.0)


def session(folder: Path, answer: Callable[[Request], str]) -> GeneratorSession:
    store = CompletionsStore(new_warehouse(folder / "warehouse.duckdb"), "run")
    return GeneratorSession(FakeBackend("small", answer), store, "small")


def test_a_seed_is_asked_with_its_own_input_and_does_not_see_its_answer(tmp_path: Path) -> None:
    asked: list[Request] = []

    def answer(request: Request) -> str:
        asked.append(request)
        return f" answer {request.seed % 100}\n"

    policy = session(tmp_path, answer)
    questions = seed_questions(SEEDS, policy.backend.count_tokens, CONFIG, "run")
    written = write_answers(questions, policy, FEEDBACK, CONFIG, "run", range(2))
    assert len(asked) == 6
    assert len({request.seed for request in asked}) == 6
    prompts = [request.prompt for request in asked[:3]]
    assert [prompt.splitlines()[-2:] for prompt in prompts] == [
        ["Input: <noinput>", "Output:"],
        ["Input: <noinput>", "Output:"],
        ["Input: sun", "Output:"],
    ]
    for seed, prompt in zip(SEEDS, prompts, strict=True):
        assert f"Output: {seed['output']}" not in prompt
        assert prompt.count("\nOutput: ") == 2
    for seed, answers in zip(SEEDS, written, strict=True):
        assert len(answers) == 2
        for one in answers:
            assert one.scored.instance.format_valid
            assert one.scored.instance.input == seed["input"]
            assert one.scored.instance.output.startswith("answer")
            assert one.prompt.instruction["row_id"] == seed["row_id"]
            assert one.prompt.pool == "seed_tasks"
            assert one.completion_key in {policy.key_of(request) for request in asked}


def test_the_question_of_an_instance_is_its_input(tmp_path: Path) -> None:
    replies = {"Name a bird.": " <noinput>\nOutput: a wren", "Name a tree.": " no answer"}
    policy = session(tmp_path, lambda request: replies[instruction_of(request.prompt)])
    pool = [row("filtered_instructions", instruction=text, slot=text) for text in replies]
    count = policy.backend.count_tokens
    prompts = instance_prompts(pool, SEEDS, count, CONFIG, "run")
    written = write_instances(prompts, policy, FEEDBACK, CONFIG, "run")
    [question] = pool_questions(written)
    assert question.prompt.instruction["instruction"] == "Name a bird."
    assert (question.input, question.lead) == ("", " <noinput>\nOutput:")


def instruction_of(prompt: str) -> str:
    return prompt.rpartition("Instruction: ")[2].partition("\n")[0]


def test_agreement_is_with_the_other_answers() -> None:
    assert agreement(["red", "red", "blue", "a red one"]) == [
        pytest.approx((1 + 0 + 0.5) / 3),
        pytest.approx((1 + 0 + 0.5) / 3),
        0.0,
        pytest.approx((0.5 + 0.5 + 0) / 3),
    ]


def test_the_first_of_the_best_is_chosen_and_what_has_no_value_never() -> None:
    assert chosen([[0.1, 0.3, 0.3], [None, -2.0], [None, None]]) == [1, 1, 0]


def test_all_answers_are_rows_with_their_values_and_parents(tmp_path: Path) -> None:
    replies = [" red", " blue", " red", ""]
    asked: list[Request] = []

    def answer(request: Request) -> str:
        asked.append(request)
        return replies[(len(asked) - 1) // len(SEEDS)]

    policy = session(tmp_path, answer)
    questions = seed_questions(SEEDS, policy.backend.count_tokens, CONFIG, "run")
    groups = write_answers(questions, policy, FEEDBACK, CONFIG, "run", range(4))
    model = Model(ModelRef("nowhere", "small"), "base_model", row("base_model"))
    judge = row("feedback_judge")
    runtime = fake_runtime(
        "run",
        FakeTraining(tmp_path / "checkpoints"),
        CompletionsStore(new_warehouse(tmp_path / "other.duckdb"), "run"),
        lambda ref, request: "",
    )
    given = model, judge, SelectionConfig(keep_share=1.0), runtime
    made = stages.select_best("instance_decisions", groups, "agreement", *given)
    rows = made.tables["instance_decisions"]
    assert len(rows) == 4 * len(SEEDS)
    kept = [row for row in rows if row["kept"]]
    assert [(row["instruction"], row["output"]) for row in kept] == [
        (seed["instruction"], "red") for seed in SEEDS
    ]
    for row_ in rows:
        value = row_["parts"]["agreement"] if row_["format_valid"] else None
        expected = {"red": 0.5, "blue": 0.0, "": None}
        assert value == expected[row_["output"]]
        if not row_["kept"]:
            assert (row_["rule"], row_["value"], row_["threshold"]) == ("not_best", value, 0.5)
        roles = {parent["role"]: parent["row_id"] for parent in row_["parents"]}
        assert {"instruction", "policy", "judge"} <= roles.keys()
        assert roles["judge"] == judge["row_id"]
        assert roles["instruction"] in {seed["row_id"] for seed in SEEDS}

    def influence(prompts: list[str], completions: list[str], **columns: list[str]) -> list[float]:
        assert columns["input"] == [""] * 3 or columns["input"] == ["sun"] * 3
        return [float(text == "blue") for text in completions]

    influence.fingerprint = "student"  # type: ignore[attr-defined]
    part: Any = influence
    made = stages.select_best("instance_decisions", groups, "influence", *given, part)
    kept = [row for row in made.tables["instance_decisions"] if row["kept"]]
    assert {row["output"] for row in kept} == {"blue"}
    assert {row["parts"]["influence"] for row in kept} == {1.0}
