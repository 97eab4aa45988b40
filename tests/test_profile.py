"""Profiles: precedence, and one error that lists every problem with a guess."""

from __future__ import annotations

from pathlib import Path

import pytest

from refine_dagster.config.profile import Profile, ProfileError, load_profile, packaged_profiles


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
    assert "'reinforcment.steps' (override), did you mean 'reinforcement'?" in text
    assert "'self_instruct.targit' (override), did you mean 'self_instruct.target'?" in text
    assert "judge.steps = 0: Input should be greater than or equal to 1" in text
    assert "reward.preset = 'kind'" in text


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
