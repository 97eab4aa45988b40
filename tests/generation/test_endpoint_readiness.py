"""Before a run starts it says what its servers are, and what needs local weights."""

from __future__ import annotations

from typing import Any

import pytest

from refine_dagster.config.models import GeneratorConfig
from refine_dagster.generation.endpoint.readiness import server_notes
from tests.builders.endpoints import endpoint_config
from tests.builders.stub_server import StubServer, running


def notes(stub: StubServer, evolves: bool = True, **settings: Any) -> str:
    with running(stub):
        return "\n".join(server_notes(endpoint_config(stub, **settings), evolves))


def test_other_backends_have_nothing_to_say() -> None:
    assert server_notes(GeneratorConfig(), evolves=True) == []


def test_a_server_that_does_it_all_leaves_training_here() -> None:
    said = notes(StubServer(adapters=set()))
    assert "vllm 1.2.3 serves stub by completions, repeats itself" in said
    assert "reinforcement learning, fine-tuning, the judge and the privacy audit use this" in said
    assert "need local weights" not in said


@pytest.mark.parametrize(
    ("settings", "evolves", "needs"),
    [
        ({}, True, ["instructor_policy", "rl_policy_checkpoint"]),
        ({}, False, ["rl_policy_checkpoint"]),
        ({"endpoint_local": ("labels",)}, True, ["rl_policy_checkpoint"]),
        ({"endpoint_local": ("trained",)}, True, ["instructor_policy"]),
        ({"endpoint_local": ("labels", "trained")}, True, []),
    ],
)
def test_stages_that_a_server_cannot_do_are_named(
    settings: dict[str, Any], evolves: bool, needs: list[str]
) -> None:
    said = notes(StubServer(scores=False), evolves, **settings)
    needing = [line.split()[0] for line in said.splitlines() if "need local weights" in line]
    assert [name.rstrip(",") for name in needing] == needs


def test_servers_that_are_down_are_no_error_yet() -> None:
    said = "\n".join(server_notes(endpoint_config(StubServer(port=1)), evolves=True))
    assert "cannot be reached" in said
    assert "where the store does not have the answers" in said
