"""GRPO from a judge's reward, on a tiny model that writes well-formed instances."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

import pytest

from refine_dagster.config.learning import ReinforcementConfig
from refine_dagster.generation.decoding import sample_rollouts
from refine_dagster.hashing import folder_files
from refine_dagster.judge.judge import PARTS, Part, Scores
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import ModelRef, loaded_model, resolve_model, with_adapter
from refine_dagster.progress import Figure, reporting
from refine_dagster.prompts.example import STOP, Example
from refine_dagster.refine_af.feedback import Feedback
from refine_dagster.refine_af.reward import PRESETS
from refine_dagster.statistics import paired_gain
from refine_dagster.training.reinforcement import (
    PolicyPrompt,
    PolicyStep,
    PolicyTraining,
    train_policy,
)
from refine_dagster.training.trainer_session import TrainingError
from refine_dagster.warehouse.tables import TABLES
from tests.builders.fake_judge import scores_of
from tests.builders.writing_model import prompt_of

INVALID = -0.5
NEW_TOKENS = 24
CONFIG = ReinforcementConfig(
    steps=2, prompts_per_step=3, group_size=4, learning_rate=3e-3, lora_rank=8, lora_alpha=16
)


class LetterJudge:
    """Likes an output the more of its letters are `o`."""

    fingerprint = "letter o"
    parts: tuple[Part, ...] = PARTS

    def score(self, examples: Sequence[Example]) -> list[Scores]:
        shares = [row.output.count("o") / max(1, len(row.output)) for row in examples]
        return [scores_of(share, share, 0.0, 1.0) for share in shares]


class CutOffError(Exception):
    """Stands for whatever ends a process."""


class InterruptedJudge(LetterJudge):
    """Is interrupted at its n-th call."""

    def __init__(self, call: int) -> None:
        self.calls = 0
        self._last = call

    def score(self, examples: Sequence[Example]) -> list[Scores]:
        self.calls += 1
        if self.calls == self._last:
            raise CutOffError
        return super().score(examples)


class Listener:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.started: list[tuple[str, int | None]] = []
        self.figures: list[dict[str, Figure]] = []

    def start(self, description: str, total: int | None) -> int:
        self.started.append((description, total))
        return len(self.started) - 1

    def advance(self, handle: int, steps: int, figures: dict[str, Figure]) -> None:
        if self.started[handle][0] == "reinforcement":
            self.figures.append(figures)

    def finish(self, handle: int) -> None: ...

    def note(self, message: str) -> None: ...


@pytest.fixture(scope="module")
def base(writing_model_folder: Path) -> ModelRef:
    return resolve_model(str(writing_model_folder))


def _prompts(numbers: Sequence[int]) -> list[PolicyPrompt]:
    return [PolicyPrompt(f"id{number:03d}", *prompt_of(number)) for number in numbers]


def _feedback(judge: LetterJudge | None = None) -> Feedback:
    return Feedback(judge or LetterJudge(), PRESETS["refine_af"], INVALID)


def _train(
    base: ModelRef,
    out: Path,
    device: Device,
    config: ReinforcementConfig = CONFIG,
    prompts: Sequence[PolicyPrompt] | None = None,
    run_seed: str = "s",
    resume: Path | None = None,
    judge: LetterJudge | None = None,
) -> PolicyTraining:
    chosen = _prompts(range(40)) if prompts is None else prompts
    feedback = _feedback(judge)
    return train_policy(
        base,
        chosen,
        feedback,
        config,
        out,
        max_new_tokens=NEW_TOKENS,
        device=device,
        run_seed=run_seed,
        resume=resume,
    )


def _rewards(ref: ModelRef, device: Device, prompts: Sequence[PolicyPrompt]) -> list[float]:
    """Mean reward of 8 completions of each prompt, the same noise for every model."""
    with loaded_model(ref, device) as loaded:
        rollouts = sample_rollouts(
            loaded.model,
            loaded.tokenizer,
            [row.prompt for row in prompts],
            [[100 * number + i for i in range(8)] for number, _ in enumerate(prompts)],
            max_new_tokens=24,
            temperature=1.0,
            stop=STOP,
        )
    scored = _feedback().score(
        [row.instruction for row in prompts for _ in range(8)],
        [rollout.text for rollout in rollouts],
        [rollout.finished for rollout in rollouts],
    )
    rewards = [row.reward for row in scored]
    return [fmean(rewards[start : start + 8]) for start in range(0, len(rewards), 8)]


def test_held_out_reward_rises_beyond_noise(base: ModelRef, tmp_path: Path, device: Device) -> None:
    files = folder_files(Path(base.path))
    config = CONFIG.model_copy(update={"steps": 14, "prompts_per_step": 4, "group_size": 8})
    training = _train(base, tmp_path / "policy", device, config)

    held_out = _prompts(range(100, 140))
    before = _rewards(base, device, held_out)
    after = _rewards(with_adapter(base, tmp_path / "policy"), device, held_out)
    gain = paired_gain(before, after, run_seed="test")
    assert gain.low > 0.02, gain
    assert fmean(step.reward for step in training.steps[-4:]) > fmean(
        step.reward for step in training.steps[:4]
    )
    assert training.steps[-1].kl > training.steps[0].kl
    assert folder_files(Path(base.path)) == files


def test_steps_have_the_tables_columns_and_are_reported(
    base: ModelRef, tmp_path: Path, device: Device
) -> None:
    listener = Listener()
    with reporting(listener):
        training = _train(base, tmp_path / "policy", device)

    assert ("reinforcement", CONFIG.steps) in listener.started
    assert [set(figures) for figures in listener.figures] == [{"reward", "kl"}] * CONFIG.steps
    assert [step.step for step in training.steps] == [1, 2]
    for step in training.steps:
        assert set(asdict(step)) == set(TABLES["rl_policy_checkpoint_steps"].columns)
        assert all(math.isfinite(value) for value in step.record().values())
        assert PolicyStep.of_record(step.record()) == step
        assert step.kl >= -1e-9
        assert 0 <= step.format_valid <= 1
        assert 0 < step.length <= NEW_TOKENS
        assert 0 < step.diversity <= 1
        assert step.entropy > 0
        assert step.parts["reward_model"] == pytest.approx(1.0)
    # A new LoRA adapter is the base policy.
    assert training.steps[0].kl == pytest.approx(0.0, abs=1e-6)
    assert sorted(folder_files(tmp_path)) == [
        "policy/adapter_config.json",
        "policy/adapter_model.safetensors",
    ]


def test_training_is_a_function_of_its_arguments(
    base: ModelRef, tmp_path: Path, device: Device
) -> None:
    prompts = _prompts(range(40))
    first = _train(base, tmp_path / "first", device, prompts=prompts)
    random.seed(99)
    import torch

    torch.manual_seed(99)
    shuffled = random.Random(2).sample(prompts, len(prompts))
    second = _train(base, tmp_path / "second", device, prompts=shuffled)
    other = _train(base, tmp_path / "other", device, prompts=prompts, run_seed="t")
    assert first == second
    assert folder_files(tmp_path / "first") == folder_files(tmp_path / "second")
    assert folder_files(tmp_path / "first") != folder_files(tmp_path / "other")
    assert first != other


def test_global_generators_are_left_as_they_were(
    base: ModelRef, tmp_path: Path, device: Device
) -> None:
    import numpy
    import torch

    random.seed(5)
    numpy.random.seed(5)
    torch.manual_seed(5)
    expected = random.random(), numpy.random.random(), float(torch.rand(1))
    random.seed(5)
    numpy.random.seed(5)
    torch.manual_seed(5)
    _train(base, tmp_path / "policy", device, CONFIG.model_copy(update={"steps": 1}))
    assert (random.random(), numpy.random.random(), float(torch.rand(1))) == expected


def test_divergence_is_measured_where_it_is_not_penalised(
    base: ModelRef, tmp_path: Path, device: Device
) -> None:
    free = CONFIG.model_copy(update={"kl_coefficient": 0.0, "steps": 4})
    held = CONFIG.model_copy(update={"kl_coefficient": 20.0, "steps": 4})
    far = _train(base, tmp_path / "far", device, free).steps[-1].kl
    near = _train(base, tmp_path / "near", device, held).steps[-1].kl
    assert far > 2 * near > 0


def test_fewer_prompts_than_a_step_asks_for_are_enough(
    base: ModelRef, tmp_path: Path, device: Device
) -> None:
    twice = [*_prompts([1, 2]), PolicyPrompt("id999", *prompt_of(1))]
    training = _train(base, tmp_path / "policy", device, prompts=twice)
    assert len(training.steps) == CONFIG.steps


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
@pytest.mark.parametrize("weights", ["lora", "full"])
def test_an_interrupted_training_goes_on_to_the_same_bytes(
    base: ModelRef, tmp_path: Path, device: Device, algorithm: str, weights: str
) -> None:
    update = {"algorithm": algorithm, "weights": weights, "steps": 5, "save_every": 2}
    config = CONFIG.model_copy(update={**update, "learning_rate": 5e-4})
    # Five steps of three prompts are more than one pass over these.
    few = _prompts(range(7))
    undisturbed = _train(base, tmp_path / "whole", device, config, few)
    resume = tmp_path / "resume"
    judge = InterruptedJudge(4)
    with pytest.raises(CutOffError):
        _train(base, tmp_path / "cut", device, config, few, resume=resume, judge=judge)
    # A save that was cut off has no list of steps and is passed over.
    (resume / "checkpoint-4").mkdir()
    judge = InterruptedJudge(99)
    resumed = _train(base, tmp_path / "resumed", device, config, few, resume=resume, judge=judge)
    assert judge.calls == 3
    assert resumed == undisturbed
    assert folder_files(tmp_path / "resumed") == folder_files(tmp_path / "whole")


def test_rloo_raises_the_reward(base: ModelRef, tmp_path: Path, device: Device) -> None:
    update = {"algorithm": "rloo", "steps": 14, "prompts_per_step": 4, "group_size": 8}
    config = CONFIG.model_copy(
        update={**update, "kl_coefficient": 0.005, "min_diversity_share": 0.0}
    )
    training = _train(base, tmp_path / "policy", device, config)
    held_out = _prompts(range(100, 140))
    before = _rewards(base, device, held_out)
    after = _rewards(with_adapter(base, tmp_path / "policy"), device, held_out)
    assert paired_gain(before, after, run_seed="test").low > 0.02
    assert len(training.steps) == 14
    assert all(math.isfinite(value) for step in training.steps for value in step.record().values())
    assert training.steps[0].kl == pytest.approx(0.0, abs=1e-6)
    assert training.ended_by == "steps"


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_a_guard_ends_the_training_and_is_named(
    base: ModelRef, tmp_path: Path, device: Device, algorithm: str
) -> None:
    update = {"algorithm": algorithm, "max_kl": 1e-4, "guard_window": 2, "steps": 20}
    training = _train(base, tmp_path / "policy", device, CONFIG.model_copy(update=update))
    assert training.ended_by == "kl"
    assert 2 <= len(training.steps) < 20
    assert (tmp_path / "policy" / "adapter_model.safetensors").is_file()


def test_no_prompts_are_an_error(base: ModelRef, tmp_path: Path, device: Device) -> None:
    with pytest.raises(TrainingError, match="no prompts to train the policy on"):
        _train(base, tmp_path / "policy", device, prompts=[])
    assert not (tmp_path / "policy").exists()
