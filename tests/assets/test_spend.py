"""With prices, a materialization records what its requests cost, by role."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from assets.step import Step
from refine_dagster.config.models import GeneratorConfig
from refine_dagster.warehouse.ledger import RoleUsage


def spend(**settings: object) -> dict[str, float]:
    config = GeneratorConfig.model_validate(settings)
    usage = {
        "propose": RoleUsage(5, 3, 2, 1_000_000, 500_000, 1.0),
        "review": RoleUsage(4, 4, 0, 0, 0, 0.0),
    }
    step = SimpleNamespace(
        profile=SimpleNamespace(generator=config), _store=SimpleNamespace(usage=usage)
    )
    return Step._spend(step)  # type: ignore[arg-type]


def test_what_was_sent_costs_and_what_was_reused_does_not() -> None:
    prices = {"prompt": 0.5, "completion": 2.0, "request": 0.1}
    assert spend(prices=prices) == pytest.approx({"spend_propose": 1.7, "spend_review": 0.0})


def test_without_prices_nothing_is_recorded() -> None:
    assert spend() == {}
