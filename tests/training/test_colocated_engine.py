"""Which engine writes the rollouts, and, where vLLM is there, what its rollouts are."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest

from refine_dagster import progress
from refine_dagster.config.learning import ReinforcementConfig
from refine_dagster.models.device import Device
from refine_dagster.training.colocated_engine import engine_arguments, engine_for
from refine_dagster.training.trainer_session import TrainingError
from tests.models.test_memory_budget import Notes

CARD = Device("cuda", "bfloat16", 1, deterministic=False)


def _config(**settings: Any) -> ReinforcementConfig:
    return ReinforcementConfig.model_validate(settings)


def test_the_policy_writes_its_rollouts_unless_told() -> None:
    notes = Notes()
    with progress.reporting(notes):
        assert engine_for(_config(), CARD) == "policy"
    assert notes.told == []


@pytest.mark.parametrize(
    ("settings", "device", "obstacle"),
    [
        ({"algorithm": "ppo"}, CARD, "not to ppo"),
        pytest.param(
            {},
            CARD,
            "not installed",
            marks=pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed"),
        ),
        pytest.param(
            {},
            replace(CARD, name="cpu"),
            "not cuda",
            marks=pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed"),
        ),
        pytest.param(
            {},
            replace(CARD, quantization="nf4"),
            "four-bit",
            marks=pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed"),
        ),
    ],
)
def test_an_obstacle_is_named(settings: dict[str, str], device: Device, obstacle: str) -> None:
    notes = Notes()
    with progress.reporting(notes):
        assert engine_for(_config(**settings, rollout_engine="auto"), device) == "policy"
    assert obstacle in notes.told[0]
    with pytest.raises(TrainingError, match=rf"rollout_engine: vLLM cannot[\s\S]*{obstacle}"):
        engine_for(_config(**settings, rollout_engine="vllm"), device)


def test_trl_knows_the_options() -> None:
    from trl import GRPOConfig

    arguments = engine_arguments(_config(vllm_memory_share=0.25), 300)
    config = GRPOConfig(output_dir="unused", use_cpu=True, report_to="none", **arguments)
    assert (config.use_vllm, config.vllm_mode) == (True, "colocate")
    assert (config.vllm_gpu_memory_utilization, config.vllm_max_model_length) == (0.25, 300)
