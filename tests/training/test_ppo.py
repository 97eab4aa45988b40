"""PPO on a tiny model: a known optimum, a step by hand, equal bytes, and a kill in between."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

import numpy
import pytest

from refine_dagster.config.learning import ReinforcementConfig
from refine_dagster.generation.decoding import sample_rollouts
from refine_dagster.hashing import folder_files
from refine_dagster.judge.judge import PARTS, Part, Scores
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import ModelRef, loaded_model, resolve_model, with_adapter
from refine_dagster.prompts.example import STOP, Example
from refine_dagster.refine_af.feedback import Feedback
from refine_dagster.refine_af.reward import PRESETS
from refine_dagster.seeding import request_seed
from refine_dagster.training.policy_steps import PolicyTask
from refine_dagster.training.ppo import PPO
from refine_dagster.training.reinforcement import PolicyPrompt, PolicyTraining, train_policy
from refine_dagster.warehouse.tables import TABLES
from tests.builders.fake_judge import scores_of
from tests.builders.writing_model import prompt_of

NEW_TOKENS = 24
CONFIG = ReinforcementConfig(
    algorithm="ppo",
    steps=5,
    prompts_per_step=3,
    group_size=4,
    learning_rate=3e-3,
    lora_rank=8,
    lora_alpha=16,
    save_every=2,
)


def moon_share(text: str) -> float:
    words = text.split()
    return words.count("moon") / len(words) if words else 0.0


class MoonJudge:
    """Scores an output by the share of its words that are `moon`: the optimum is known."""

    fingerprint = "moon"
    parts: tuple[Part, ...] = PARTS

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self._before = before

    def score(self, examples: Sequence[Example]) -> list[Scores]:
        self._before()
        return [
            scores_of(4 * moon_share(row.output), 4 * moon_share(row.output), 0.0)
            for row in examples
        ]


class KilledAt:
    """Kills the process at the n-th call."""

    def __init__(self, call: int) -> None:
        self._left = call

    def __call__(self) -> None:
        self._left -= 1
        if not self._left:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def base(writing_model_folder: Path) -> ModelRef:
    return resolve_model(str(writing_model_folder))


def _prompts(numbers: Sequence[int]) -> list[PolicyPrompt]:
    return [PolicyPrompt(f"id{number:03d}", *prompt_of(number)) for number in numbers]


def _feedback(judge: MoonJudge | None = None) -> Feedback:
    return Feedback(judge or MoonJudge(), PRESETS["refine_af"], -0.5)


def _train(
    base: ModelRef,
    out: Path,
    device: Device,
    config: ReinforcementConfig = CONFIG,
    *,
    run_seed: str = "s",
    resume: Path | None = None,
    judge: MoonJudge | None = None,
) -> PolicyTraining:
    return train_policy(
        base,
        _prompts(range(20)),
        _feedback(judge),
        config,
        out,
        max_new_tokens=NEW_TOKENS,
        device=device,
        run_seed=run_seed,
        resume=resume,
    )


def _share(ref: ModelRef, device: Device) -> tuple[float, float]:
    """Mean share of `moon` in valid fresh completions of prompts not trained on; share valid."""
    prompts = _prompts(range(100, 110))
    with loaded_model(ref, device) as loaded:
        rollouts = sample_rollouts(
            loaded.model,
            loaded.tokenizer,
            [row.prompt for row in prompts],
            [[100 * number + i for i in range(4)] for number in range(len(prompts))],
            max_new_tokens=24,
            temperature=1.0,
            stop=STOP,
        )
    scored = _feedback().score(
        [row.instruction for row in prompts for _ in range(4)],
        [rollout.text for rollout in rollouts],
        [rollout.finished for rollout in rollouts],
    )
    valid = [moon_share(row.instance.output) for row in scored if row.instance.format_valid]
    return fmean(valid), len(valid) / len(scored)


def test_the_policy_finds_the_known_optimum(base: ModelRef, tmp_path: Path, device: Device) -> None:
    config = CONFIG.model_copy(
        update={
            "steps": 30,
            "prompts_per_step": 4,
            "group_size": 8,
            "learning_rate": 2e-3,
            "kl_coefficient": 0.0,
            "max_kl": 100.0,
            "min_diversity_share": 0.0,
        }
    )
    before, _ = _share(base, device)
    training = _train(base, tmp_path / "policy", device, config)
    after, valid = _share(with_adapter(base, tmp_path / "policy"), device)
    assert before < 0.3
    assert after > 0.95, [round(step.reward, 2) for step in training.steps]
    assert valid > 0.75
    assert training.ended_by == "steps"
    assert training.steps[-1].kl > training.steps[0].kl == pytest.approx(0.0, abs=1e-6)


def test_steps_have_the_tables_columns(base: ModelRef, tmp_path: Path, device: Device) -> None:
    training = _train(base, tmp_path / "policy", device)
    assert [step.step for step in training.steps] == [1, 2, 3, 4, 5]
    for step in training.steps:
        assert set(asdict(step)) == set(TABLES["rl_policy_checkpoint_steps"].columns)
        assert step.entropy > 0
        assert 0 < step.length <= NEW_TOKENS
    assert sorted(folder_files(tmp_path)) == [
        "policy/adapter_config.json",
        "policy/adapter_model.safetensors",
    ]


def test_training_is_a_function_of_its_arguments(
    base: ModelRef, tmp_path: Path, device: Device
) -> None:
    import torch

    first = _train(base, tmp_path / "first", device)
    torch.manual_seed(99)
    expected = float(torch.rand(1))
    torch.manual_seed(99)
    second = _train(base, tmp_path / "second", device, resume=tmp_path / "resume")
    assert float(torch.rand(1)) == expected
    _train(base, tmp_path / "other", device, run_seed="t")
    assert first == second
    assert folder_files(tmp_path / "first") == folder_files(tmp_path / "second")
    assert folder_files(tmp_path / "first") != folder_files(tmp_path / "other")


@pytest.mark.parametrize("weights", ["lora", "full"])
def test_a_killed_training_goes_on_to_the_same_bytes(
    base: ModelRef, tmp_path: Path, device: Device, weights: str
) -> None:
    config = CONFIG.model_copy(update={"weights": weights, "learning_rate": 5e-4})
    undisturbed = _train(base, tmp_path / "whole", device, config)

    resume = tmp_path / "resume"
    child = os.fork()
    if not child:
        judge = MoonJudge(KilledAt(4))
        _train(base, tmp_path / "killed", device, config, resume=resume, judge=judge)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert [path.name for path in resume.iterdir()] == ["ppo.pt"]

    calls: list[None] = []
    judge = MoonJudge(lambda: calls.append(None))
    resumed = _train(base, tmp_path / "resumed", device, config, resume=resume, judge=judge)
    # Two steps were saved; three are left.
    assert len(calls) == 3
    assert resumed == undisturbed
    assert folder_files(tmp_path / "resumed") == folder_files(tmp_path / "whole")


def test_a_fully_trained_policy_is_a_model(base: ModelRef, tmp_path: Path, device: Device) -> None:
    config = CONFIG.model_copy(update={"weights": "full", "steps": 2, "learning_rate": 3e-4})
    training = _train(base, tmp_path / "policy", device, config)
    assert training.steps[0].kl == pytest.approx(0.0, abs=1e-6)
    assert training.steps[1].kl > 0
    ref = resolve_model(str(tmp_path / "policy"))
    assert ref.fingerprint != base.fingerprint
    assert 0 <= _share(ref, device)[0] <= 1


def test_a_guard_ends_the_training_and_is_named(
    base: ModelRef, tmp_path: Path, device: Device
) -> None:
    config = CONFIG.model_copy(update={"max_kl": 1e-4, "guard_window": 2, "steps": 20})
    training = _train(base, tmp_path / "policy", device, config)
    assert training.ended_by == "kl"
    assert len(training.steps) < 20
    assert (tmp_path / "policy" / "adapter_model.safetensors").is_file()


def test_the_first_update_by_hand(base: ModelRef, tmp_path: Path, device: Device) -> None:
    """Loss and gradient of the value head, from probabilities read one completion at a time."""
    import torch

    config = CONFIG.model_copy(
        update={"entropy_coefficient": 0.05, "discount": 0.9, "gae_lambda": 0.8, "group_size": 3}
    )
    prompts = _prompts([1, 4])
    task = PolicyTask(
        base, prompts, _feedback(), config, NEW_TOKENS, tmp_path / "policy", device, "s", None
    )
    scores = [0.3, -0.2, 1.1, 0.0, 0.7, -0.5]
    with torch.random.fork_rng(), loaded_model(base, device) as loaded:
        learner = PPO(task, loaded, request_seed("seed") >> 32)
        rollouts = task.rollouts(learner.policy, loaded.tokenizer, prompts, 1)
        seen = learner.experience(learner.batch(rollouts), scores)
        loss = learner.loss(seen, torch.arange(6))
        loss.backward()

        # A new adapter is the base policy and a new head says 0, so a token's delta is 0 but for
        # the score at the last one, and the ratio is 1.
        advantages, entropies, returns, hidden = [], [], [], []
        for rollout, score in zip(rollouts, scores, strict=True):
            ids = torch.tensor([[*rollout.prompt_ids, *rollout.completion_ids]])
            with torch.no_grad():
                out = learner.policy(input_ids=ids, output_hidden_states=True)
            count = len(rollout.completion_ids)
            logits = out.logits[0, -count - 1 : -1].double().numpy()
            shares = numpy.exp(logits - logits.max(1, keepdims=True))
            shares /= shares.sum(1, keepdims=True)
            entropies += (-(shares * numpy.log(shares)).sum(1)).tolist()
            advantages += [score * 0.72 ** (count - 1 - place) for place in range(count)]
            returns += advantages[-count:]
            hidden.append(out.hidden_states[-1][0, -count - 1 : -1].numpy())
        white = (numpy.array(advantages) - fmean(advantages)) / numpy.std(advantages)
        squares = fmean(value**2 for value in returns)
        expected = -fmean(white) + 0.1 * 0.5 * squares - 0.05 * fmean(entropies)
        assert float(loss.detach()) == pytest.approx(expected, abs=1e-5)
        # d loss / d head = -0.1 * mean(return * hidden state).
        slope = -0.1 * (numpy.array(returns)[:, None] * numpy.concatenate(hidden)).mean(0)
        numpy.testing.assert_allclose(learner.value_head.weight.grad[0], slope, atol=1e-5)
