"""Config of what is trained: judge, reward, policy and supervised fine-tuning."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from refine_dagster.config.registered import Registered
from refine_dagster.config.section import ConfigSection
from refine_dagster.registry import ALGORITHMS, REWARD_PARTS


class JudgeConfig(ConfigSection):
    kind: Literal["offline", "published"] = Field(
        "offline",
        description="`offline` trains a judge on corruptions of the seeds; `published` takes "
        "UniEval and the OpenAssistant reward model as they are.",
    )
    primer_tasks: int = Field(
        4000, ge=0, description="Primer tasks corrupted beside the seeds, for breadth."
    )
    on_policy_negatives: int = Field(
        1000,
        ge=0,
        serialization_alias="own_answers",  # its name in manifests of checkpoints
        description="Offline: primer tasks with one right answer that the base model itself "
        "answers, so that the judge learns what it gets wrong; 0 is off.",
    )
    steps: int = Field(400, ge=1, description="Offline: optimiser steps.")
    batch_size: int = Field(32, ge=1, description="Offline: examples in a step.")
    learning_rate: float = Field(1e-3, gt=0, description="Offline: peak learning rate of AdamW.")
    held_out_share: float = Field(
        0.1, gt=0, lt=1, description="Share of source tasks whose corruptions are only for testing."
    )
    unieval: str = Field(
        "MingZhong/unieval-dialog",
        description="Published: a Hugging Face id or a folder of a UniEval T5 for dialogue.",
    )
    unieval_revision: str | None = Field(
        None, description="Published: branch, tag or commit of `unieval`."
    )
    unieval_max_tokens: int = Field(
        1024, ge=16, description="Published: longest question in tokens; the end is cut."
    )
    reward_model: str = Field(
        "OpenAssistant/oasst-rm-2.1-pythia-1.4b-epoch-2.5",
        description="Published: a Hugging Face id or a folder of an OpenAssistant reward model.",
    )
    reward_model_revision: str | None = Field(
        None, description="Published: branch, tag or commit of `reward_model`."
    )
    reward_model_max_tokens: int = Field(
        2048,
        ge=16,
        description="Published: longest conversation in tokens; the prompt's start is cut, then "
        "the response's end.",
    )
    score_batch_size: int = Field(
        8, ge=1, description="Published: texts in every pass; it affects the last digits of scores."
    )


class RewardConfig(ConfigSection):
    preset: Literal["refine_af", "coherence_only", "balanced"] = Field(
        "refine_af",
        description="Named coefficients of the reward parts: `refine_af`, as published; "
        "`coherence_only`, the part that looks at the task; `balanced`, each part by its meaning.",
    )
    parts: Annotated[dict[str, float], Registered(REWARD_PARTS)] = Field(
        default_factory=dict,
        description="Further reward parts, each with its weight: functions registered as "
        "`refine_dagster.rewards`.",
        exclude_if=lambda parts: not parts,  # manifests and hashes are those of before it
    )
    whiten: bool = Field(
        True, description="Standardise each part over the base policy's scores before weighing it."
    )
    invalid_reward: float = Field(
        -1.0,
        description="Reward of a completion that fails the format gate; with `whiten`, at most "
        "that of the base policy's worst valid one.",
    )
    diversity: float = Field(
        0.0,
        ge=0,
        description="Penalty on a rollout, times the share of its output's word pairs (or of "
        "its only word) that the same step wrote for other instructions; with "
        "`whiten`, in standard deviations of the base policy's rewards; 0 is off."
        " Dataset rows are not penalised.",
    )


class ReinforcementConfig(ConfigSection):
    algorithm: Annotated[str, Registered(ALGORITHMS)] = Field(
        "grpo",
        description="Policy-gradient algorithm: `grpo` and `rloo` compare the completions of one "
        "instruction with each other; `ppo`, the published one, learns a value head; or one that "
        "another package registers.",
    )
    steps: int = Field(50, ge=1, description="Optimiser steps.")
    prompts_per_step: int = Field(4, ge=1, description="Different instructions in a step.")
    group_size: int = Field(8, ge=2, description="Completions sampled for each instruction.")
    learning_rate: float = Field(7e-4, gt=0, description="Peak learning rate of AdamW.")
    kl_coefficient: float = Field(0.1, ge=0, description="Weight of KL to the starting policy.")
    temperature: float = Field(1.0, gt=0, description="Sampling temperature of rollouts.")
    held_out_share: float = Field(
        0.25,
        gt=0,
        lt=1,
        description="Share of instructions held out from training to measure the gain.",
    )
    held_out_samples: int = Field(
        4, ge=1, description="Completions sampled for each held-out instruction, before and after."
    )
    lora_rank: int = Field(16, ge=1, description="Rank of the LoRA update.")
    lora_alpha: int = Field(32, ge=1, description="Scale of the LoRA update.")
    weights: Literal["lora", "full"] = Field(
        "lora", description="What is trained: a LoRA update, or every weight of the model."
    )
    epochs: int = Field(2, ge=1, description="PPO: passes over a step's rollouts.")
    minibatches: int = Field(2, ge=1, description="PPO: updates in a pass.")
    clip_range: float = Field(
        0.2, gt=0, lt=1, description="PPO: clipping range of the probability ratio."
    )
    value_clip_range: float = Field(
        0.2, gt=0, description="PPO: clipping range of the value around the old one."
    )
    value_coefficient: float = Field(0.1, ge=0, description="PPO: weight of the value loss.")
    entropy_coefficient: float = Field(0.0, ge=0, description="PPO: weight of the entropy bonus.")
    discount: float = Field(
        1.0, gt=0, le=1, description="PPO: gamma, the discount of later tokens."
    )
    gae_lambda: float = Field(
        0.95, ge=0, le=1, description="PPO: lambda of generalised advantage estimation."
    )
    target_kl: float | None = Field(
        0.1,
        gt=0,
        description="PPO: target of the KL to the starting policy, in nats a token, towards "
        "which `kl_coefficient` is adapted; null keeps the coefficient.",
    )
    kl_horizon: int = Field(
        256, ge=1, description="PPO: completions over which a KL correction is spread."
    )
    rollout_engine: Literal["policy", "vllm", "auto"] = Field(
        "policy",
        description="What generates rollouts: `policy`, the model in training itself; `vllm`,"
        " an engine on the same card (GRPO, weights that are not quantized); "
        "`auto`, vLLM where it is available.",
    )
    vllm_memory_share: float = Field(
        0.3, gt=0, lt=1, description="Share of the card's memory that the vLLM engine takes."
    )
    save_every: int = Field(
        10,
        ge=1,
        description="Steps between saved states, from which an interrupted training continues.",
    )
    guard_window: int = Field(
        5,
        ge=1,
        description="Steps whose mean the guards look at, and the first steps they compare with.",
    )
    max_kl: float = Field(
        1.0, gt=0, description="Guard `kl`: training ends above this KL, in nats a token."
    )
    min_diversity_share: float = Field(
        0.4,
        ge=0,
        le=1,
        description="Guard `diversity`: training ends when reward has risen and the share of "
        "distinct bigrams is below this share of its first value.",
    )
    max_invalid_rise: float = Field(
        0.3,
        ge=0,
        le=1,
        description="Guard `invalid_format`: training ends when the share of unreadable "
        "completions has risen by more than this.",
    )


class SupervisedConfig(ConfigSection):
    epochs: int = Field(
        3, ge=1, description="Passes over the larger arm's dataset; sets the steps."
    )
    batch_size: int = Field(8, ge=1, description="Examples in a step.")
    learning_rate: float = Field(2e-3, gt=0, description="Peak learning rate of AdamW.")
    max_tokens: int = Field(256, ge=16, description="Longest training example in tokens.")
    lora_rank: int = Field(16, ge=1, description="Rank of the LoRA update.")
    lora_alpha: int = Field(32, ge=1, description="Scale of the LoRA update.")
