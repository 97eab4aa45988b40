"""The config of TeaMs-RL, a section of the profile."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from refine_dagster.config.registered import Registered
from refine_dagster.config.section import ConfigSection
from refine_dagster.registry import OPERATIONS


class TeamsRLConfig(ConfigSection):
    evolved_seeds: int = Field(
        24,
        ge=0,
        description="Seeds that are evolved, by six operations each; 0 switches TeaMs-RL off.",
    )
    training_share: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="Share of the seeds that the instructor is trained on; only others are "
        "evolved.",
    )
    algorithm: Literal["ppo", "trpo", "random", "round_robin", "fixed"] = Field(
        "ppo",
        description="The instructor: `ppo`; `trpo`, as published; or, untrained, `random`, "
        "`round_robin`, `fixed`.",
    )
    operations: Annotated[tuple[str, ...], Registered(OPERATIONS)] = Field(
        OPERATIONS.own,
        min_length=1,
        description="Operations that the instructor chooses from, in order: the published six, "
        "or others that packages register.",
        exclude_if=lambda names: names == OPERATIONS.own,  # not in manifests while it is default
    )
    fixed_operation: Annotated[str, Registered(OPERATIONS)] = Field(
        "breadth", description="The operation of the algorithm `fixed`."
    )
    observation: Literal["paper", "rich"] = Field(
        "rich",
        description="What the instructor sees: `paper`, the last operation alone; `rich`, the "
        "text's embedding, operation counts and step.",
    )
    reward: Literal["paper", "novelty"] = Field(
        "novelty",
        description="`paper`: 1 for every kept rewrite; `novelty`: its distance from recently"
        " kept texts.",
    )
    archive: int = Field(2048, ge=1, description="Novelty: number of recent texts to compare with.")
    call_cost: float = Field(
        0.0, ge=0, description="Novelty: cost of each model call, subtracted from the reward."
    )
    embedding_dimensions: int = Field(
        256, ge=8, description="Dimensions of the hashed text embedding."
    )
    environments: int = Field(
        16, ge=1, description="Parallel episodes, and so requests in a batch."
    )
    episodes_per_update: int = Field(
        2, ge=1, description="Episodes of six steps that every environment plays before an update."
    )
    updates: int = Field(60, ge=1, description="Updates of the instructor.")
    reference_updates: int = Field(
        5,
        ge=1,
        description="Random episodes, counted in updates, whose mean diversity the guard "
        "compares with.",
    )
    learning_rate: float = Field(
        1e-3, gt=0, description="Learning rate of Adam: of PPO, or of TRPO's value network."
    )
    epochs: int = Field(10, ge=1, description="PPO: passes over an update's steps.")
    minibatch: int = Field(
        64,
        ge=6,
        description="Largest number of steps in a minibatch; all minibatches of an update "
        "have the same size.",
    )
    clip_range: float = Field(
        0.2, gt=0, lt=1, description="PPO: clipping range of the probability ratio."
    )
    entropy_coefficient: float = Field(0.01, ge=0, description="PPO: weight of the entropy bonus.")
    discount: float = Field(0.995, ge=0, le=1, description="Gamma; as published.")
    gae_lambda: float = Field(0.97, ge=0, le=1, description="Lambda of advantages; as published.")
    max_kl: float = Field(0.01, gt=0, description="TRPO: bound on an update's KL; as published.")
    damping: float = Field(
        0.1, ge=0, description="TRPO: damping of the conjugate gradient; as published."
    )
    hidden: tuple[int, ...] = Field((64, 64), description="Widths of the instructor's layers.")
    save_every: int = Field(
        5,
        ge=1,
        description="Updates between saved states, from which an interrupted training continues.",
    )
    guard_window: int = Field(
        5,
        ge=1,
        description="Updates whose mean the guard looks at, and the first updates it compares"
        " with.",
    )
    guard_patience: int = Field(
        5, ge=0, description="Updates in a row with a warning after which the guard ends training."
    )
    min_operation_entropy: float = Field(
        0.3, ge=0, description="Guard `operations`: smallest entropy of chosen operations, in nats."
    )
    max_words: int = Field(
        60,
        ge=3,
        description="Longest evolved instruction that is kept, in words; longer seeds are "
        "left out.",
    )
    min_valid_rate: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Check: smallest share of evolved rows that no rule eliminates.",
    )
    different_below: float = Field(
        0.3,
        ge=0,
        le=1,
        description="Overlap of words up to which texts count as different without a reviewer.",
    )
    review_threshold: float = Field(
        0.5, ge=0, lt=1, description="Probability of `different` above which a rewrite is kept."
    )
    calibrate_reviewer: bool = Field(
        True, description="Divide the reviewer's odds by those of the parent compared with itself."
    )
    temperature: float = Field(0.7, ge=0, description="Executor's temperature; 0 is greedy.")
    top_p: float = Field(0.95, gt=0, le=1, description="Executor's nucleus.")
    max_new_tokens: int = Field(64, ge=1, description="Longest rewrite in tokens.")

    @model_validator(mode="after")
    def _operations_agree(self) -> Self:
        if len(set(self.operations)) < len(self.operations):
            raise ValueError("operations has a name twice")
        if self.algorithm == "fixed" and self.fixed_operation not in self.operations:
            raise ValueError(f"fixed_operation {self.fixed_operation!r} is not in operations")
        return self
