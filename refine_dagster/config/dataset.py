"""Config of the dataset: seeds, proposed and evolved instructions, instances, selection."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import model_validator

from refine_dagster.config.section import (
    ConfigSection,
    Count,
    NotNegative,
    Positive,
    Registered,
    Share,
    setting,
)
from refine_dagster.registry import OPERATIONS


class SeedsConfig(ConfigSection):
    """The seed file."""

    path: str = setting(
        "packaged",
        "`packaged`, a seed file (.jsonl, Alpaca .json, .csv, .parquet), or a folder of SUPER-NI "
        "task files.",
    )


class SelfInstructConfig(ConfigSection):
    """Proposed instructions: target, demonstrations, sampling, novelty threshold."""

    target: Count = setting(160, "Accepted instructions at which the loop of a policy round ends.")
    requests_per_round: Count = setting(48, "Requests sent before the filters run again.")
    max_rounds: Count = setting(40, "Limit on rounds, and so on requests.")
    stall_rounds: Count = setting(
        4, "Rounds in a row with no accepted instruction after which the loop ends."
    )
    human_demonstrations: Count = setting(6, "Seeds shown beside machine-written instructions.")
    machine_demonstrations: int = setting(
        2,
        "Accepted instructions of earlier rounds shown; seeds stand in while there are too few.",
        ge=0,
    )
    machine_pool: Literal["lane", "all"] = setting(
        "lane",
        "Where machine-written demonstrations are drawn from: `lane`, what requests of the same "
        "number wrote in earlier rounds, so that a changed seed affects only the lanes that "
        "showed it; `all`, every accepted instruction, as published.",
    )
    lane_rounds: Count = setting(
        3,
        "Rounds after which a lane starts again with seeds alone; the fewer, the less is "
        "generated again when a seed changes.",
    )
    max_demonstration_tokens: int = setting(
        80, "Longer instructions are never shown as demonstrations.", ge=8
    )
    temperature: NotNegative = setting(0.9, "Sampling temperature; 0 is greedy.")
    top_p: float = setting(0.95, "Nucleus of the next-token distribution.", gt=0, le=1)
    presence_penalty: float = setting(
        0.0, "Subtracted from the logit of every token already written."
    )
    max_new_tokens: Count = setting(128, "Longest completion in tokens.")
    tasks_per_completion: int = setting(
        0,
        "A completion ends after so many tasks, or before the first that repeats an earlier one of "
        "it (Self-Instruct asks for 8); 0: on its own, or at max_new_tokens.",
        ge=0,
        exclude_if=lambda tasks: not tasks,  # hashes are those of before it
    )
    novelty_threshold: float = setting(
        0.7, "ROUGE-L F at which a candidate is too close to an accepted one.", gt=0, le=1
    )
    refuse_at: Literal["reaches", "exceeds"] = setting(
        "reaches",
        "`reaches` refuses at the threshold, as REFINE-AF does; `exceeds` only above it, as "
        "Self-Instruct's code does.",
    )


class InstanceConfig(ConfigSection):
    """Prompt and sampling of instances."""

    start_steps: int = setting(
        0,
        "Steps of a fine-tuning on the seeds (section `supervised`) that the policy starts from; "
        "prompts then show no examples. 0, as published: it starts from the base model.",
        ge=0,
        exclude_if=lambda steps: not steps,  # manifests and hashes are those of before it
    )
    demonstrations: int = setting(3, "Seed examples shown before the instruction.", ge=0)
    max_demonstration_tokens: int = setting(
        96, "Longer examples are never shown as demonstrations.", ge=8
    )
    temperature: NotNegative = setting(0.7, "Sampling temperature; 0 is greedy.")
    top_p: float = setting(0.95, "Nucleus of the next-token distribution.", gt=0, le=1)
    max_new_tokens: Count = setting(64, "Longest completion in tokens.")


class SelectionConfig(ConfigSection):
    """The share of valid instances that is kept, by reward."""

    keep_share: float = setting(
        0.9, "Share of valid instances kept, by reward, per dataset.", gt=0, le=1
    )


class TeamsRLConfig(ConfigSection):
    """TeaMs-RL: instructor, executor, reviewer, guard."""

    evolved_seeds: int = setting(
        24, "Seeds that are evolved, by six operations each; 0 switches TeaMs-RL off.", ge=0
    )
    training_share: Share = setting(
        0.5, "Share of the seeds that the instructor is trained on; only others are evolved."
    )
    algorithm: Literal["ppo", "trpo", "random", "round_robin", "fixed"] = setting(
        "ppo",
        "The instructor: `ppo`; `trpo`, as published; or, untrained, `random`, `round_robin`, "
        "`fixed`.",
    )
    operations: Annotated[tuple[str, ...], Registered(OPERATIONS)] = setting(
        OPERATIONS.own,
        "Operations that the instructor chooses from, in order: the published six, or others "
        "that packages register.",
        min_length=1,
        exclude_if=lambda names: names == OPERATIONS.own,  # not in manifests while it is default
    )
    fixed_operation: Annotated[str, Registered(OPERATIONS)] = setting(
        "breadth", "The operation of the algorithm `fixed`."
    )
    observation: Literal["paper", "rich"] = setting(
        "rich",
        "What the instructor sees: `paper`, the last operation alone; `rich`, the text's "
        "embedding, operation counts and step.",
    )
    reward: Literal["paper", "novelty"] = setting(
        "novelty",
        "`paper`: 1 for every kept rewrite; `novelty`: its distance from recently kept texts.",
    )
    archive: Count = setting(2048, "Novelty: number of recent texts to compare with.")
    call_cost: NotNegative = setting(
        0.0, "Novelty: cost of each model call, subtracted from the reward."
    )
    embedding_dimensions: int = setting(256, "Dimensions of the hashed text embedding.", ge=8)
    environments: Count = setting(16, "Parallel episodes, and so requests in a batch.")
    episodes_per_update: Count = setting(
        2, "Episodes of six steps that every environment plays before an update."
    )
    updates: Count = setting(60, "Updates of the instructor.")
    reference_updates: Count = setting(
        5, "Random episodes, counted in updates, whose mean diversity the guard compares with."
    )
    learning_rate: Positive = setting(
        1e-3, "Learning rate of Adam: of PPO, or of TRPO's value network."
    )
    epochs: Count = setting(10, "PPO: passes over an update's steps.")
    minibatch: int = setting(
        64,
        "Largest number of steps in a minibatch; all minibatches of an update have the same size.",
        ge=6,
    )
    clip_range: Share = setting(0.2, "PPO: clipping range of the probability ratio.")
    entropy_coefficient: NotNegative = setting(0.01, "PPO: weight of the entropy bonus.")
    discount: float = setting(0.995, "Gamma; as published.", ge=0, le=1)
    gae_lambda: float = setting(0.97, "Lambda of advantages; as published.", ge=0, le=1)
    max_kl: Positive = setting(0.01, "TRPO: bound on an update's KL; as published.")
    damping: NotNegative = setting(0.1, "TRPO: damping of the conjugate gradient; as published.")
    hidden: tuple[int, ...] = setting((64, 64), "Widths of the instructor's layers.")
    save_every: Count = setting(
        5, "Updates between saved states, from which an interrupted training continues."
    )
    guard_window: Count = setting(
        5, "Updates whose mean the guard looks at, and the first updates it compares with."
    )
    guard_patience: int = setting(
        5, "Updates in a row with a warning after which the guard ends training.", ge=0
    )
    min_operation_entropy: NotNegative = setting(
        0.3, "Guard `operations`: smallest entropy of chosen operations, in nats."
    )
    max_words: int = setting(
        60, "Longest evolved instruction that is kept, in words; longer seeds are left out.", ge=3
    )
    min_valid_rate: float = setting(
        0.2, "Check: smallest share of evolved rows that no rule eliminates.", ge=0, le=1
    )
    different_below: float = setting(
        0.3, "Overlap of words up to which texts count as different without a reviewer.", ge=0, le=1
    )
    review_threshold: float = setting(
        0.5, "Probability of `different` above which a rewrite is kept.", ge=0, lt=1
    )
    calibrate_reviewer: bool = setting(
        True, "Divide the reviewer's odds by those of the parent compared with itself."
    )
    temperature: NotNegative = setting(0.7, "Executor's temperature; 0 is greedy.")
    top_p: float = setting(0.95, "Executor's nucleus.", gt=0, le=1)
    max_new_tokens: Count = setting(64, "Longest rewrite in tokens.")

    @model_validator(mode="after")
    def _operations_agree(self) -> Self:
        if len(set(self.operations)) < len(self.operations):
            raise ValueError("operations has a name twice")
        if self.algorithm == "fixed" and self.fixed_operation not in self.operations:
            raise ValueError(f"fixed_operation {self.fixed_operation!r} is not in operations")
        return self
