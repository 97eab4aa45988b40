"""Executor, reviewer and answers: what they ask, how they read it, and that the ledger is exact."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from refine_dagster.config.models import DeviceConfig
from refine_dagster.generation.completions import CompletionsStore, GeneratorSession
from refine_dagster.generation.request import Completion, Request, Scoring
from refine_dagster.generation.transformers_backend import TransformersBackend
from refine_dagster.models.device import device_session
from refine_dagster.models.language_model import LoadedModel, loaded_model, resolve_model
from refine_dagster.offline.language_families import REWRITES
from refine_dagster.offline.world import wordings
from refine_dagster.prompts.example import HEADER
from refine_dagster.teams_rl.chain import Chain, Evolver, Seed
from refine_dagster.teams_rl.elimination import Rewrite
from refine_dagster.teams_rl.evolution import evolve
from refine_dagster.teams_rl.operations import BREADTH, NAMES, operation_named
from refine_dagster.teams_rl.policies import RandomPolicy, RoundRobinPolicy
from refine_dagster.teams_rl.reviewer import (
    ModelExecutor,
    ModelReviewer,
    review_prompt,
)
from template_executor import RuleReviewer, TemplateExecutor
from tests.builders.packaged_seeds import packaged_seeds
from tests.builders.warehouse import new_warehouse

PARENT = "Describe a boat in one sentence."


class Answers:
    """A source of completions: writes what it was told to, scores pairs by a table of log-odds."""

    def __init__(self, text: str = " A text.", odds: dict[str, float] | None = None) -> None:
        self.text = text
        self.odds = odds or {}
        self.batches: list[list[Request]] = []

    def complete(self, requests: list[Request]) -> list[Completion]:
        self.batches.append(requests)
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> Completion:
        if isinstance(request.sampling, Scoring):
            odds = next((o for end, o in self.odds.items() if request.prompt.endswith(end)), 0.0)
            return Completion(f"[{odds}, 0.0]", "scored", 5, 2)
        return Completion(self.text, "stop", 5, 2)


def pair(parent: str, text: str) -> str:
    """The end of the question about two instructions."""
    return f"Input: {parent} / {text}\nOutput:"


def test_the_offline_model_has_learnt_every_operations_line() -> None:
    assert set(NAMES) == set(REWRITES)
    for operation in map(operation_named, NAMES):
        assert operation.instruction in wordings()[operation.name].given
        prompt = operation.prompt("Sort\n the words.")
        assert prompt.startswith(HEADER)
        assert prompt.endswith(
            f"\n\nInstruction: {operation.instruction}\nInput: Sort the words.\nOutput:"
        )


def test_an_execution_is_one_request_a_chain_in_one_batch() -> None:
    model = Answers(" Write a riddle\n about a lake. ")
    executor = ModelExecutor(model.complete, "salt")  # type: ignore[arg-type]
    chains = [Chain("a", 0, PARENT), Chain("b", 1, PARENT), Chain("a", 7, PARENT)]
    done = executor.execute(chains, [BREADTH] * 3)
    assert [one.text for one in done] == ["Write a riddle about a lake."] * 3
    (batch,) = model.batches
    assert [request.role for request in batch] == ["rewrite"] * 3
    # Noise is named by seed and step, not by episode: what was asked before is asked again.
    assert batch[0] == batch[2] != batch[1]
    assert done[1].request == batch[1]
    later = executor.request(Chain("a", 0, PARENT, ("concretizing",)), BREADTH)
    assert later.seed != batch[0].seed


def test_the_reviewer_asks_only_for_what_is_undecided() -> None:
    near = "Describe a boat in two sentences."
    far = "Invent a holiday for snowflakes."
    model = Answers(odds={pair(PARENT, near): 1.0, pair(PARENT, PARENT): 3.0})
    reviewer = ModelReviewer(model.complete)  # type: ignore[arg-type]
    operation = operation_named("breadth")
    said = reviewer.review(
        [Rewrite(PARENT, text, operation) for text in (far, PARENT.upper(), near)]
    )
    assert [(one.different, one.probability is None) for one in said[:2]] == [
        (True, True),
        (False, True),
    ]
    # A model that says "different" of a text and itself must say it louder of two texts.
    assert said[2].different is False
    assert said[2].probability == pytest.approx(1 / (1 + 2.718281828**2))
    (batch,) = model.batches
    assert [request.prompt for request in batch] == [
        review_prompt(PARENT, near),
        review_prompt(PARENT, PARENT),
    ]
    plain = ModelReviewer(model.complete, calibrated=False)  # type: ignore[arg-type]
    (found,) = plain.review([Rewrite(PARENT, near, operation)])
    assert found.different is True
    assert len(found.requests) == 1
    assert reviewer.review([]) == []
    assert len(model.batches) == 2


def test_even_odds_are_equal() -> None:
    model = Answers()
    reviewer = ModelReviewer(model.complete)  # type: ignore[arg-type]
    near = Rewrite(PARENT, "Describe a boat in two sentences.", operation_named("breadth"))
    assert reviewer.review([near])[0].different is False


def test_an_eliminated_rewrite_is_not_built_upon_and_not_reviewed() -> None:
    class Declining(TemplateExecutor):
        def _rewrite(self, chain: Chain, name: str) -> str:
            return "Sorry, no." if name == "breadth" else super()._rewrite(chain, name)

    evolver = Evolver(Declining("t"), RuleReviewer())
    first, second = evolver.step([Chain("a", 0, PARENT), Chain("b", 0, PARENT)], NAMES[:2])
    assert (first.rule, first.review, first.after().text) == ("refusal", None, PARENT)
    assert second.kept
    assert second.after().text == second.text
    assert first.after().operations == ("breadth",)
    with pytest.raises(ValueError, match="2 operations"):
        evolver.step([Chain("a", 0, PARENT)], NAMES[:2])


def test_every_step_has_its_parent_and_operation() -> None:
    policy = RandomPolicy("p")
    evolver = Evolver(TemplateExecutor("t"), RuleReviewer())
    seeds = packaged_seeds()[:20]
    rows = evolve(seeds, policy, evolver)
    assert len(rows) == 6 * 20
    assert rows == evolve(seeds, policy, evolver)
    by_slot = {(row.seed_id, row.step): row for row in rows}
    for row in rows:
        assert row.operation in NAMES
        if row.step == 1:
            assert row.parent in {seed.text for seed in seeds}
        else:
            before = by_slot[row.seed_id, row.step - 1]
            assert row.parent == (before.text if before.kept else before.parent)
    assert {row.rule for row in rows} >= {None, "identical", "refusal"}
    assert evolve([], policy, evolver) == []
    # A seed's rows are its own: they are the same whatever is evolved beside it.
    assert evolve(seeds[7:9], policy, evolver) == [
        row for row in rows if row.seed_id in {seed.seed_id for seed in seeds[7:9]}
    ]
    assert evolve(seeds, policy, evolver, episode=1) != rows


@pytest.fixture(scope="module")
def loaded(tiny_model_folder: Path) -> Iterator[LoadedModel]:
    with (
        device_session(DeviceConfig(device="cpu", threads=1)) as device,
        loaded_model(resolve_model(str(tiny_model_folder)), device) as model,
    ):
        yield model


def test_outcomes_count_what_the_store_counts(loaded: LoadedModel, tmp_path: Path) -> None:
    store = CompletionsStore(new_warehouse(tmp_path / "w.duckdb"), "run")
    session = GeneratorSession(TransformersBackend(loaded, 16), store, "m")
    seeds = [Seed(f"s{number}", text) for number, text in enumerate(("Sort it.", PARENT))]
    evolver = Evolver(
        ModelExecutor(session.complete, "salt", max_new_tokens=8),
        ModelReviewer(session.complete, different_below=0.0),
    )
    trained = evolve(seeds, RandomPolicy("a"), evolver, length=3)
    sent = {role: used.sent for role, used in store.usage.items()}
    assert sent["rewrite"] == 6
    # The same again costs nothing; another policy costs something.
    again = evolve(seeds, RandomPolicy("a"), evolver, length=3)
    assert [row.text for row in trained] == [row.text for row in again]
    assert {role: used.sent for role, used in store.usage.items()} == sent
    made = evolve(seeds, RoundRobinPolicy(), evolver, length=3)
    assert store.usage["rewrite"].sent > 6
    asked = sum(used.asked for used in store.usage.values())
    assert sum(row.calls for row in [*trained, *again, *made]) == asked


def test_templates_are_a_function_of_their_arguments_and_do_what_they_say() -> None:
    executor = TemplateExecutor("t")
    chains = [Chain(seed.seed_id, 0, seed.text) for seed in packaged_seeds()]
    found = {}
    for name in NAMES:
        operations = [operation_named(name)] * len(chains)
        done = executor.execute(chains, operations)
        assert done == TemplateExecutor("t").execute(chains, operations)
        evolved = Evolver(executor, RuleReviewer()).step(chains, [name] * len(chains))
        found[name] = sum(outcome.kept for outcome in evolved) / len(chains)
    assert found["constraints"] == 1.0
    assert 0.7 < found["breadth"] < 0.9
    assert found["reasoning"] < 0.5
    data = Chain("s", 0, "Sort these words: pear, apple.")
    (leaked,) = Evolver(executor, RuleReviewer()).step([data], ["complicate_input"])
    assert leaked.rule == "marker_words"
