"""What every policy-gradient algorithm here takes and gives: prompts, rewards, and a row a step.

GRPO, RLOO and PPO differ in how they turn rewards into gradients and in nothing else, so that an
ablation over `reinforcement.algorithm` shows the algorithm.

What is trained is either a LoRA adapter, and the reference policy is the model with the adapter
switched off; or all weights, and the reference is a frozen copy of the model.

A reward learned from data is right only near the data. A policy that goes on climbing it ends in
text that the judge overrates, so a *guard* ends the training (`guard_of`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal, Protocol

from refine_dagster import progress
from refine_dagster.config.learning import ReinforcementConfig
from refine_dagster.evaluation.diversity import distinct_bigrams
from refine_dagster.generation.decoding import Rollout, sample_rollouts
from refine_dagster.hashing import content_id
from refine_dagster.judge.judge import Part
from refine_dagster.models.batches import in_batches_that_fit
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import ModelRef, load_tokenizer, save_adapter
from refine_dagster.models.memory import ROLLOUTS, Trainer, TrainingPlan, budgeted_batch
from refine_dagster.prompts.example import STOP
from refine_dagster.refine_af.feedback import ScoredInstance
from refine_dagster.seeding import request_seed
from refine_dagster.training.colocated_engine import RolloutEngine, engine_bytes
from refine_dagster.training.trainer_session import lora

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

EndedBy = Literal["steps", "kl", "diversity", "invalid_format"]
WARMUP_SHARE = 0.1
# Names this work in progress, budgets and the ledger.
WORK = "reinforcement"
LOWER = (
    "lower instances.max_new_tokens, instances.max_demonstration_tokens or "
    "reinforcement.group_size, or set device.quantization to `nf4`"
)


@dataclass(frozen=True)
class PolicyPrompt:
    instruction_id: str
    instruction: str
    prompt: str

    @classmethod
    def of(cls, instruction: str, prompt: str) -> PolicyPrompt:
        """A prompt whose id is the hash of the instruction's text."""
        return cls(content_id("prompt", instruction), instruction, prompt)


@dataclass(frozen=True)
class PolicyStep:
    """One step's rollouts and update; the columns of table `rl_policy_checkpoint_steps`.

    `parts` are the means over the rollouts that pass the format gate, None where none does.
    """

    step: int
    reward: float
    parts: Mapping[str, float | None]
    format_valid: float
    kl: float
    entropy: float
    length: float
    diversity: float
    loss: float

    def record(self) -> dict[str, Any]:
        """JSON values, each part beside the other figures."""
        values = asdict(self)
        return {**values.pop("parts"), **values}

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> PolicyStep:
        own = {field.name for field in fields(cls)} - {"parts"}
        parts = {name: value for name, value in record.items() if name not in own}
        return cls(parts=parts, **{name: record[name] for name in own})


@dataclass(frozen=True)
class PolicyPair:
    """Two completions of an instruction's prompt, of which the chosen one has more reward."""

    instruction: str
    chosen: str
    rejected: str
    chosen_reward: float
    rejected_reward: float


@dataclass(frozen=True)
class PolicyTraining:
    """A trained policy's steps, in order, and what ended them: all were taken, or a guard.

    `pairs` are what an algorithm learned from that learns from pairs.
    """

    steps: list[PolicyStep]
    ended_by: EndedBy = "steps"
    pairs: Sequence[PolicyPair] = ()

    def record(self) -> dict[str, Any]:
        record = {"steps": [step.record() for step in self.steps], "ended_by": self.ended_by}
        return record | ({"pairs": [asdict(pair) for pair in self.pairs]} if self.pairs else {})


class RolloutReward(Protocol):
    """Scores the rollouts of a training step (`feedback.Feedback`, `feedback.Reward`)."""

    @property
    def parts(self) -> Sequence[Part]:
        """What the reward is made of; a step's row has their means."""

    def score_rollouts(
        self, instructions: Sequence[str], completions: Sequence[str], finished: Sequence[bool], /
    ) -> list[ScoredInstance]:
        """One scored rollout a completion, in order."""


@dataclass(frozen=True)
class PolicyTask:
    """The input of an algorithm.

    Attributes:
        base: the policy to begin with, also the reference of the KL penalty.
        prompts: at least one, all different, in order of their instructions' ids.
        max_new_tokens: longest completion.
        resume: folder for the state of an unfinished training; None keeps none.
    """

    base: ModelRef
    prompts: Sequence[PolicyPrompt]
    reward: RolloutReward
    config: ReinforcementConfig
    max_new_tokens: int
    out: Path
    device: Device
    run_seed: str
    resume: Path | None
    engine: RolloutEngine = "policy"
    stop: tuple[str, ...] = STOP

    @property
    def prompts_per_step(self) -> int:
        return min(self.config.prompts_per_step, len(self.prompts))

    @property
    def warmup_steps(self) -> int:
        return max(1, round(WARMUP_SHARE * self.config.steps))

    def plan(
        self, batch: int, *, trainer: Trainer = "own", value_head: bool = False
    ) -> TrainingPlan:
        """Announce what the training asks of memory, and lower its batch to what fits.

        `batch` is the rollouts that the algorithm would read in one forward and backward pass.
        """
        config, tokenizer = self.config, load_tokenizer(self.base)
        prompts = tokenizer([row.prompt for row in self.prompts])["input_ids"]
        plan = TrainingPlan(
            WORK,
            batch=batch,
            length=max(len(ids) for ids in prompts) + self.max_new_tokens,
            answer=self.max_new_tokens,
            trained=config.weights,
            lora_rank=config.lora_rank,
            trainer=trainer,
            rollouts=self.prompts_per_step * config.group_size,
            reference=config.weights == "full",
            value_head=value_head,
            engine=engine_bytes(config, self.device) if self.engine == "vllm" else 0,
        )
        return replace(plan, batch=budgeted_batch(self.base, plan, self.device, LOWER))

    def prompts_of(self, step: int) -> list[PolicyPrompt]:
        """A step's prompts: pass after pass over all of them, each pass in an order of its own.

        A pass ends with the last whole step's worth of prompts.
        """
        count = self.prompts_per_step
        turn, number = divmod(step - 1, len(self.prompts) // count)

        def drawn(row: PolicyPrompt) -> int:
            return request_seed(self.run_seed, "ppo prompts", turn, row.instruction_id)

        return sorted(self.prompts, key=drawn)[number * count : (number + 1) * count]

    def seed_of(self, step: int, row: PolicyPrompt, slot: int) -> int:
        return request_seed(self.run_seed, "rollout", step, row.instruction_id, slot)

    def rollouts(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[PolicyPrompt],
        step: int,
    ) -> list[Rollout]:
        """`group_size` rollouts of each prompt, prompt by prompt; noise named by step and slot.

        Where memory runs out fewer are written at once, each with the same noise.
        """
        slots = [(row, slot) for row in prompts for slot in range(self.config.group_size)]

        def sample(part: Sequence[tuple[PolicyPrompt, int]]) -> list[Rollout]:
            groups = [
                (row, [slot for _, slot in group])
                for row, group in groupby(part, key=lambda row_and_slot: row_and_slot[0])
            ]
            return sample_rollouts(
                model,
                tokenizer,
                [row.prompt for row, _ in groups],
                [[self.seed_of(step, row, slot) for slot in group] for row, group in groups],
                max_new_tokens=self.max_new_tokens,
                temperature=self.config.temperature,
                stop=self.stop,
            )

        parts = in_batches_that_fit(self.device, ROLLOUTS, slots, sample, LOWER)
        return [rollout for _, rollouts in parts for rollout in rollouts]


class StepRewards:
    """Scores a step's rollouts and keeps what the step's row needs of them.

    `scored` are the last rollouts.
    """

    def __init__(self, reward: RolloutReward) -> None:
        self._reward = reward
        self.scored: list[ScoredInstance] = []
        self._texts: list[str] = []

    def score(self, instructions: Sequence[str], rollouts: Sequence[Rollout]) -> list[float]:
        self._texts = [rollout.text for rollout in rollouts]
        finished = [rollout.finished for rollout in rollouts]
        # The judge would show a task of its own at every step.
        with progress.reporting(None):
            self.scored = self._reward.score_rollouts(instructions, self._texts, finished)
        return [scored.reward for scored in self.scored]

    def row(self, step: int, figures: Mapping[str, float]) -> PolicyStep:
        """The row of a step: the last rollouts' rewards, and the algorithm's own figures."""
        valid = [scored.scores for scored in self.scored if scored.scores is not None]
        parts = {
            part.name: fmean(scores[part.name] for scores in valid) if valid else None
            for part in self._reward.parts
        }
        return PolicyStep(
            step=step,
            reward=fmean(scored.reward for scored in self.scored),
            parts=parts,
            format_valid=fmean(scored.instance.format_valid for scored in self.scored),
            diversity=distinct_bigrams(self._texts),
            **{name: figures[name] for name in ("kl", "entropy", "length", "loss")},
        )


def guard_of(steps: Sequence[PolicyStep], config: ReinforcementConfig) -> EndedBy | None:
    """The guard that ends the training after these steps; None where it may go on.

    A function of the steps alone, so a resumed training ends where an undisturbed one does. Figures
    are means over windows of `guard_window` steps. The first guard that fires, in this order:

    - `kl`: the mean divergence of the last window is above `max_kl`.
    - `diversity`: its mean reward is above the first window's, and its mean share of distinct
      bigrams below `min_diversity_share` of the first window's.
    - `invalid_format`: its share of rollouts refused by the format gate is more than
      `max_invalid_rise` above the first window's.
    """
    window = config.guard_window
    if len(steps) < window:
        return None
    first, last = steps[:window], steps[-window:]
    if fmean(step.kl for step in last) > config.max_kl:
        return "kl"
    if len(steps) < 2 * window:
        return None
    rising = fmean(step.reward for step in last) > fmean(step.reward for step in first)
    floor = config.min_diversity_share * fmean(step.diversity for step in first)
    if rising and fmean(step.diversity for step in last) < floor:
        return "diversity"
    rise = fmean(step.format_valid for step in first) - fmean(step.format_valid for step in last)
    if rise > config.max_invalid_rise:
        return "invalid_format"
    return None


def guard_callback(steps: list[PolicyStep], config: ReinforcementConfig) -> TrainerCallback:
    """A callback of TRL's trainers that stops the training where a guard does."""
    from transformers import TrainerCallback

    class GuardCallback(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            if guard_of(steps, config):
                control.should_training_stop = True

        on_log = on_train_begin

    return GuardCallback()


def trainable(
    model: PreTrainedModel, config: ReinforcementConfig
) -> tuple[PreTrainedModel, PreTrainedModel | None]:
    """The model to train, and a frozen copy; None where the adapter can be switched off."""
    if config.weights == "full":
        return model, copy.deepcopy(model).requires_grad_(False)
    from peft import get_peft_model, prepare_model_for_kbit_training

    if getattr(model, "is_loaded_in_4bit", False):
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    return get_peft_model(model, lora(model, config.lora_rank, config.lora_alpha)), None


@contextmanager
def reference_policy(
    model: PreTrainedModel, frozen: PreTrainedModel | None
) -> Iterator[PreTrainedModel]:
    if frozen is not None:
        yield frozen
        return
    with model.disable_adapter():
        yield model


def save_policy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the adapter; if all weights were trained, the model and its tokenizer."""
    if hasattr(model, "peft_config"):
        save_adapter(model, folder)
        return
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
