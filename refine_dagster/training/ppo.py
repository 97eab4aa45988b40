"""PPO as in the paper's stage 2: clipped ratios, a value head, and an adaptive KL penalty.

TRL no longer has a PPO trainer, so it is written out here, on transformers and PEFT. A step:

1. rollouts of the policy for the step's prompts, and their rewards from the automated feedback;
2. one reading of them by the policy (log-probabilities, entropy, values) and by the frozen base
   policy. A token's reward is its KL penalty, and the last one's also the score
   (Ziegler et al., arXiv 1909.08593);
3. generalised advantages, whitened over the step's tokens (arXiv 1506.02438);
4. `epochs` passes over the rollouts in `minibatches` updates each, with the clipped losses of
   policy and values and a bonus on entropy (arXiv 1707.06347);
5. the KL coefficient is moved towards what keeps the divergence at `target_kl`, per token.

The value head is one linear layer on the policy's last hidden state, zero at first, and is thrown
away at the end. All noise is named by step and place, so a state needs no generators.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from refine_dagster import progress
from refine_dagster.generation.decoding import Rollout
from refine_dagster.models.architecture import text_width
from refine_dagster.models.batches import in_batches_that_fit, with_smaller_batches
from refine_dagster.models.language_model import LoadedModel, loaded_model
from refine_dagster.models.padding import pad_left, pad_right, positions
from refine_dagster.seeding import request_seed
from refine_dagster.training import ppo_math
from refine_dagster.training.policy_steps import (
    LOWER,
    WORK,
    PolicyStep,
    PolicyTask,
    PolicyTraining,
    StepRewards,
    guard_of,
    reference_policy,
    save_policy,
    trainable,
)
from refine_dagster.training.trainer_session import (
    MAX_GRADIENT_NORM,
    check_loss,
    load_state,
    save_state,
    trainer_session,
)

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

STATE_FILE = "ppo.pt"


@dataclass(frozen=True)
class Batch:
    """Padded rollouts: prompts on the left, completions on the right; integer tensors.

    `ids` and `attention` are (rollouts, prompt + completion tokens), `chosen` and its `mask`
    (rollouts, completion tokens); masks are 1 on tokens.
    """

    ids: Tensor
    attention: Tensor
    chosen: Tensor
    mask: Tensor

    def rows(self, places: Tensor) -> Batch:
        parts = (self.ids, self.attention, self.chosen, self.mask)
        return Batch(*(part[places] for part in parts))


@dataclass(frozen=True)
class Reading:
    """What a policy makes of a batch; float32, each (rollouts, completion tokens)."""

    logs: Tensor
    entropy: Tensor
    values: Tensor


@dataclass(frozen=True)
class Experience:
    """A step's rollouts, as the policy that wrote them reads them, and what they are worth."""

    batch: Batch
    old: Reading
    kl: Tensor
    advantages: Tensor
    returns: Tensor


def train_by_ppo(task: PolicyTask) -> PolicyTraining:
    config = task.config
    rollouts = task.prompts_per_step * config.group_size
    plan = task.plan(math.ceil(rollouts / config.minibatches), value_head=True)
    with (
        progress.task(WORK, total=config.steps) as advance,
        trainer_session(task.device, "reinforcement", task.run_seed) as session,
        loaded_model(task.base, task.device) as loaded,
    ):
        learner = PPO(task, loaded, session.seed, plan.batch)
        learner.load_state()
        if learner.steps:
            advance(len(learner.steps), reward=learner.steps[-1].reward, kl=learner.steps[-1].kl)
        ended_by = guard_of(learner.steps, config)
        while ended_by is None and len(learner.steps) < config.steps:
            row = learner.step()
            advance(1, reward=row.reward, kl=row.kl)
            ended_by = guard_of(learner.steps, config)
            if row.step % config.save_every == 0:
                learner.save_state()
        save_policy(learner.policy, loaded.tokenizer, task.out)
    return PolicyTraining(learner.steps, ended_by or "steps")


class PPO:
    def __init__(
        self, task: PolicyTask, loaded: LoadedModel, seed: int, batch: int | None = None
    ) -> None:
        """Begin at the base policy.

        The seed, 31 bits, decides the adapter's first weights; `batch` bounds the rollouts in the
        first try's forward and backward pass.
        """
        import torch

        self._task = task
        self._pass = batch
        self._tokenizer = loaded.tokenizer
        self._rewards = StepRewards(task.reward)
        torch.manual_seed(seed)
        self.policy, self._frozen = trainable(loaded.model, task.config)
        self.policy.train()
        if task.device.name != "cpu":
            self.policy.gradient_checkpointing_enable({"use_reentrant": False})
        self.value_head = torch.nn.Linear(text_width(self.policy), 1, device=task.device.name)
        torch.nn.init.zeros_(self.value_head.weight)
        torch.nn.init.zeros_(self.value_head.bias)
        self._weights = {
            name: weight for name, weight in self.policy.named_parameters() if weight.requires_grad
        }
        self._trained = [*self._weights.values(), *self.value_head.parameters()]
        self._optimiser = torch.optim.AdamW(
            self._trained, lr=task.config.learning_rate, weight_decay=0.0
        )
        self.kl_coefficient = task.config.kl_coefficient
        self.steps: list[PolicyStep] = []

    def step(self) -> PolicyStep:
        number, config = len(self.steps) + 1, self._task.config
        prompts = self._task.prompts_of(number)
        rollouts = self._task.rollouts(self.policy, self._tokenizer, prompts, number)
        instructions = [row.instruction for row in prompts for _ in range(config.group_size)]
        scores = self._rewards.score(instructions, rollouts)
        seen = self.experience(self.batch(rollouts), scores)
        for group in self._optimiser.param_groups:
            group["lr"] = config.learning_rate * min(1.0, number / self._task.warmup_steps)
        loss = fmean(
            self._update(seen, places)
            for epoch in range(config.epochs)
            for places in self._minibatches(number, epoch, len(rollouts))
        )
        mask = seen.batch.mask
        kl = float(ppo_math.masked_mean(seen.kl, mask))
        if config.target_kl is not None:
            self.kl_coefficient = ppo_math.adapted_coefficient(
                self.kl_coefficient, kl, config.target_kl, len(rollouts), config.kl_horizon
            )
        figures = {
            "kl": kl,
            "entropy": float(ppo_math.masked_mean(seen.old.entropy, mask)),
            "length": float(mask.sum(1).float().mean()),
            "loss": loss,
        }
        self.steps.append(self._rewards.row(number, figures))
        return self.steps[-1]

    def batch(self, rollouts: Sequence[Rollout]) -> Batch:
        import torch

        device, pad = self._task.device.name, self._tokenizer.pad_token_id
        prompts = pad_left([rollout.prompt_ids for rollout in rollouts], pad)
        completions = pad_right([rollout.completion_ids for rollout in rollouts], pad)
        (left, before), (chosen, mask) = prompts.tensors(device), completions.tensors(device)
        whole, attention = torch.cat([left, chosen], 1), torch.cat([before, mask], 1)
        return Batch(whole, attention, chosen, mask)

    def experience(self, batch: Batch, scores: Sequence[float]) -> Experience:
        """Read the rollouts by policy and reference; spread the scores over their tokens."""
        import torch

        config = self._task.config
        with torch.no_grad():
            old = self._read_in_parts(self.policy, batch)
            with reference_policy(self.policy, self._frozen) as reference:
                base = self._read_in_parts(reference, batch)
            kl = old.logs - base.logs
            paid = torch.tensor(scores, device=kl.device, dtype=kl.dtype)
            advantages, returns = ppo_math.advantages_and_returns(
                ppo_math.token_rewards(paid, kl, batch.mask, self.kl_coefficient),
                old.values,
                batch.mask,
                config.discount,
                config.gae_lambda,
            )
        return Experience(batch, old, kl, ppo_math.whiten(advantages, batch.mask), returns)

    def loss(self, seen: Experience, places: Tensor) -> Tensor:
        """PPO's loss on the rollouts at some places, a scalar tensor with gradient."""
        config, batch = self._task.config, seen.batch.rows(places)
        new = self.read(self.policy, batch)
        policy = ppo_math.clipped_policy_loss(
            new.logs, seen.old.logs[places], seen.advantages[places], batch.mask, config.clip_range
        )
        value = ppo_math.clipped_value_loss(
            new.values,
            seen.old.values[places],
            seen.returns[places],
            batch.mask,
            config.value_clip_range,
        )
        entropy = ppo_math.masked_mean(new.entropy, batch.mask)
        return policy + config.value_coefficient * value - config.entropy_coefficient * entropy

    def read(self, model: PreTrainedModel, batch: Batch) -> Reading:
        """One pass of a model over a batch; position t - 1 predicts token t."""
        tokens = batch.chosen.shape[1]
        out = model(
            input_ids=batch.ids,
            attention_mask=batch.attention,
            position_ids=positions(batch.attention),
            use_cache=False,
            output_hidden_states=True,
            logits_to_keep=tokens + 1,
        )
        logits = out.logits[:, :-1].float() / self._task.config.temperature
        logs, entropy = ppo_math.log_probabilities(logits, batch.chosen)
        hidden = out.hidden_states[-1][:, -tokens - 1 : -1].float()
        return Reading(logs, entropy, self.value_head(hidden).squeeze(-1))

    def save_state(self) -> None:
        state = {
            "policy": {name: weight.detach() for name, weight in self._weights.items()},
            "value_head": self.value_head.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "kl_coefficient": self.kl_coefficient,
            "steps": [step.record() for step in self.steps],
        }
        save_state(self._task.resume, STATE_FILE, state)

    def load_state(self) -> None:
        import torch

        state = load_state(self._task.resume, STATE_FILE, self._task.device.name)
        if state is None:
            return
        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(state["policy"][name])
        self.value_head.load_state_dict(state["value_head"])
        self._optimiser.load_state_dict(state["optimiser"])
        self.kl_coefficient = state["kl_coefficient"]
        self.steps = [PolicyStep.of_record(row) for row in state["steps"]]

    def _minibatches(self, number: int, epoch: int, count: int) -> list[Tensor]:
        """Places of the rollouts in `minibatches` random parts, sizes differing by at most one."""
        import numpy
        import torch

        seed = request_seed(self._task.run_seed, "ppo minibatches", number, epoch)
        parts = numpy.array_split(
            numpy.random.default_rng(seed).permutation(count),
            min(self._task.config.minibatches, count),
        )
        return [torch.tensor(part.tolist(), device=self._task.device.name) for part in parts]

    def _update(self, seen: Experience, places: Tensor) -> float:
        import torch

        value = with_smaller_batches(
            self._task.device,
            WORK,
            len(places),
            min(len(places), self._pass or len(places)),
            lambda size: self._gradient(seen, places, size),
            LOWER,
        )
        torch.nn.utils.clip_grad_norm_(self._trained, MAX_GRADIENT_NORM)
        self._optimiser.step()
        return value

    def _gradient(self, seen: Experience, places: Tensor, size: int) -> float:
        """The loss on the rollouts at some places, its gradient summed over `size` at a time.

        Every term of the loss is a mean over tokens, so a part counts by its share of them.
        """
        self._optimiser.zero_grad()
        tokens, value = seen.batch.mask[places].sum().clamp(min=1), 0.0
        for part in places.split(size):
            loss = self.loss(seen, part)
            if len(part) < len(places):
                loss = loss * (seen.batch.mask[part].sum() / tokens)
            value += float(loss.detach())
            check_loss(value, len(self.steps) + 1)
            loss.backward()
        return value

    def _read_in_parts(self, model: PreTrainedModel, batch: Batch) -> Reading:
        import torch

        places = torch.arange(len(batch.ids), device=batch.ids.device)
        parts = [
            reading
            for part in places.tensor_split(min(self._task.config.minibatches, len(places)))
            for _, reading in in_batches_that_fit(
                self._task.device,
                "reading rollouts",
                part,
                lambda few: self.read(model, batch.rows(few)),
                LOWER,
            )
        ]
        return Reading(
            torch.cat([part.logs for part in parts]),
            torch.cat([part.entropy for part in parts]),
            torch.cat([part.values for part in parts]),
        )
