"""With prices, a plan says what the requests of the stages to make would cost."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from refine_dagster.planning.plan import RunPlan


def cost(prices: dict[str, float]) -> float | None:
    stages = [
        SimpleNamespace(requests=10, prompt_tokens=1_000_000, completion_tokens=100_000),
        SimpleNamespace(requests=0, prompt_tokens=0, completion_tokens=0),
    ]
    of_plan: Any = RunPlan.cost
    found: float | None = of_plan.fget(SimpleNamespace(prices=prices, to_make=stages))
    return found


def test_a_plan_costs_tokens_and_requests() -> None:
    assert cost({"prompt": 0.5, "completion": 2.0, "request": 0.01}) == pytest.approx(0.8)


def test_without_prices_a_plan_has_no_cost() -> None:
    assert cost({}) is None
