"""The completions store over servers: nothing is asked twice; who answered is kept, no key is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from refine_dagster import progress
from refine_dagster.errors import BudgetSpentError
from refine_dagster.generation.budget import Budget
from refine_dagster.generation.completions import CompletionsStore
from refine_dagster.generation.endpoint import backend as endpoint
from refine_dagster.generation.endpoint.backend import endpoint_backend, endpoint_fingerprint
from refine_dagster.generation.endpoint.outcomes import EndpointError
from refine_dagster.generation.request import Request, Sampling
from refine_dagster.models.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from refine_dagster.models.language_model import ModelRef, with_adapter
from refine_dagster.warehouse.warehouse import Warehouse
from tests.builders.endpoints import CPU, endpoint_backend_on, endpoint_config
from tests.builders.stub_server import StubServer, running, words_for
from tests.builders.warehouse import new_warehouse

SAMPLING = Sampling(8, temperature=0.7)
BASE = ModelRef("folder", "f" * 64)


def requests_of(*prompts: str) -> list[Request]:
    return [Request("propose", prompt, SAMPLING, 1) for prompt in prompts]


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return new_warehouse(tmp_path / "w.duckdb")


def test_a_second_run_asks_nothing_and_needs_no_server(warehouse: Warehouse) -> None:
    stub, asked = StubServer(), requests_of("a", "b @400", "c")
    with running(stub):
        with endpoint_backend_on(stub) as backend:
            first = CompletionsStore(warehouse, "first").complete(backend, asked)
        assert len(stub.prompts()) == 3
        # Another place is the same model.
        moved = StubServer(port=1)
        with endpoint_backend_on(moved) as backend:
            store = CompletionsStore(warehouse, "second")
            again = store.complete(backend, asked)
            # An edited prompt costs its share.
            assert store.stored(backend.fingerprint, requests_of("a", "d")) == [True, False]
    assert again == first
    assert store.usage["propose"].sent == 0
    assert [done.finish_reason for done in again] == ["eos", "refused", "eos"]


def test_who_answered_is_kept_and_why_not(warehouse: Warehouse) -> None:
    stub = StubServer(repeats=False)
    asked = requests_of("a", "b @400")
    with running(stub), endpoint_backend_on(stub) as backend:
        CompletionsStore(warehouse, "run").complete(backend, asked)
    kept = {
        row["key"]: row
        for row in warehouse.query(
            "SELECT * FROM store.answers JOIN store.servers USING (server)"
        ).to_dicts()
    }
    plain, refused = (kept[request.key(backend.fingerprint)] for request in asked)
    assert (plain["problem"], refused["problem"]) == (None, "400 this prompt is not allowed")
    assert (plain["url"], plain["software"], plain["version"]) == (stub.url, "vllm", "1.2.3")
    assert (plain["repeats"], plain["scores"], plain["api"]) == (False, True, "completions")
    assert len(plain["fingerprint"]) == 64


def test_the_key_is_sent_and_never_kept_or_shown(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    key, lines = "sk-very-secret-123", list[str]()
    caplog.set_level("DEBUG")
    stub = StubServer(key=key)
    settings: dict[str, Any] = {"endpoint_key_env": "STUB_KEY"}
    monkeypatch.setenv("STUB_KEY", key)
    with running(stub), progress.reporting(progress.CallbackReporter(lines.append)):
        with endpoint_backend_on(stub, **settings) as backend:
            CompletionsStore(warehouse, "run").complete(backend, requests_of("a", "b @400"))
        assert len(stub.prompts()) == 2
        monkeypatch.setenv("STUB_KEY", f"{key}-wrong")
        with endpoint_backend_on(stub, **settings) as backend, pytest.raises(EndpointError) as told:
            list(backend.generate(requests_of("c")))
        monkeypatch.delenv("STUB_KEY")
        with (
            endpoint_backend_on(stub, **settings) as backend,
            pytest.raises(EndpointError, match="STUB_KEY is not set"),
        ):
            list(backend.generate(requests_of("c")))
    assert "refuses the key" in str(told.value)
    everything = [*lines, str(told.value), caplog.text, repr(backend), repr(backend.__dict__)]
    assert not any(key in text for text in everything)
    assert key.encode() not in warehouse.path.read_bytes()


def test_a_token_budget_ends_the_run_and_keeps_what_it_has(warehouse: Warehouse) -> None:
    stub = StubServer()
    asked = requests_of(*(f"p{number}" for number in range(40)))
    store = CompletionsStore(warehouse, "run", Budget(max_tokens=40))
    with running(stub), endpoint_backend_on(stub, batch_size=2, endpoint_concurrency=2) as backend:
        with pytest.raises(BudgetSpentError):
            store.complete(backend, asked)
        kept = warehouse.query("SELECT count(*) FROM store.completions").item()
        assert 10 <= kept < 40
        CompletionsStore(warehouse, "more").complete(backend, asked)
    # Only what was under way when the budget ended is asked again.
    assert len(stub.prompts()) <= 40 + 30


RUN = """
import json, sys
from refine_dagster.generation.completions import CompletionsStore
from refine_dagster.generation.request import Request, Sampling
from tests.builders.endpoints import endpoint_backend_on
from tests.builders.stub_server import StubServer

port, path = int(sys.argv[1]), sys.argv[2]
asked = [Request("propose", f"p{n}", Sampling(8, 0.7), 1) for n in range(200)]
with endpoint_backend_on(StubServer(port=port), batch_size=8, endpoint_concurrency=4) as backend:
    CompletionsStore(path).complete(backend, asked)
"""


@pytest.mark.slow
def test_a_killed_run_loses_what_was_under_way_and_resumes(tmp_path: Path) -> None:
    stub, path = StubServer(delay_s=0.02), tmp_path / "completions.duckdb"
    with running(stub):
        command = [sys.executable, "-c", RUN, str(stub.port), str(path)]
        child = subprocess.Popen(command)
        while len(stub.prompts()) < 100 and child.poll() is None:
            time.sleep(0.02)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        before = len(stub.prompts())
        kept = CompletionsStore(path).file.query("SELECT prompt FROM store.completions")
        known = set(kept["prompt"])
        assert 0 < len(known) < 200
        subprocess.run(command, check=True)
    later = stub.prompts()[before:]
    assert sorted(later) == sorted({f"p{n}" for n in range(200)} - known)
    # What was lost is bounded by what waits to be committed: the batches of one hand-over.
    assert before - len(known) <= 8 * (1 + 8) + 4


def adapter(folder: Path) -> ModelRef:
    folder.mkdir()
    (folder / ADAPTER_CONFIG).write_text(json.dumps({"r": 4, "lora_alpha": 8}), "utf-8")
    (folder / ADAPTER_WEIGHTS).write_bytes(b"weights")
    return with_adapter(BASE, folder)


def test_a_trained_adapter_is_loaded_asked_by_its_name_and_unloaded(tmp_path: Path) -> None:
    stub, policy = StubServer(adapters=set()), adapter(tmp_path / "adapter")
    with running(stub), endpoint_backend_on(stub, ref=policy) as backend:
        [[(_, done)]] = backend.generate(requests_of("a"))
        assert stub.adapters == {f"refine-{policy.fingerprint[:16]}"}
        [name] = stub.adapters
        assert stub.asked[-1]["model"] == name
        assert done.text == words_for(name, "a", 1)
        backend._resources.close()
        assert stub.adapters == set()
    assert backend.model == policy.fingerprint
    plain = endpoint_fingerprint(BASE, CPU, endpoint_config(stub))
    assert backend.fingerprint != plain


def test_a_server_that_loads_no_adapters_is_told_with_both_ways_out(tmp_path: Path) -> None:
    stub, policy = StubServer(), adapter(tmp_path / "adapter")
    with (
        running(stub),
        endpoint_backend_on(stub, ref=policy) as backend,
        pytest.raises(EndpointError, match="does not load the adapter") as told,
    ):
        list(backend.generate(requests_of("a")))
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" in str(told.value)
    assert "endpoint_local" in str(told.value)


def test_trained_models_run_here_where_the_config_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []

    class Here:
        def __init__(self, *given: Any) -> None:
            opened.append(given)

        def __enter__(self) -> str:
            return "here"

        def __exit__(self, *error: object) -> None:
            opened.append("closed")

    monkeypatch.setattr(endpoint, "transformers_backend", Here)
    config = endpoint_config(StubServer(port=1), endpoint_local=("trained",))
    for ref in (adapter(tmp_path / "one"), ModelRef("whole", "w" * 64, is_trained=True)):
        with endpoint_backend(ref, CPU, config) as backend:
            assert backend == "here"  # type: ignore[comparison-overlap]
        assert opened == [(ref, CPU, config), "closed"]
        opened.clear()
    whole = ModelRef("whole", "w" * 64, is_trained=True)
    with (
        pytest.raises(EndpointError, match="servers load adapters alone"),
        endpoint_backend(whole, CPU, endpoint_config(StubServer(port=1))),
    ):
        pass


def test_the_fingerprint_is_of_model_and_interface_not_of_servers() -> None:
    def named(**settings: Any) -> str:
        return endpoint_fingerprint(BASE, CPU, endpoint_config(StubServer(port=1), **settings))

    plain = named()
    assert plain == named(endpoint_urls=("http://elsewhere/v1",), endpoint_timeout_s=9)
    # The base model trained here is not the one on the server.
    other = ModelRef("folder", "e" * 64)
    config = endpoint_config(StubServer(port=1))
    assert plain == endpoint_fingerprint(other, CPU, config)
    others = [
        named(endpoint_model="other"),
        named(endpoint_api="chat"),
        named(endpoint_local=("labels",)),
    ]
    assert len({plain, *others}) == 4
    assert named(endpoint_local=("labels",)) != endpoint_fingerprint(
        other, CPU, endpoint_config(StubServer(port=1), endpoint_local=("labels",))
    )
