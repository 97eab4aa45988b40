"""A plain function is a reward part: scored, weighed, whitened and stored beside the judge's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint

import pytest

from assets.graph import facts
from refine_dagster import registry
from refine_dagster.config.dataset import SelectionConfig
from refine_dagster.config.learning import RewardConfig
from refine_dagster.config.profile import load_profile
from refine_dagster.config.section import plug_ins_of
from refine_dagster.errors import RefineError
from refine_dagster.generation.decoding import Rollout
from refine_dagster.prompts.example import Example
from refine_dagster.refine_af.feedback import feedback_of, needs_student
from refine_dagster.refine_af.instances import (
    InstancePrompt,
    WrittenInstance,
    base_scores,
    decision_rows,
    instance_figures,
)
from refine_dagster.refine_af.reward import PRESETS, RewardPartError, with_parts
from refine_dagster.training.policy_steps import StepRewards
from refine_dagster.warehouse.rows import Parent, make_row
from tests.builders.fake_judge import PART_NAMES, FakeJudge, scores_of

SEEN: list[dict[str, list[str]]] = []


def brevity(completions: list[str], **columns: list[str]) -> list[float]:
    SEEN.append({"completions": completions, **columns})
    return [1 / len(text) for text in completions]


def too_few(completions: list[str], **columns: list[str]) -> list[float]:
    return [0.0] * (len(completions) - 1)


def no_number(completions: list[str], **columns: list[str]) -> list[float | None]:
    return [None for _ in completions]


def infinite(completions: list[str], **columns: list[str]) -> list[float]:
    return [float("inf") for _ in completions]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make functions of this module entry points: name -> function's name."""

    def _install(**parts: str) -> None:
        def listed(*, group: str, name: str | None = None) -> list[EntryPoint]:
            return [
                EntryPoint(part, f"{__name__}:{function}", group)
                for part, function in parts.items()
                if name in (None, part)
            ]

        monkeypatch.setattr(registry, "entry_points", listed)

    SEEN.clear()
    return _install


def _config(**weights: float) -> RewardConfig:
    return RewardConfig(preset="coherence_only", parts=weights)


JUDGE = FakeJudge(lambda example: scores_of(coherence=0.8 if example.input else 0.4))


def test_a_function_is_scored_in_the_convention_of_trl(install: Callable[..., None]) -> None:
    install(brevity="brevity")
    judge = with_parts(JUDGE, ["brevity"])
    examples = [
        Example("Say it.", "", "abc"),
        Example("Add.", "1 and 2", "3"),
        Example("Say it.", "", "abc"),
    ]
    assert judge.score(examples) == [
        {**scores_of(coherence=0.4), "brevity": 0.333333},
        {**scores_of(coherence=0.8), "brevity": 1.0},
        {**scores_of(coherence=0.4), "brevity": 0.333333},
    ]
    # Equal examples are scored once.
    assert SEEN == [
        {
            "prompts": ["Say it.", "Add.\n1 and 2"],
            "completions": ["abc", "3"],
            "instruction": ["Say it.", "Add."],
            "input": ["", "1 and 2"],
            "output": ["abc", "3"],
        }
    ]
    assert judge.score([]) == []
    assert [part.name for part in judge.parts] == [*PART_NAMES, "brevity"]
    assert judge.fingerprint == JUDGE.fingerprint
    assert with_parts(JUDGE, []) is JUDGE


def test_feedback_weighs_it_beside_the_presets_parts(install: Callable[..., None]) -> None:
    install(brevity="brevity")
    feedback = feedback_of(JUDGE, _config(brevity=0.5).model_copy(update={"whiten": False}))
    scored = feedback.score(
        ["Say it.", "Say it."], [" <noinput>\nOutput: ab", " no output"], [True, True]
    )
    assert scored[0].scores == {**scores_of(coherence=0.4), "brevity": 0.5}
    assert scored[0].reward == pytest.approx(0.4 + 0.5 * 0.5)
    assert (scored[1].scores, scored[1].reward) == (None, -1.0)
    assert feedback.rule.manifest() == {
        **PRESETS["coherence_only"].manifest(),
        "brevity": 0.5,
    }


def test_it_is_whitened_over_the_base_policys_scores(install: Callable[..., None]) -> None:
    install(brevity="brevity")
    base = [{**scores_of(), "brevity": value} for value in (0.0, 0.5, 1.0)]
    feedback = feedback_of(JUDGE, _config(brevity=2.0), base)
    whitening = feedback.rule.whitening
    assert whitening is not None
    assert whitening["brevity"].mean == 0.5
    # Coherence does not vary over the base policy's scores, so it is only centred.
    assert feedback.rule.reward(base[2]) == pytest.approx(
        2.0 * 0.5 / whitening["brevity"].deviation
    )
    assert feedback.rule.reward(base[1]) == 0.0
    assert feedback.invalid_reward == min(-1.0, feedback.rule.reward(base[0]))


def test_rows_have_its_score_and_figures_its_mean(install: Callable[..., None]) -> None:
    install(brevity="brevity")
    feedback = feedback_of(JUDGE, _config(brevity=0.5))
    instruction = {"row_id": "i", "instruction": "Say it.", "method": "self_instruct"}
    prompt = InstancePrompt(instruction, "Instruction: Say it.\nInput:", ())
    names = tuple(part.name for part in feedback.judge.parts)
    completions = [" <noinput>\nOutput: ab", " no output"]
    scored = feedback.score(["Say it."] * 2, completions, [True] * 2)
    written = [WrittenInstance(prompt, one, names, "key", "policy") for one in scored]
    valid, refused = decision_rows("instance_decisions", written, (), SelectionConfig())
    assert valid["parts"] == {**scores_of(coherence=0.4), "brevity": 0.5}
    assert refused["parts"] == dict.fromkeys([*PART_NAMES, "brevity"])
    assert base_scores([valid, refused]) == [valid["parts"]]
    assert instance_figures([valid, refused])["mean_brevity"] == 0.5
    payload = {name: value for name, value in valid.items() if name not in ("row_id", "parents")}
    without = {**payload, "parts": scores_of(coherence=0.4)}
    parents = [Parent("filtered_instructions", "i", "instruction")]
    assert make_row("instance_decisions", payload, parents) == valid
    assert make_row("instance_decisions", without, parents)["row_id"] != valid["row_id"]


def test_a_step_of_training_has_its_mean(install: Callable[..., None]) -> None:
    install(brevity="brevity")
    rewards = StepRewards(feedback_of(JUDGE, _config(brevity=1.0)))
    texts = [" <noinput>\nOutput: ab", " <noinput>\nOutput: abcd", " no output"]
    rollouts = [Rollout([1], [2], text, finished=True) for text in texts]
    figures = {"kl": 0.0, "entropy": 1.0, "length": 3.0, "loss": 0.1}
    rewards.score(["Say it."] * 3, rollouts)
    step = rewards.row(1, figures)
    assert step.parts == {**scores_of(coherence=0.4), "brevity": 0.375}
    assert step.record()["brevity"] == 0.375
    rewards.score(["Say it."], rollouts[2:])
    assert rewards.row(2, figures).parts == dict.fromkeys([*PART_NAMES, "brevity"])


def test_its_version_is_part_of_the_config_and_of_manifests(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(brevity="brevity")
    with_part = load_profile("offline", overrides={"reward.parts": {"brevity": 0.5}})
    assert plug_ins_of(with_part.reward) == {"plug_ins": {"reward part brevity": __name__}}
    monkeypatch.setattr(brevity, "version", 2, raising=False)
    found = facts()["instruction_dataset"].config_of(with_part)
    assert found["plug_ins"] == {"reward part brevity": f"{__name__} 2"}
    assert found["reward"]["parts"] == {"brevity": 0.5}
    policy, judge = facts()["rl_policy_checkpoint"], facts()["feedback_judge"]
    second = policy.code_version(with_part)
    monkeypatch.setattr(brevity, "version", 3)
    assert policy.code_version(with_part) != second
    plain = load_profile("offline")
    assert judge.code_version(with_part) == judge.code_version(plain)


def test_without_parts_config_and_manifests_are_as_if_there_were_no_such_field() -> None:
    plain = load_profile("offline")
    assert plain.reward.parts == {}
    assert "parts" not in plain.reward.model_dump(mode="json")
    assert "plug_ins" not in facts()["instruction_dataset"].config_of(plain)


@pytest.mark.parametrize("name", [*PART_NAMES, "reward", "length", "constant"])
def test_a_name_that_rows_use_is_refused(install: Callable[..., None], name: str) -> None:
    install(**{name: "brevity"})
    with pytest.raises(RewardPartError, match=f"can be called {name}"):
        with_parts(JUDGE, [name])


def test_an_unknown_part_names_the_known_ones(install: Callable[..., None]) -> None:
    install(brevity="brevity")
    with pytest.raises(RefineError, match="no reward part is called 'brief'; known: brevity"):
        load_profile("offline", overrides={"reward.parts": {"brief": 0.5}})


@pytest.mark.parametrize(
    ("function", "what"),
    [
        ("too_few", "gave 1 values for 2 completions"),
        ("no_number", "gave None as the value of a completion"),
        ("infinite", "gave inf as the value of a completion"),
    ],
)
def test_what_is_not_a_number_an_example_is_refused(
    install: Callable[..., None], function: str, what: str
) -> None:
    install(broken=function)
    judge = with_parts(JUDGE, ["broken"])
    with pytest.raises(RewardPartError, match="reward part broken of") as raised:
        judge.score([Example("a", "", "b"), Example("a", "", "c")])
    assert raised.value.what == what


class Student:
    """An opened part: the length of an output."""

    fingerprint = "a student"

    def __call__(
        self, prompts: Sequence[str], completions: Sequence[str], **_: Sequence[object]
    ) -> list[float]:
        return [float(len(text)) for text in completions]


def test_a_part_with_a_model_has_to_be_opened() -> None:
    config = RewardConfig(preset="influence", whiten=False)
    with pytest.raises(RewardPartError, match="influence needs a model") as caught:
        feedback_of(JUDGE, config)
    assert "refine-dagster run" in str(caught.value.fix)
    feedback = feedback_of(JUDGE, config, (), {"influence": Student()})
    [scored] = feedback.score(["Say it."], [" <noinput>\nOutput: abc"], [True])
    assert scored.reward == 3.0
    assert scored.scores == {**scores_of(coherence=0.4), "influence": 3.0}
    assert feedback.opened == {"opened_parts": {"influence": "a student"}}
    assert feedback_of(JUDGE, RewardConfig(whiten=False)).opened == {}
    assert not needs_student(RewardConfig())
    assert needs_student(RewardConfig(parts={"influence": 0.5}))
