"""Weights of four bits: what the loader is asked, and, where bitsandbytes is there, the thing."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from refine_dagster.config.learning import ReinforcementConfig, SupervisedConfig
from refine_dagster.config.models import DeviceConfig
from refine_dagster.models.device import Device, DeviceError, device_session
from refine_dagster.models.language_model import loaded_model, quantized, resolve_model
from refine_dagster.prompts.example import Example
from refine_dagster.refine_af.feedback import Feedback
from refine_dagster.refine_af.reward import PRESETS
from refine_dagster.training.reinforcement import PolicyPrompt, train_policy
from refine_dagster.training.sft import fine_tune
from refine_dagster.training.trainer_session import TrainingError
from tests.builders.fake_judge import FakeJudge, scores_of

WHOLE = Device("cpu", "float32", 1, deterministic=True)
FOUR_BITS = replace(WHOLE, quantization="nf4")
THERE = find_spec("bitsandbytes") is not None


def test_the_loader_is_asked_for_nested_nf4_in_the_dtype_of_the_device() -> None:
    assert quantized(WHOLE) == {}
    asked = quantized(replace(FOUR_BITS, dtype="bfloat16"))
    assert asked["device_map"] == {"": "cpu"}
    config = asked["quantization_config"].to_dict()
    assert config["load_in_4bit"]
    assert config["bnb_4bit_quant_type"] == "nf4"
    assert config["bnb_4bit_use_double_quant"]
    assert config["bnb_4bit_compute_dtype"] == "bfloat16"


@pytest.mark.skipif(THERE, reason="bitsandbytes is installed")
def test_without_bitsandbytes_the_knob_is_refused() -> None:
    with (
        pytest.raises(DeviceError, match=r"bitsandbytes[\s\S]*refine-dagster\[4bit\]"),
        device_session(DeviceConfig(device="cpu", quantization="nf4")),
    ):
        pass


def test_all_weights_of_a_quantized_model_cannot_be_trained(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match="four bits cannot be trained"):
        train_policy(
            resolve_model(str(tiny_model_folder)),
            [PolicyPrompt("a", "Count.", "Count.")],
            Feedback(FakeJudge(lambda _: scores_of()), PRESETS["balanced"], -1.0),
            ReinforcementConfig(weights="full"),
            tmp_path,
            device=FOUR_BITS,
            run_seed="salt",
        )


@pytest.mark.skipif(not THERE, reason="bitsandbytes is not installed (extra `4bit`)")
def test_a_model_in_four_bits_is_near_the_whole_one_and_learns(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    import torch

    base = resolve_model(str(tiny_model_folder))
    logits = []
    for device in (WHOLE, FOUR_BITS):
        with loaded_model(base, device) as loaded, torch.inference_mode():
            ids = loaded.tokenizer("Count the words.", return_tensors="pt")
            logits.append(loaded.model(**ids).logits)
            assert getattr(loaded.model, "is_loaded_in_4bit", False) == (device is FOUR_BITS)
    error = (logits[0] - logits[1]).abs().mean()
    assert 0 < error < 0.5 * logits[0].std()
    examples = [Example("Count the words.", "a b c", "3"), Example("Say it.", "", "it")] * 4
    trained = fine_tune(
        base,
        examples,
        SupervisedConfig(batch_size=4),
        tmp_path / "adapter",
        steps=6,
        device=FOUR_BITS,
        run_seed="salt",
    )
    assert trained.steps[-1].loss < trained.steps[0].loss
