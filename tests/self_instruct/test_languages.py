"""A run in another language: its prompts, its rules, and the tokens of its decisions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import methodcaller

import pytest

from assets.instructions import instruction_decisions, raw_instructions
from assets.step import PipelineAsset
from refine_dagster.config.dataset import InstanceConfig, SelfInstructConfig
from refine_dagster.config.policy_round import FIRST_ROUND, PolicyRound
from refine_dagster.config.profile import Profile, load_profile
from refine_dagster.config.section import ProfileError
from refine_dagster.errors import RefineError
from refine_dagster.generation.request import Completion, Request
from refine_dagster.language import ENGLISH, Language, language_of, languages
from refine_dagster.prompts.example import (
    HEADER,
    Example,
    instance_lesson,
    instance_prompt,
    zero_shot_prompt,
)
from refine_dagster.prompts.proposal import REQUIREMENTS, propose_prompt
from refine_dagster.refine_af.instances import instance_prompts
from refine_dagster.self_instruct.decisions import Demonstration, InstructionDecider
from refine_dagster.self_instruct.heuristics import Rejection, answer_rejection, first_rejection
from refine_dagster.self_instruct.rounds import Proposer, propose
from refine_dagster.teams_rl.elimination import Rewrite
from refine_dagster.teams_rl.elimination import first_rejection as first_elimination
from refine_dagster.teams_rl.operations import CONSTRAINTS
from refine_dagster.warehouse.rows import Parent, Row, make_row

CHINESE = language_of("zh")


@pytest.mark.parametrize("code", sorted(languages()))
def test_every_language_has_prompts_in_the_one_format(code: str) -> None:
    language = language_of(code)
    prompt = propose_prompt(["a b c"], language)
    head, tasks = prompt.split("\n\n")
    assert tasks == "Task 1: a b c\nTask 2:"
    assert [line[:2] for line in head.split("\n")[1:]] == ["1.", "2.", "3.", "4.", "5."]
    assert instance_prompt("x", [], language).endswith("\n\nInstruction: x\nInput:")
    assert "<noinput>" in instance_prompt("x", [], language)
    assert ("English" in head) is (code == "en")
    assert language.requirements is not None or language.name in head
    assert language.is_written_in("12 + 3")
    if language.requirements:
        assert language.is_written_in(language.requirements)


def test_english_is_as_published() -> None:
    assert propose_prompt(["x"]) == f"{REQUIREMENTS}\nTask 1: x\nTask 2:"
    assert instance_prompt("x", []) == f"{HEADER}\n\nInstruction: x\nInput:"


def test_an_unknown_language_is_one_error_with_the_known_ones() -> None:
    with pytest.raises(
        ProfileError, match=r"language = 'xx' .*no language 'xx'; known: ar, de, en"
    ):
        load_profile("offline", {"language": "xx"}, {})
    with pytest.raises(RefineError, match=r"languages\.yaml"):
        language_of("xx")


@pytest.mark.parametrize(
    ("code", "instruction", "rule"),
    [
        ("zh", "列出三种水果。", None),
        ("zh", "给出“高兴”的一个近义词。", None),
        ("zh", "用 Python 写一个求平均值的函数。", None),
        ("zh", "“冬天”用英语怎么说？", None),
        ("zh", "唱歌", "too_short"),
        ("zh", "列出" * 151, "too_long"),
        ("zh", "描述这张图片里的人物。", "unsuited_word"),
        ("zh", "- 列出三种水果。", "starts_with_punctuation"),
        ("zh", "Name three fruits that are red.", "other_script"),
        ("zh", "？？ ！！ 。。 ，，", "no_tokens"),
        ("es", "¿Cuál es el antónimo de «rápido»?", None),
        ("es", "Dibuja una casa con un árbol.", "unsuited_word"),
        ("fr", "Écris une phrase sur l'été à Paris.", None),
        ("de", "Übersetze den Satz ins Englische.", None),
        ("ar", "اذكر ثلاثة ألوان مختلفة.", None),
        ("hi", "तीन फलों के नाम लिखो।", None),
        ("th", "บอกชื่อผลไม้สามชนิด", None),
        ("en", "Écris une phrase sur l'été.", "starts_outside_ascii"),
        ("en", "列出 三 种 水果 吧", "starts_outside_ascii"),
    ],
)
def test_rules_follow_the_language(code: str, instruction: str, rule: str | None) -> None:
    rejection = first_rejection(instruction, language_of(code))
    assert (rejection and rejection.rule) == rule


def test_rules_for_answers_and_rewrites_read_other_scripts() -> None:
    assert answer_rejection("彩虹是光带。") is None
    assert answer_rejection("été") is None
    assert answer_rejection("。。。") == Rejection("hollow_answer")
    parent = "写一句关于花园的话。"
    assert (
        first_elimination(Rewrite(parent, "写一句关于花园的话，用八个字。", CONSTRAINTS), 60)
        is None
    )
    same = first_elimination(Rewrite(parent, "写一句关于花园的话", CONSTRAINTS), 60)
    assert same == Rejection("identical")
    other = first_elimination(Rewrite(parent, "列出五种交通工具", CONSTRAINTS), 60)
    assert other is not None
    assert other.rule == "lost_parent"


def candidates(texts: Sequence[str]) -> list[Row]:
    return [
        make_row(
            "raw_instructions",
            {
                "method": "self_instruct",
                "slot": f"0000/0000/{position:03d}",
                "round": 0,
                "request": 0,
                "position": position,
                "instruction": text,
                "parsed": True,
                "parse_problem": None,
                "completion_key": "k",
                "policy": "p",
            },
        )
        for position, text in enumerate(texts)
    ]


def decided(texts: Sequence[str], language: Language = ENGLISH) -> list[Row]:
    seeds = [Demonstration("seed_tasks", "0" * 32, "s1", "列出三种常见的水果。")]
    return InstructionDecider(seeds, SelfInstructConfig(), language=language).decide(
        candidates(texts)
    )


def test_decisions_name_their_tokenizer() -> None:
    texts = [
        "列出 5 种交通工具。",
        "计算半径为 5 的圆的面积。",
        "列出三种常见的水果！",
        "说出 5 个形容词。",
    ]
    rows = decided(texts, CHINESE)
    assert [row["rule"] for row in rows] == ["kept", "kept", "too_similar", "kept"]
    assert {row["tokenizer"] for row in rows} == {"unicode"}
    assert rows[2]["nearest_score"] == 1.0


def test_english_decisions_keep_their_ids() -> None:
    rows = decided(["Name four red fruits.", "Say what 苹果 is in English.", "Sing"])
    assert [row["tokenizer"] for row in rows] == [None, "unicode", None]
    before = {name: value for name, value in rows[0].items() if name not in ("tokenizer",)}
    parents = [Parent(**parent) for parent in before.pop("parents")]
    row_id = before.pop("row_id")
    assert make_row("instruction_decisions", before, parents)["row_id"] == row_id


def test_a_loop_in_chinese_accepts_chinese() -> None:
    written = iter(
        ["列出五种交通工具。\nTask 10：用一句话解释什么是潮汐。", "Name four red fruits now."]
    )
    asked: list[Request] = []

    def complete(requests: Sequence[Request]) -> list[Completion]:
        asked.extend(requests)
        return [Completion(f" {next(written)}\n", "stop", 1, 1) for _ in requests]

    def unknown(requests: Sequence[Request]) -> list[bool]:
        return [False] * len(requests)

    model = Parent("base_model", "1" * 32, "generator")
    proposer = Proposer(complete, unknown, len, methodcaller("key", "backend"), "m", model)
    seeds = [Demonstration("seed_tasks", "0" * 32, "s1", "列出三种常见的水果。")]
    config = SelfInstructConfig(target=9, requests_per_round=2, max_rounds=1)
    made = propose(seeds, proposer, config, "run", language=CHINESE)
    assert made.accepted == 2
    assert all(request.prompt.startswith("写一份各不相同的任务清单。\n") for request in asked)
    instance = instance_prompts(
        [{"instruction": "x"}], [], len, InstanceConfig(), "run", language=CHINESE
    )
    assert instance[0].prompt.startswith("每个任务有指令")
    # A policy that starts from the seeds learns the prompt that it is asked with.
    assert instance_lesson(Example("x", "", "y"), CHINESE)[0] == instance[0].prompt


def test_zero_shot_prompts_end_fields_once() -> None:
    assert "列出三种水果。\n" in zero_shot_prompt("列出三种水果。", "x")
    assert "Definition: Name it.\n" in zero_shot_prompt("Name it", "x")


@pytest.mark.parametrize("declare", [raw_instructions, instruction_decisions])
def test_the_language_is_part_of_the_config_where_it_is_not_english(
    declare: Callable[[PolicyRound], PipelineAsset],
) -> None:
    facts = declare(FIRST_ROUND).facts
    english = facts.config_of(Profile(name="x"))
    assert "language" not in english
    assert facts.config_of(Profile(name="x", language="zh")) == {**english, "language": "zh"}
