"""Profiles: precedence, and one error that lists every problem with a guess."""

from __future__ import annotations

from pathlib import Path

import pytest

from refine_dagster.config.models import DeviceConfig
from refine_dagster.config.profile import Profile, load_profile, read_config
from refine_dagster.config.section import ProfileError
from refine_dagster.config.sources import packaged_profiles
from resources.models import GpuResource


def test_packaged_profiles_are_valid() -> None:
    assert packaged_profiles() == ["gpu", "laptop", "offline"]
    for name in packaged_profiles():
        assert load_profile(name, environment={}).name == name


def test_precedence_is_default_yaml_environment_override(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("self_instruct:\n  target: 5\n  max_rounds: 6\n  stall_rounds: 7\n")
    environment = {
        "REFINE_SELF_INSTRUCT__MAX_ROUNDS": "16",
        "REFINE_SELF_INSTRUCT__STALL_ROUNDS": "17",
        "REFINE_BASE_MODEL": "/models/x",
        "REFINE_PROFILE": "gpu",
        "REFINE_HOME": "/elsewhere",
        "UNRELATED": "1",
    }
    profile = load_profile(str(path), {"self_instruct.stall_rounds": 27}, environment)
    config = profile.self_instruct
    assert (config.target, config.max_rounds, config.stall_rounds) == (5, 16, 27)
    assert config.requests_per_round == Profile(name="x").self_instruct.requests_per_round
    assert profile.base_model.id == "/models/x"
    assert load_profile(None, environment={"REFINE_PROFILE": "gpu"}).name == "gpu"


def test_every_problem_is_told_at_once_with_a_guess() -> None:
    with pytest.raises(ProfileError) as caught:
        load_profile(
            "offline",
            {"reinforcment.steps": 3, "judge.steps": 0, "self_instruct.targit": 1},
            {"REFINE_REWARD__PRESET": "kind"},
        )
    text = str(caught.value)
    assert "'reinforcment.steps' (--set), did you mean 'reinforcement.steps'?" in text
    assert "'self_instruct.targit' (--set), did you mean 'self_instruct.target'?" in text
    assert "judge.steps = 0 (--set): Input should be greater than or equal to 1" in text
    assert "reward.preset = 'kind' (REFINE_REWARD__PRESET): Input should be 'refine_af'" in text
    assert text.endswith(
        "Fix: `refine-dagster config describe SECTION` prints fields, types, ranges and meanings"
    )


BAD = """\
rounds: 99
judge:
  steps: many
  stebs: 3
reward: 4
instances:
"""


def test_problems_of_a_file_have_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(BAD)
    with pytest.raises(ProfileError) as caught:
        load_profile(str(path), {"judge": {"batch_size": 0}}, {"REFINE_JUDGE": "7"})
    lines = str(caught.value).splitlines()
    assert lines[0] == f"profile {path}: 6 problems"
    assert [line.strip().partition("): ")[0] for line in lines[1:-1]] == [
        "judge = '7' (REFINE_JUDGE",
        "unknown field 'judge.stebs' (bad.yaml:4), did you mean 'judge.steps'?",
        "reward = 4 (bad.yaml:5",
        "rounds = 99 (bad.yaml:1",
        "judge.steps = 'many' (bad.yaml:3",
        "judge.batch_size = 0 (--set",
    ]


def test_one_problem_is_one_line_and_names_its_section() -> None:
    with pytest.raises(ProfileError) as caught:
        load_profile("offline", {"teams_rl.hidden": "[8, wide]"}, {})
    assert "profile offline: teams_rl.hidden = 'wide' (--set): Input should be" in str(caught.value)
    assert "`refine-dagster config describe teams_rl` prints" in str(caught.value)


def test_fields_that_do_not_agree_are_named_by_their_section() -> None:
    with pytest.raises(ProfileError, match="offline: teams_rl: operations has a name twice"):
        load_profile("offline", {"teams_rl.operations": "[breadth, breadth]"}, {})


def test_every_value_has_an_origin_and_the_launchpad_wins(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("judge: {steps: 5, batch_size: 6}\nselection:\n  keep_share: 0.5\n")
    config = read_config(
        str(path),
        {"judge.batch_size": "7", "judge.learning_rate": "1e-4", "judge.primer_tasks": "8"},
        {"REFINE_JUDGE__LEARNING_RATE": "0.5", "REFINE_RUN_SEED": "12"},
        {"judge": {"primer_tasks": 9}},
    )
    judge = config.profile.judge
    assert (judge.steps, judge.batch_size, judge.learning_rate, judge.primer_tasks) == (
        5,
        7,
        1e-4,
        9,
    )
    assert config.profile.run_seed == "12"
    assert config.origins == {
        "name": "mine.yaml",
        "judge.steps": "mine.yaml:1",
        "judge.batch_size": "--set",
        "judge.learning_rate": "--set",
        "judge.primer_tasks": "launchpad",
        "selection.keep_share": "mine.yaml:3",
        "run_seed": "REFINE_RUN_SEED",
    }


def test_texts_are_read_as_yaml_where_the_field_is_no_text() -> None:
    environment = {
        "REFINE_GENERATOR__BATCH_SIZE": "null",
        "REFINE_TEAMS_RL__HIDDEN": "[8, 16]",
        "REFINE_REWARD__WHITEN": "off",
        "REFINE_DEVICE__QUANTIZATION": "none",
        "REFINE_BASE_MODEL__REVISION": "0123",
        "REFINE_JUDGE__UNIEVAL_REVISION": "null",
    }
    profile = load_profile("offline", environment=environment)
    assert profile.generator.batch_size is None
    assert profile.teams_rl.hidden == (8, 16)
    assert profile.reward.whiten is False
    assert profile.device.quantization == "none"
    assert profile.base_model.revision == "0123"
    assert profile.judge.unieval_revision is None


def test_a_profile_made_in_code_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFINE_RUN_SEED", "other")
    monkeypatch.setenv("RUN_SEED", "other")
    assert Profile(name="mine").run_seed == "refine"
    assert load_profile("offline").run_seed == "other"


def test_a_value_of_a_resource_is_refused_like_one_of_a_profile() -> None:
    with pytest.raises(ProfileError, match=r"device\.dtype = 'int1' \(resource gpu\)") as caught:
        GpuResource(dtype="int1").config(DeviceConfig())
    assert "`refine-dagster config describe device`" in str(caught.value)


def test_unknown_profile_names_the_known_ones() -> None:
    with pytest.raises(ProfileError, match="did you mean 'offline'"):
        load_profile("ofline", environment={})
    with pytest.raises(ProfileError, match="no such file"):
        load_profile("absent.yaml", environment={})


def test_a_profile_that_is_no_mapping(tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text("- a\n- b\n")
    with pytest.raises(ProfileError, match="mapping of sections"):
        load_profile(str(path), environment={})
    path.write_text("a: [unclosed")
    with pytest.raises(ProfileError, match="not YAML"):
        load_profile(str(path), environment={})
    path.write_bytes(b"judge: \xff")
    with pytest.raises(ProfileError, match="not YAML"):
        load_profile(str(path), environment={})


def test_a_budget_of_zero_is_refused() -> None:
    with pytest.raises(ProfileError, match=r"generator\.max_requests = 0"):
        load_profile("offline", {"generator.max_requests": 0}, {})


def test_the_gpu_profile_finds_batches_from_memory_and_the_offline_one_does_not() -> None:
    gpu, offline = load_profile("gpu", environment={}), load_profile("offline", environment={})
    assert gpu.generator.batch_size is None
    assert (gpu.device.dtype, gpu.device.quantization) == ("bfloat16", "nf4")
    assert gpu.reinforcement.rollout_engine == "auto"
    assert offline.generator.batch_size == 64
    assert offline.reinforcement.rollout_engine == "policy"
    with pytest.raises(ProfileError, match=r"generator\.batch_size = 0"):
        load_profile("offline", {"generator.batch_size": 0}, {})


@pytest.mark.parametrize(
    "value",
    [
        "https://user:SECRETSECRETSECRET@example.org/model",
        "https://SECRETSECRETSECRET@example.org/model",
        "hf_SECRETSECRETSECRET/model",
        "https://example.org/model?access_token=SECRETSECRETSECRET",
    ],
)
@pytest.mark.parametrize("field", ["base_model.id", "base_model.layers", "base_model", "nonsense"])
def test_a_credential_is_refused_and_not_shown(field: str, value: str) -> None:
    with pytest.raises(ProfileError) as raised:
        load_profile("offline", {field: value})
    assert "SECRET" not in str(raised.value)
    if field == "base_model.id":
        assert "holds a credential" in str(raised.value)
