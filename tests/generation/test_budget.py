"""A budget of money: prices by million tokens and by request, counted over a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from refine_dagster.config.models import GeneratorConfig
from refine_dagster.errors import BudgetSpentError
from refine_dagster.generation.budget import Budget, Spent, cost
from refine_dagster.generation.completions import CompletionsStore
from refine_dagster.generation.request import Completion, Request, Sampling


class Costly:
    """A million prompt tokens and half a million written ones a request."""

    name = fingerprint = "costly"

    def generate(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, Completion]]]:
        for place in range(len(requests)):
            yield [(place, Completion("x", "eos", 1_000_000, 500_000))]

    def count_tokens(self, text: str) -> int:
        return len(text)

    def cut(self, text: str, max_tokens: int) -> str:
        return text[:max_tokens]


def ask(*prompts: str) -> list[Request]:
    return [Request("propose", prompt, Sampling(8), 1) for prompt in prompts]


def test_cost_is_by_million_tokens_and_by_request() -> None:
    prices = {"prompt": 0.5, "completion": 2.0, "request": 0.01}
    assert cost(prices, 10, 2_000_000, 500_000) == pytest.approx(1.0 + 1.0 + 0.1)
    assert cost({}, 10, 2_000_000, 500_000) == 0


def test_money_ends_a_run_after_the_batch_that_spends_it(tmp_path: Path) -> None:
    budget = Budget(max_cost=4.0, prices={"prompt": 1.0, "completion": 1.0})
    path = tmp_path / "completions.duckdb"
    with pytest.raises(BudgetSpentError, match=r"2 propose requests unsent") as told:
        CompletionsStore(path, "run", budget).complete(Costly(), ask("a", "b", "c", "d", "e"))
    assert "generator.max_cost = 4" in str(told.value)
    # 1.5 a request: the third passes the limit, and the run may send no more.
    with pytest.raises(BudgetSpentError):
        CompletionsStore(path, "run", budget).complete(Costly(), ask("d"))
    CompletionsStore(path, "other", budget).complete(Costly(), ask("d", "e"))


def test_limits_are_those_of_the_config() -> None:
    config = GeneratorConfig(max_tokens=9, max_cost=1.5, prices={"completion": 3.0})
    budget = Budget.of(config)
    assert budget == Budget(None, 9, 1.5, {"completion": 3.0})
    assert budget.allowed(5, Spent(1, 2, 3)) == 5
    assert budget.allowed(5, Spent(1, 8, 1)) == 0
    assert budget.allowed(5, Spent(1, 0, 500_000)) == 0
    assert Budget(max_requests=3).allowed(5, Spent(2)) == 1


def test_prices_are_known_names_and_not_negative() -> None:
    with pytest.raises(ValueError, match="max_cost needs prices"):
        GeneratorConfig(max_cost=1.0)
    with pytest.raises(ValueError, match="below 0"):
        GeneratorConfig(prices={"prompt": -1.0})
    with pytest.raises(ValueError, match="prompt"):
        GeneratorConfig.model_validate({"prices": {"promt": 1.0}})
    assert not {"prices", "max_cost"} & set(GeneratorConfig().model_dump())
