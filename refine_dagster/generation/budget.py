"""What a run may send to models, and what it has: requests, tokens and money."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from refine_dagster.config.models import GeneratorConfig

MILLION = 1_000_000


def cost(
    prices: Mapping[str, float], requests: float, prompt_tokens: float, completion_tokens: float
) -> float:
    """Money, by `generator.prices`.

    >>> cost({"prompt": 0.5, "completion": 2.0}, 10, 1_000_000, 250_000)
    1.0
    """
    tokens = prices.get("prompt", 0) * prompt_tokens + prices.get("completion", 0) * (
        completion_tokens
    )
    return tokens / MILLION + prices.get("request", 0) * requests


@dataclass
class Spent:
    """What a run has sent."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True)
class Budget:
    """What a run may send to backends; None is no limit. Tokens are prompt plus completion."""

    max_requests: int | None = None
    max_tokens: int | None = None
    max_cost: float | None = None
    prices: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, config: GeneratorConfig) -> Self:
        return cls(config.max_requests, config.max_tokens, config.max_cost, config.prices)

    @property
    def is_bounded(self) -> bool:
        return (self.max_requests, self.max_tokens, self.max_cost) != (None, None, None)

    def allowed(self, wanted: int, spent: Spent) -> int:
        """How many of the wanted requests may be sent."""
        if self.is_used_up(spent):
            return 0
        if self.max_requests is None:
            return wanted
        return max(0, min(wanted, self.max_requests - spent.requests))

    def is_used_up(self, spent: Spent) -> bool:
        """Whether tokens or money are."""
        tokens = spent.prompt_tokens + spent.completion_tokens
        if self.max_tokens is not None and tokens >= self.max_tokens:
            return True
        return self.max_cost is not None and self.cost(spent) >= self.max_cost

    def cost(self, spent: Spent) -> float:
        return cost(self.prices, spent.requests, spent.prompt_tokens, spent.completion_tokens)

    def in_words(self) -> str:
        """The limits, as config fields."""
        limits = {
            "max_requests": self.max_requests,
            "max_tokens": self.max_tokens,
            "max_cost": self.max_cost,
        }
        return ", ".join(f"generator.{name} = {most}" for name, most in limits.items() if most)
