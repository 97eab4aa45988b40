"""DPO on pairs of a tiny model's own completions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from refine_dagster.config.learning import ReinforcementConfig
from refine_dagster.generation.decoding import sample_rollouts
from refine_dagster.hashing import folder_files
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import ModelRef, loaded_model, resolve_model, with_adapter
from refine_dagster.prompts.example import STOP
from refine_dagster.training.reinforcement import PolicyPrompt, PolicyTraining, train_policy
from refine_dagster.training.trainer_session import TrainingError
from tests.builders.writing_model import prompt_of

CONFIG = ReinforcementConfig(
    algorithm="dpo",
    steps=12,
    prompts_per_step=4,
    group_size=6,
    learning_rate=3e-3,
    lora_rank=8,
    lora_alpha=16,
)


def share_of_o(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[float]:
    """The share of the letter o."""
    return [text.count("o") / max(1, len(text)) for text in completions]


def all_alike(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[float]:
    return [1.0] * len(completions)


def prompts(numbers: Sequence[int]) -> list[PolicyPrompt]:
    return [PolicyPrompt(f"id{number:03d}", *prompt_of(number)) for number in numbers]


@pytest.fixture(scope="module")
def base(writing_model_folder: Path) -> ModelRef:
    return resolve_model(str(writing_model_folder))


def train(
    base: ModelRef, out: Path, device: Device, reward: Callable[..., list[float]] = share_of_o
) -> PolicyTraining:
    asked = prompts(range(48))
    return train_policy(base, asked, reward, CONFIG, out, max_new_tokens=24, device=device)


def mean_reward(ref: ModelRef, device: Device) -> float:
    asked = [row.prompt for row in prompts(range(100, 120))]
    with loaded_model(ref, device) as loaded:
        rollouts = sample_rollouts(
            loaded.model,
            loaded.tokenizer,
            asked,
            [[100 * number + slot for slot in range(4)] for number in range(len(asked))],
            max_new_tokens=24,
            temperature=1.0,
            stop=STOP,
        )
    return fmean(share_of_o([], [rollout.text for rollout in rollouts]))


def test_the_policy_learns_what_was_chosen(base: ModelRef, tmp_path: Path, device: Device) -> None:
    training = train(base, tmp_path / "policy", device)
    assert [step.step for step in training.steps] == list(range(1, CONFIG.steps + 1))
    assert training.ended_by == "steps"
    assert training.steps[0].loss == pytest.approx(0.6931, abs=1e-3)
    assert fmean(step.loss for step in training.steps[-3:]) < 0.68
    assert training.steps[0].kl == pytest.approx(0.0, abs=1e-4)
    assert len({step.reward for step in training.steps}) == 1
    assert mean_reward(with_adapter(base, tmp_path / "policy"), device) > mean_reward(base, device)

    assert 0 < len(training.pairs) <= 48
    instructions = {row.instruction for row in prompts(range(48))}
    for pair in training.pairs:
        assert pair.chosen_reward > pair.rejected_reward
        assert share_of_o([], [pair.chosen, pair.rejected]) == [
            pair.chosen_reward,
            pair.rejected_reward,
        ]
        assert pair.instruction in instructions
    assert len(training.record()["pairs"]) == len(training.pairs)

    again = train(base, tmp_path / "again", device)
    assert again == training
    assert folder_files(tmp_path / "again") == folder_files(tmp_path / "policy")


def test_without_a_difference_in_reward_there_is_no_pair(
    base: ModelRef, tmp_path: Path, device: Device
) -> None:
    with pytest.raises(TrainingError, match="there are no pairs"):
        train(
            base,
            tmp_path / "policy",
            device,
            lambda prompts, completions, **_: [1.0] * len(prompts),
        )


def test_all_weights_are_refused(base: ModelRef, tmp_path: Path, device: Device) -> None:
    config = CONFIG.model_copy(update={"weights": "full"})
    with pytest.raises(TrainingError, match="LoRA update"):
        train_policy(
            base, prompts(range(4)), share_of_o, config, tmp_path / "policy", device=device
        )
