"""Config of what is trained and measured: judge, reward, policy, fine-tuning, evaluation."""

from __future__ import annotations

from typing import Annotated, Literal

from refine_dagster.config.section import (
    ConfigSection,
    Count,
    NotNegative,
    Positive,
    Registered,
    Share,
    setting,
)
from refine_dagster.registry import ALGORITHMS, REWARD_PARTS


class JudgeConfig(ConfigSection):
    """Offline or published judge, and the offline judge's training."""

    kind: Literal["offline", "published"] = setting(
        "offline",
        "`offline` trains a judge on corruptions of the seeds; `published` takes UniEval and the "
        "OpenAssistant reward model as they are.",
    )
    backbone: Literal["trained", "frozen"] = setting(
        "trained",
        "Offline: `trained` fine-tunes a copy of the base model; `frozen` fits linear outputs to "
        "what a pretrained base model computes of each text.",
        exclude_if=lambda backbone: backbone == "trained",  # manifests are those of before it
    )
    frozen_texts: Count = setting(
        1600,
        "Offline, frozen: most texts, good and worse, that are read for training; a quarter as "
        "many are read for testing.",
        exclude_if=lambda texts: texts == 1600,
    )
    primer_tasks: int = setting(4000, "Primer tasks corrupted beside the seeds, for breadth.", ge=0)
    on_policy_negatives: int = setting(
        1000,
        "Offline: primer tasks with one right answer that the base model itself answers, so that "
        "the judge learns what it gets wrong; 0 is off.",
        ge=0,
        serialization_alias="own_answers",  # its name in manifests of checkpoints
    )
    steps: Count = setting(400, "Offline: optimiser steps.")
    batch_size: Count = setting(32, "Offline: examples in a step.")
    learning_rate: Positive = setting(1e-3, "Offline: peak learning rate of AdamW.")
    held_out_share: Share = setting(
        0.1, "Share of source tasks whose corruptions are only for testing."
    )
    unieval: str = setting(
        "MingZhong/unieval-dialog",
        "Published: a Hugging Face id or a folder of a UniEval T5 for dialogue.",
    )
    unieval_revision: str | None = setting(None, "Published: branch, tag or commit of `unieval`.")
    unieval_max_tokens: int = setting(
        1024, "Published: longest question in tokens; the end is cut.", ge=16
    )
    reward_model: str = setting(
        "OpenAssistant/oasst-rm-2.1-pythia-1.4b-epoch-2.5",
        "Published: a Hugging Face id or a folder of an OpenAssistant reward model.",
    )
    reward_model_revision: str | None = setting(
        None, "Published: branch, tag or commit of `reward_model`."
    )
    reward_model_max_tokens: int = setting(
        2048,
        "Published: longest conversation in tokens; the prompt's start is cut, then the "
        "response's end.",
        ge=16,
    )
    score_batch_size: Count = setting(
        8, "Published: texts in every pass; it affects the last digits of scores."
    )


class RewardConfig(ConfigSection):
    """Weights of the reward parts, and what is taken off."""

    preset: Literal["refine_af", "coherence_only", "balanced", "influence"] = setting(
        "refine_af",
        "Named coefficients of the reward parts: `refine_af`, as published; `coherence_only`, "
        "the part that looks at the task; `balanced`, each part by its meaning; `influence`, the "
        "progress of a student.",
    )
    parts: Annotated[dict[str, float], Registered(REWARD_PARTS)] = setting(
        {},
        "Further reward parts, each with its weight: functions registered as "
        "`refine_dagster.rewards`.",
        exclude_if=lambda parts: not parts,  # manifests and hashes are those of before it
    )
    whiten: bool = setting(
        True, "Standardise each part over the base policy's scores before weighing it."
    )
    student_steps: Count = setting(
        60,
        "Part `influence`: optimiser steps of the student, on one half of the seeds; progress is "
        "measured on the other.",
        exclude_if=lambda steps: steps == 60,
    )
    student_learning_rate: Positive = setting(
        2e-3,
        "Part `influence`: peak learning rate of the student.",
        exclude_if=lambda rate: rate == 2e-3,
    )
    invalid_reward: float = setting(
        -1.0,
        "Reward of a completion that fails the format gate; with `whiten`, at most that of the "
        "base policy's worst valid one.",
    )
    diversity: NotNegative = setting(
        0.0,
        "Penalty on a rollout, times the share of its output's word pairs (or of its only word) "
        "that the same step wrote for other instructions; with `whiten`, in standard deviations "
        "of the base policy's rewards; 0 is off. Dataset rows are not penalised.",
    )


class ReinforcementConfig(ConfigSection):
    """Training of the policy: algorithm, steps, KL, LoRA, guards, rollout engine."""

    algorithm: Annotated[str, Registered(ALGORITHMS)] = setting(
        "grpo",
        "Algorithm: `grpo` and `rloo` compare the completions of one instruction with each other; "
        "`ppo`, the published one, learns a value head; `dpo` learns from pairs of the best and "
        "the worst of them; or one that another package registers.",
    )
    steps: Count = setting(50, "Optimiser steps.")
    prompts_per_step: Count = setting(4, "Different instructions in a step.")
    group_size: int = setting(8, "Completions sampled for each instruction.", ge=2)
    learning_rate: Positive = setting(7e-4, "Peak learning rate of AdamW.")
    kl_coefficient: NotNegative = setting(0.1, "Weight of KL to the starting policy; DPO's beta.")
    temperature: Positive = setting(1.0, "Sampling temperature of rollouts.")
    held_out_share: Share = setting(
        0.25, "Share of instructions held out from training to measure the gain."
    )
    held_out_samples: Count = setting(
        4, "Completions sampled for each held-out instruction, before and after."
    )
    lora_rank: Count = setting(16, "Rank of the LoRA update.")
    lora_alpha: Count = setting(32, "Scale of the LoRA update.")
    weights: Literal["lora", "full"] = setting(
        "lora", "What is trained: a LoRA update, or every weight of the model."
    )
    epochs: Count = setting(2, "PPO: passes over a step's rollouts.")
    minibatches: Count = setting(2, "PPO: updates in a pass.")
    clip_range: Share = setting(0.2, "PPO: clipping range of the probability ratio.")
    value_clip_range: Positive = setting(
        0.2, "PPO: clipping range of the value around the old one."
    )
    value_coefficient: NotNegative = setting(0.1, "PPO: weight of the value loss.")
    entropy_coefficient: NotNegative = setting(0.0, "PPO: weight of the entropy bonus.")
    discount: float = setting(1.0, "PPO: gamma, the discount of later tokens.", gt=0, le=1)
    gae_lambda: float = setting(
        0.95, "PPO: lambda of generalised advantage estimation.", ge=0, le=1
    )
    target_kl: float | None = setting(
        0.1,
        "PPO: target of the KL to the starting policy, in nats a token, towards which "
        "`kl_coefficient` is adapted; null keeps the coefficient.",
        gt=0,
    )
    kl_horizon: Count = setting(256, "PPO: completions over which a KL correction is spread.")
    rollout_engine: Literal["policy", "vllm", "auto"] = setting(
        "policy",
        "What generates rollouts: `policy`, the model in training itself; `vllm`, an engine on "
        "the same card (GRPO, weights that are not quantized); `auto`, vLLM where it is "
        "available.",
    )
    vllm_memory_share: Share = setting(
        0.3, "Share of the card's memory that the vLLM engine takes."
    )
    save_every: Count = setting(
        10, "Steps between saved states, from which an interrupted training continues."
    )
    guard_window: Count = setting(
        5, "Steps whose mean the guards look at, and the first steps they compare with."
    )
    max_kl: Positive = setting(1.0, "Guard `kl`: training ends above this KL, in nats a token.")
    min_diversity_share: float = setting(
        0.4,
        "Guard `diversity`: training ends when reward has risen and the share of distinct "
        "bigrams is below this share of its first value.",
        ge=0,
        le=1,
    )
    max_invalid_rise: float = setting(
        0.3,
        "Guard `invalid_format`: training ends when the share of unreadable completions has "
        "risen by more than this.",
        ge=0,
        le=1,
    )


class SupervisedConfig(ConfigSection):
    """Fine-tuning of the arms."""

    epochs: Count = setting(3, "Passes over the larger arm's dataset; sets the steps.")
    batch_size: Count = setting(8, "Examples in a step.")
    learning_rate: Positive = setting(2e-3, "Peak learning rate of AdamW.")
    max_tokens: int = setting(256, "Longest training example in tokens.", ge=16)
    lora_rank: Count = setting(16, "Rank of the LoRA update.")
    lora_alpha: Count = setting(32, "Scale of the LoRA update.")


class EvaluationConfig(ConfigSection):
    """Held-out tasks, limits, intervals."""

    tasks: str = setting(
        "packaged",
        "`packaged` (35 tasks), `packaged_all` (98, for comparisons), a folder of SUPER-NI task "
        "files, or a clone of the benchmark's repository with its split lists.",
    )
    split: Literal["train", "test", "excluded"] = setting(
        "test", "In a repository with split lists, the list whose tasks are used."
    )
    max_instances: Count = setting(100, "Instances used of each task: its first ones.")
    max_source_tokens: int = setting(1024, "Longer prompts are cut.", ge=16)
    max_new_tokens: Count = setting(128, "Longest greedy answer in tokens.")
    bootstrap_samples: int = setting(2000, "Resamples of every interval.", ge=100)
    tie_margin: NotNegative = setting(
        0.0, "Difference of mean ROUGE-L (points of 100) up to which a task is tied."
    )


class PrivacyConfig(ConfigSection):
    """Size and controls of the privacy audit."""

    max_examples: int = setting(
        240,
        "Examples of an arm in its audit, half of them trained on; larger datasets are sampled. "
        "Bounds the audit's cost.",
        ge=2,
    )
    over_fitted_examples: Count = setting(
        24, "Positive control: examples that a model is made to memorise."
    )
    over_fitted_epochs: Count = setting(30, "Positive control: passes over them.")
    lowest_share: float = setting(
        0.2,
        "Min-K% and Min-K%++: share of a response's tokens that count, the least likely ones; "
        "one token at least.",
        gt=0,
        le=1,
    )
    bootstrap_samples: int = setting(1000, "Resamples of every interval.", ge=100)
