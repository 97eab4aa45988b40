"""Several answers to one question: what is asked, what is read, where rows come from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from refine_dagster.config.dataset import InstanceConfig
from refine_dagster.generation.completions import CompletionsStore, GeneratorSession
from refine_dagster.generation.request import Request
from refine_dagster.refine_af.candidates import pool_questions, seed_questions, write_answers
from refine_dagster.refine_af.feedback import Feedback
from refine_dagster.refine_af.instances import instance_prompts, write_instances
from refine_dagster.refine_af.reward import PRESETS
from tests.builders.fake_judge import FakeJudge, scores_of
from tests.builders.fake_models import FakeBackend
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
    written = write_answers(questions, policy, FEEDBACK, CONFIG, "run", samples=2)
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
