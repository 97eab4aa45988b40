"""What every policy-gradient algorithm here takes and gives: prompts, rewards, and a row a step.

GRPO, RLOO and PPO differ in how they turn rewards into gradients and in nothing else. They sample
the same rollouts, are paid by the same feedback, write the same rows, and stop for the same
reasons, so that what an ablation over `reinforcement.algorithm` shows is the algorithm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from refine_dagster import progress
from refine_dagster.device import Device
from refine_dagster.generation.request import request_seed
from refine_dagster.knobs import InstanceKnobs, ReinforcementKnobs
from refine_dagster.language_model import ModelRef
from refine_dagster.lineage.content import content_id
from refine_dagster.memory_budget import ROLLOUTS
from refine_dagster.memory_limit import in_batches_that_fit
from refine_dagster.refine_af.feedback import Feedback, ScoredInstance
from refine_dagster.refine_af.instance_prompt import STOP
from refine_dagster.training.rollouts import Rollout, sample_rollouts

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
    """An instruction and the prompt that asks the policy for its instance."""

    instruction_id: str
    instruction: str
    prompt: str

    @classmethod
    def of(cls, instruction: str, prompt: str) -> PolicyPrompt:
        """With the id that the instruction's text gives it."""
        return cls(content_id("prompt", instruction), instruction, prompt)


@dataclass(frozen=True)
class PolicyStep:
    """One step's rollouts and update; the columns of table `rl_policy_checkpoint_steps`.

    The judge's parts are means over the rollouts that pass the format gate, None where none does.
    """

    step: int
    reward: float
    naturalness: float | None
    coherence: float | None
    understandability: float | None
    reward_model: float | None
    format_valid: float
    kl: float
    entropy: float
    length: float
    diversity: float
    loss: float


@dataclass(frozen=True)
class PolicyTraining:
    """A trained policy's steps, in order, and what ended them: all were taken, or a guard."""

    steps: list[PolicyStep]
    ended_by: EndedBy = "steps"


@dataclass(frozen=True)
class PolicyTask:
    """What an algorithm is given.

    Attributes:
        base: the policy to begin with, also the reference of the KL penalty.
        prompts: at least one, all different, in order of their instructions' ids.
        feedback: scores instances; the only source of reward.
        knobs: the algorithm's.
        sampling: bounds the length of rollouts.
        out: folder of the trained policy.
        device: where to train.
        salt: names all noise.
        resume: folder for the state of an unfinished training; None keeps none.
        engine: what writes the rollouts.
        length: most tokens of a prompt and its completion; an engine is made for it.
        batch: most rollouts in the first try's forward and backward pass; None sets no bound.
    """

    base: ModelRef
    prompts: Sequence[PolicyPrompt]
    feedback: Feedback
    knobs: ReinforcementKnobs
    sampling: InstanceKnobs
    out: Path
    device: Device
    salt: str
    resume: Path | None
    batch: int | None = None
    engine: Literal["policy", "vllm"] = "policy"
    length: int | None = None

    @property
    def prompts_per_step(self) -> int:
        """As asked for, or all there are."""
        return min(self.knobs.prompts_per_step, len(self.prompts))

    @property
    def warmup_steps(self) -> int:
        """Steps over which the learning rate rises."""
        return max(1, round(WARMUP_SHARE * self.knobs.steps))

    def seed_of(self, step: int, row: PolicyPrompt, slot: int) -> int:
        """The seed of a rollout's noise."""
        return request_seed(self.salt, "rollout", step, row.instruction_id, slot)

    def rollouts(
        self, model: Any, tokenizer: Any, prompts: Sequence[PolicyPrompt], step: int
    ) -> list[Rollout]:
        """`group_size` rollouts of each prompt, prompt by prompt; noise named by step and slot.

        Where memory runs out fewer are written at once, each with the noise that it would have had.
        """
        slots = [(row, slot) for row in prompts for slot in range(self.knobs.group_size)]

        def sample(part: Sequence[tuple[PolicyPrompt, int]]) -> list[Rollout]:
            groups = [
                (row, [slot for _, slot in group])
                for row, group in groupby(part, key=lambda one: one[0])
            ]
            return sample_rollouts(
                model,
                tokenizer,
                [row.prompt for row, _ in groups],
                [[self.seed_of(step, row, slot) for slot in group] for row, group in groups],
                max_new_tokens=self.sampling.max_new_tokens,
                temperature=self.knobs.temperature,
                stop=STOP,
            )

        parts = in_batches_that_fit(self.device, ROLLOUTS, slots, sample, LOWER)
        return [rollout for _, rollouts in parts for rollout in rollouts]


class _Quiet:
    """Shows nothing of what the judge tells."""

    def start(self, description: str, total: int | None) -> int:
        return 0

    def advance(self, handle: int, steps: int, figures: dict[str, progress.Figure]) -> None:
        return None

    def finish(self, handle: int) -> None:
        return None

    def note(self, message: str) -> None:
        return None


class StepRewards:
    """Scores a step's rollouts and keeps what the step's row needs of them."""

    def __init__(self, feedback: Feedback) -> None:
        self._feedback = feedback
        self._scored: list[ScoredInstance] = []
        self._texts: list[str] = []

    def score(
        self, instructions: Sequence[str], texts: Sequence[str], finished: Sequence[bool]
    ) -> list[float]:
        """The reward of each rollout, in order."""
        # The judge would announce a task of its own at every step.
        with progress.reporting(_Quiet()):
            self._scored = self._feedback.score_rollouts(instructions, texts, finished)
        self._texts = list(texts)
        return [scored.reward for scored in self._scored]

    def row(self, step: int, figures: Mapping[str, float]) -> PolicyStep:
        """The row of a step: the last rollouts' rewards, and the algorithm's own figures.

        Args:
            step: from 1.
            figures: `kl`, `entropy`, `length` and `loss`.
        """
        parts = [scored.scores for scored in self._scored if scored.scores is not None]

        def mean(values: list[float]) -> float | None:
            return fmean(values) if values else None

        return PolicyStep(
            step=step,
            reward=fmean(scored.reward for scored in self._scored),
            naturalness=mean([scores.naturalness for scores in parts]),
            coherence=mean([scores.coherence for scores in parts]),
            understandability=mean([scores.understandability for scores in parts]),
            reward_model=mean([scores.reward_model for scores in parts]),
            format_valid=fmean(scored.instance.format_valid for scored in self._scored),
            kl=figures["kl"],
            entropy=figures["entropy"],
            length=figures["length"],
            diversity=distinct_bigrams(self._texts),
            loss=figures["loss"],
        )


def distinct_bigrams(texts: Sequence[str]) -> float:
    """Share of different pairs of neighbouring words among all such pairs; 0 where there is none.

    >>> distinct_bigrams(["a b c", "a b d"])
    0.75
    """
    pairs = [pair for text in texts for pair in zip(text.split(), text.split()[1:], strict=False)]
    return len(set(pairs)) / len(pairs) if pairs else 0.0
