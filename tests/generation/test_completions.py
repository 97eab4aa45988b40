"""Nothing is asked twice, each batch is kept at once, and budgets hold per run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from refine_dagster.errors import BudgetSpentError
from refine_dagster.generation.budget import Budget
from refine_dagster.generation.completions import CompletionsStore
from refine_dagster.generation.request import Completion, Request, Sampling
from refine_dagster.seeding import request_seed
from refine_dagster.warehouse.warehouse import Warehouse
from tests.builders.warehouse import new_warehouse


class Counting:
    """Answers with the prompt reversed, two requests a batch; dies when told to."""

    name = "counting"

    def __init__(self, fingerprint: str = "f", dies_at_batch: int | None = None) -> None:
        self.fingerprint = fingerprint
        self.asked: list[str] = []
        self.dies_at_batch = dies_at_batch

    def generate(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, Completion]]]:
        for number, start in enumerate(range(0, len(requests), 2)):
            if number == self.dies_at_batch:
                raise RuntimeError("the machine burns")
            places = range(start, min(start + 2, len(requests)))
            self.asked += [requests[place].prompt for place in places]
            yield [
                (place, Completion(requests[place].prompt[::-1], "eos", 3, 4))
                for place in reversed(places)
            ]

    def count_tokens(self, text: str) -> int:
        return len(text)

    def cut(self, text: str, max_tokens: int) -> str:
        return text[:max_tokens]


def ask(*prompts: str, role: str = "propose") -> list[Request]:
    return [Request(role, prompt, Sampling(8), 1) for prompt in prompts]  # type: ignore[arg-type]


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return new_warehouse(tmp_path / "w.duckdb")


def test_answers_in_order_and_asks_once(warehouse: Warehouse) -> None:
    backend, store = Counting(), CompletionsStore(warehouse, "run")
    texts = [c.text for c in store.complete(backend, ask("ab", "cd", "ab", "ef"))]
    assert texts == ["ba", "dc", "ba", "fe"]
    assert sorted(backend.asked) == ["ab", "cd", "ef"]
    again = CompletionsStore(warehouse, "later")
    completions = again.complete(backend, ask("ef", "gh"))
    assert [(c.text, c.reused) for c in completions] == [("fe", True), ("hg", False)]
    assert sorted(backend.asked) == ["ab", "cd", "ef", "gh"]
    used = again.usage["propose"]
    assert (used.asked, used.reused, used.sent) == (2, 1, 1)
    assert (used.prompt_tokens, used.completion_tokens) == (3, 4)
    assert used.seconds > 0


def test_the_key_is_model_prompt_sampling_seed_and_not_role() -> None:
    base = Request("propose", "p", Sampling(8), 1)
    assert base.key("f") == Request("judge", "p", Sampling(8), 1).key("f")
    others = [
        base.key("g"),
        Request("propose", "q", Sampling(8), 1).key("f"),
        Request("propose", "p", Sampling(9), 1).key("f"),
        Request("propose", "p", Sampling(8, stop=("x",)), 1).key("f"),
        Request("propose", "p", Sampling(8), 2).key("f"),
    ]
    assert len({base.key("f"), *others}) == 6


def test_a_death_costs_only_the_batch_in_flight(warehouse: Warehouse) -> None:
    prompts = ask(*(f"p{number}" for number in range(10)))
    store = CompletionsStore(warehouse, "run")
    with pytest.raises(RuntimeError, match="burns"):
        store.complete(Counting(dies_at_batch=3), prompts)
    assert store.usage["propose"].sent == 6
    backend = Counting()
    CompletionsStore(warehouse, "run2").complete(backend, prompts)
    assert len(backend.asked) == 4


def test_request_budget_is_per_run_and_keeps_what_it_has(warehouse: Warehouse) -> None:
    backend = Counting()
    store = CompletionsStore(warehouse, "run", Budget(max_requests=3))
    with pytest.raises(BudgetSpentError, match="2 propose requests unsent"):
        store.complete(backend, ask("a1", "a2", "a3", "a4", "a5"))
    assert len(backend.asked) == 3
    with pytest.raises(BudgetSpentError):
        CompletionsStore(warehouse, "run", Budget(max_requests=3)).complete(backend, ask("b1"))
    fresh = CompletionsStore(warehouse, "other", Budget(max_requests=3))
    fresh.complete(backend, ask("a1", "a2", "a3", "a4", "a5"))
    assert len(backend.asked) == 5


def test_token_budget_stops_after_the_batch_that_spends_it(warehouse: Warehouse) -> None:
    backend = Counting()
    store = CompletionsStore(warehouse, "run", Budget(max_tokens=15))
    with pytest.raises(BudgetSpentError):
        store.complete(backend, ask("a", "b", "c", "d", "e", "f", "g"))
    assert len(backend.asked) == 4  # 7 tokens a request, 14 after the first batch
    assert warehouse.query("SELECT count(*) FROM store.completions").item() == 4


def test_what_is_stored_can_be_audited(warehouse: Warehouse) -> None:
    CompletionsStore(warehouse, "run").complete(Counting(), ask("hello", role="judge"))
    row = warehouse.query("SELECT * FROM store.completions").to_dicts()[0]
    request = ask("hello", role="judge")[0]
    assert row["key"] == request.key("f")
    assert (row["role"], row["model"], row["prompt"], row["text"]) == (
        "judge",
        "f",
        "hello",
        "olleh",
    )
    assert row["run_id"] == "run"


def test_request_seeds_are_named_and_small_enough_for_a_bigint() -> None:
    assert request_seed("salt", "propose", 0, 1) == request_seed("salt", "propose", 0, 1)
    seeds = {request_seed("salt", "propose", 0, place) for place in range(1000)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_another_backend_answers_only_if_asked_for(warehouse: Warehouse) -> None:
    CompletionsStore(warehouse, "first").complete(Counting("other"), ask("ab", "cd"))
    plain, backend = CompletionsStore(warehouse, "plain"), Counting()
    plain.complete(backend, ask("ab"))
    assert backend.asked == ["ab"]
    assert plain.uses == {ask("ab")[0].key("f"): True}

    store, backend = CompletionsStore(warehouse, "second"), Counting()
    asked = ask("ab", "cd", "ef", "cd")
    answers = store.complete(backend, asked, also=("none", "other"))
    assert [one.text for one in answers] == ["ba", "dc", "fe", "dc"]
    assert [one.reused for one in answers] == [True, True, False, True]
    # Its own completion comes first, and only what nobody has is sent.
    assert backend.asked == ["ef"]
    keys = [store.key_of("f", request) for request in asked]
    assert keys == [asked[0].key("f"), asked[1].key("other"), asked[2].key("f"), keys[1]]
    assert store.uses == {keys[0]: False, keys[1]: False, keys[2]: True}
    stored = warehouse.query("SELECT key, model FROM store.completions").rows()
    assert set(keys) <= {key for key, _ in stored}
    assert dict(stored)[keys[1]] == "other"
    usage = store.usage["propose"]
    assert (usage.asked, usage.reused, usage.sent) == (4, 3, 1)
    # The answer stays the same for as long as the store is open.
    store.complete(Counting(), ask("cd"))
    assert store.key_of("f", asked[1]) == keys[1]
