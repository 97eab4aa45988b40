"""The sections of a profile: every config field's name, type, range, default and meaning.

Values for a setting are in `profiles/`; how they are put together is in `profile.py`. Two sections
live in their own rooms: `config/sections.py` and `config/teams_rl.py`.

The profile's section `generator`: what runs the language model, and what a run may send.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class ConfigSection(BaseModel):
    """A section of a profile; unknown names are refused and values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SeedsConfig(ConfigSection):
    path: str = Field(
        "packaged",
        description="`packaged`, a seed file (.jsonl, Alpaca .json, .csv, .parquet), or a folder "
        "of SUPER-NI task files.",
    )


class DeviceConfig(ConfigSection):
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="Where models run.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Dtype of model weights and activations."
    )
    threads: int = Field(
        0, ge=0, description="CPU threads of PyTorch; 0 takes OMP_NUM_THREADS or the cores at hand."
    )
    deterministic: bool = Field(
        True, description="Refuse PyTorch operations that have no deterministic implementation."
    )
    quantization: Literal["none", "nf4"] = Field(
        "none",
        description="`nf4` holds the language model's weights in four bits and trains a LoRA "
        "update over them (QLoRA). Needs bitsandbytes; quick on CUDA, slow on a CPU.",
    )
    memory_share: float = Field(
        0.9, gt=0, le=1, description="Largest share of the card's memory a session may take."
    )


class BaseModelConfig(ConfigSection):
    id: str = Field(
        "offline",
        description="`offline` trains a small Llama on the spot; anything else is a Hugging Face "
        "id or a folder with config.json and weights.",
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a Hugging Face id.")
    hidden_size: int = Field(128, ge=32, description="Offline: width of the residual stream.")
    layers: int = Field(3, ge=1, description="Offline: number of decoder layers.")
    heads: int = Field(4, ge=1, description="Offline: attention heads (width / heads >= 32).")
    previous_token_heads: int = Field(
        3,
        ge=0,
        serialization_alias="look_back_heads",  # its name in manifests of checkpoints
        description="Offline: heads of the first layer that start out looking back, the first by "
        "one token, the second by two, and so on; copying is built on them.",
    )
    vocab_size: int = Field(1536, ge=300, description="Offline: entries of the byte-level BPE.")
    context_length: int = Field(1024, ge=128, description="Offline: longest sequence in tokens.")
    learn_seeds: bool = Field(
        True,
        description="Offline: train on the seeds beside the primer. Without, the model is the same "
        "whatever the seeds, and an edited seed costs only the requests that depend on it.",
    )
    primer_tasks: int = Field(6000, ge=50, description="Offline: primer tasks to train on.")
    steps: int = Field(450, ge=1, description="Offline: optimiser steps.")
    batch_size: int = Field(4, ge=1, description="Offline: sequences in a step.")
    sequence_length: int = Field(320, ge=32, description="Offline: tokens in a training sequence.")
    output_weight: float = Field(
        3.0,
        gt=0,
        description="Offline: what a token of a task's output counts in the loss; others count 1.",
    )
    learning_rate: float = Field(
        4e-3,
        gt=0,
        description="Offline: peak learning rate of AdamW, for embeddings, norms and biases.",
    )
    matrix_learning_rate: float = Field(
        0.02, gt=0, description="Offline: peak learning rate of Muon, for the layers' matrices."
    )


class SelfInstructConfig(ConfigSection):
    target: int = Field(
        160, ge=1, description="Accepted instructions at which the loop of a policy round ends."
    )
    requests_per_round: int = Field(48, ge=1, description="Requests sent before filters run again.")
    max_rounds: int = Field(40, ge=1, description="Bound on rounds, and so on requests.")
    stall_rounds: int = Field(
        4,
        ge=1,
        description="Rounds in a row with no accepted instruction after which the loop ends.",
    )
    human_demonstrations: int = Field(6, ge=1, description="Seeds shown beside machine ones.")
    machine_demonstrations: int = Field(
        2,
        ge=0,
        description="Accepted instructions of earlier rounds shown; seeds stand in for "
        "those that do not exist yet.",
    )
    machine_pool: Literal["lane", "all"] = Field(
        "lane",
        description="Where machine demonstrations are drawn from: `lane`, what requests of the "
        "same number wrote in earlier rounds, which keeps a changed seed to the lanes that showed "
        "it; `all`, every accepted instruction, as published.",
    )
    lane_rounds: int = Field(
        3,
        ge=1,
        description="Rounds after which a lane begins afresh, with seeds alone: what is shared by "
        "fewer rounds is made anew less often when a seed changes.",
    )
    max_demonstration_tokens: int = Field(
        80, ge=8, description="Longer instructions are never shown as demonstrations."
    )
    temperature: float = Field(0.9, ge=0, description="Sampling temperature; 0 is greedy.")
    top_p: float = Field(0.95, gt=0, le=1, description="Nucleus of the next-token distribution.")
    presence_penalty: float = Field(
        0.0, description="Taken off the logit of a token already written."
    )
    max_new_tokens: int = Field(128, ge=1, description="Longest completion in tokens.")
    novelty_threshold: float = Field(
        0.7,
        gt=0,
        le=1,
        description="ROUGE-L F at which a candidate is too near to an accepted one.",
    )
    refuse_at: Literal["reaches", "exceeds"] = Field(
        "reaches",
        description="REFINE-AF refuses at the threshold, Self-Instruct's code only above it.",
    )


class InstanceConfig(ConfigSection):
    demonstrations: int = Field(3, ge=0, description="Seed triples shown before the instruction.")
    max_demonstration_tokens: int = Field(
        96, ge=8, description="Longer triples are never shown as demonstrations."
    )
    temperature: float = Field(0.7, ge=0, description="Sampling temperature; 0 is greedy.")
    top_p: float = Field(0.95, gt=0, le=1, description="Nucleus of the next-token distribution.")
    max_new_tokens: int = Field(64, ge=1, description="Longest completion in tokens.")


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
    batch_size: int = Field(32, ge=1, description="Offline: triples in a step.")
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
        8, ge=1, description="Published: texts in every pass; part of a score's last digits."
    )


class RewardConfig(ConfigSection):
    preset: Literal["refine_af", "coherence_only", "balanced"] = Field(
        "refine_af",
        description="Named coefficients of the reward parts: `refine_af`, as published; "
        "`coherence_only`, the part that looks at the task; `balanced`, each part by its meaning.",
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
        description="Taken off a rollout's reward times the share of its output's word pairs (or "
        "of its only word) that the same step wrote for other instructions; with `whiten`, in "
        "standard deviations of the base policy's rewards; 0 is off. Dataset rows are not charged.",
    )


class ReinforcementConfig(ConfigSection):
    algorithm: Literal["grpo", "rloo", "ppo"] = Field(
        "grpo",
        description="Policy-gradient algorithm: `grpo` and `rloo` compare the completions of one "
        "instruction with each other; `ppo`, the published one, learns a value head.",
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
        description="Share of instructions kept from training to measure the gain.",
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
        0.2, gt=0, lt=1, description="PPO: how far a probability ratio may leave 1 and still pay."
    )
    value_clip_range: float = Field(
        0.2, gt=0, description="PPO: how far a value may leave the old one and still pay."
    )
    value_coefficient: float = Field(0.1, ge=0, description="PPO: weight of the value loss.")
    entropy_coefficient: float = Field(0.0, ge=0, description="PPO: weight of the entropy bonus.")
    discount: float = Field(1.0, gt=0, le=1, description="PPO: gamma, what a later token counts.")
    gae_lambda: float = Field(
        0.95, ge=0, le=1, description="PPO: lambda of generalised advantage estimation."
    )
    target_kl: float | None = Field(
        0.1,
        gt=0,
        description="PPO: KL to the starting policy, nats a token, that `kl_coefficient` is "
        "steered towards; null keeps the coefficient.",
    )
    kl_horizon: int = Field(
        256, ge=1, description="PPO: completions over which a KL correction is spread."
    )
    rollout_engine: Literal["policy", "vllm", "auto"] = Field(
        "policy",
        description="What writes rollouts: the `policy` in training itself; `vllm`, an engine on "
        "the same card (GRPO, weights that are not quantized); `auto`, that where it can be had.",
    )
    vllm_memory_share: float = Field(
        0.3, gt=0, lt=1, description="Share of the card's memory that the vLLM engine takes."
    )
    save_every: int = Field(
        10, ge=1, description="Steps between saved states, from which a killed training goes on."
    )
    guard_window: int = Field(
        5, ge=1, description="Steps whose mean the guards look at, and the first ones they compare."
    )
    max_kl: float = Field(
        1.0, gt=0, description="Guard `kl`: ends training above this KL, nats a token."
    )
    min_diversity_share: float = Field(
        0.4,
        ge=0,
        le=1,
        description="Guard `diversity`: ends training where reward has risen and the share of "
        "distinct bigrams is below this share of what it was at first.",
    )
    max_invalid_rise: float = Field(
        0.3,
        ge=0,
        le=1,
        description="Guard `invalid_format`: ends training where the share of unreadable "
        "completions has risen by more than this.",
    )


class SelectionConfig(ConfigSection):
    keep_share: float = Field(
        0.9, gt=0, le=1, description="Share of rule-abiding instances kept, by reward, per dataset."
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


class EvaluationConfig(ConfigSection):
    tasks: str = Field(
        "packaged",
        description="`packaged`, a folder of SUPER-NI task files, or a clone of the benchmark's "
        "repository with its split lists.",
    )
    split: Literal["train", "test", "excluded"] = Field(
        "test", description="Of a repository with split lists, the list whose tasks are asked."
    )
    max_instances: int = Field(100, ge=1, description="Instances of a task that count: its first.")
    max_source_tokens: int = Field(1024, ge=16, description="Longer prompts are cut.")
    max_new_tokens: int = Field(128, ge=1, description="Longest greedy answer in tokens.")
    bootstrap_samples: int = Field(2000, ge=100, description="Resamples of every interval.")
    tie_margin: float = Field(
        0.0,
        ge=0,
        description="Difference of mean ROUGE-L (points of 100) up to which a task is tied.",
    )


class PrivacyConfig(ConfigSection):
    max_examples: int = Field(
        240,
        ge=2,
        description="Examples of an arm that its audit takes, one half trained on and one not; of "
        "more than these, which ones is drawn. Bounds the audit's cost.",
    )
    over_fitted_examples: int = Field(
        24, ge=1, description="Positive control: examples that a model is made to know by heart."
    )
    over_fitted_epochs: int = Field(30, ge=1, description="Positive control: passes over them.")
    lowest_share: float = Field(
        0.2,
        gt=0,
        le=1,
        description="Share of a response's tokens, the least likely, that Min-K% and Min-K%++ "
        "look at; one token at least.",
    )
    bootstrap_samples: int = Field(1000, ge=100, description="Resamples of every interval.")


BackendName = Literal["transformers", "vllm"]


class GeneratorConfig(ConfigSection):
    backend: BackendName = Field(
        "transformers",
        description="What runs the language model; `vllm` needs the extra `refine-dagster[vllm]`.",
    )
    batch_size: int | None = Field(
        32,
        ge=1,
        description="Requests decoded together and committed together; null finds it from memory.",
    )
    max_requests: int | None = Field(
        None, ge=1, description="Budget: requests a run may send to the backend; null is no limit."
    )
    max_tokens: int | None = Field(
        None, ge=1, description="Budget: tokens (prompt and completion) a run may send; null: none."
    )
    reuse_other_backends: bool = Field(
        False,
        description="Answer from completions that the other backend wrote on the same model, where "
        "this one has none of its own; rows then name those.",
    )
    vllm_memory_share: float = Field(
        0.5, gt=0, le=0.95, description="vLLM: share of the memory that the engine may hold."
    )
    vllm_max_model_len: int | None = Field(
        None,
        ge=16,
        description="vLLM: longest sequence in tokens; null is the model's context length.",
    )

    def deciding(self) -> dict[str, Any]:
        """What decides which completions are lent and is not as by default; JSON values.

        The other config bound cost. Under the name of the section, so that it can be put beside
        other sections; without any such config field there is no section.
        """
        set_here = self.model_dump(
            mode="json", include={"backend", "reuse_other_backends"}, exclude_defaults=True
        )
        return {"generator": set_here} if set_here else {}
