"""Engines end: by themselves, with their memory; killed, with their last words, and are resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from refine_dagster.config.models import GeneratorConfig
from refine_dagster.generation.completions import CompletionsStore, open_generator
from refine_dagster.generation.request import Backend, Completion, Request, Sampling
from refine_dagster.generation.vllm_backend import VllmBackend
from refine_dagster.generation.vllm_engine import VllmError
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import ModelRef
from refine_dagster.warehouse.warehouse import Warehouse
from tests.vllm.asking import ASKED, BATCH

ROOT = Path(__file__).parents[2]


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def weights_of(backend: Backend) -> Any:
    """A weak reference to the model that an engine of this process has loaded."""
    assert isinstance(backend, VllmBackend)
    return weakref.ref(backend._engine()._engine._get_driver_model_for_cleanup())


def parents() -> dict[int, int]:
    """Process -> its parent, of all processes."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text(encoding="ascii", errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue
            found[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    return found


def descendants(pid: int) -> list[int]:
    found, known = [pid], parents()
    for one in found:
        found += [child for child, parent in known.items() if parent == one]
    return found[1:]


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def asked(count: int) -> list[Request]:
    return [Request("judge", one.prompt, Sampling(max_new_tokens=8), 0) for one in ASKED[:count]]


def test_memory_is_given_back(base: ModelRef, device: Device, tmp_path: Path) -> None:
    store = CompletionsStore(Warehouse(tmp_path / "w.duckdb"), "run")
    # A cache of half a gigabyte: 1024 sequences of 512 tokens of 1 KiB.
    config = GeneratorConfig(backend="vllm", batch_size=1024)
    after, inside, children = [], [], set(descendants(os.getpid()))
    for turn in range(2):
        with open_generator(base, device, store, config) as session:
            session.complete(asked(4 * (turn + 1)))
            inside.append(resident_mb())
            weights = weights_of(session.backend)
            assert type(weights()).__name__ == "LlamaForCausalLM"
        assert weights() is None
        assert set(descendants(os.getpid())) <= children
        after.append(resident_mb())
    assert inside[0] - after[0] > 400
    assert inside[1] - after[1] > 400
    assert after[1] - after[0] < 100
    assert store.usage["judge"].sent == 8
    # Where nothing is sent, no engine is started.
    with open_generator(base, device, store, config) as session:
        assert session.backend.count_tokens(ASKED[0].prompt) > 5
        assert all(one.reused for one in session.complete(asked(8)))
        assert isinstance(session.backend, VllmBackend)
        start: Any = session.backend._engine
        assert start.cache_info().misses == 0


def test_what_vllm_refuses_is_told(
    base: ModelRef, device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CompletionsStore(Warehouse(tmp_path / "w.duckdb"), "run")
    # Room for less than one sequence.
    config = GeneratorConfig(backend="vllm", vllm_memory_share=1e-6)
    with (
        pytest.raises(VllmError, match="vLLM cannot run the model") as caught,
        open_generator(base, device, store, config) as session,
    ):
        session.complete(asked(1))
    assert "cache" in str(caught.value)


@contextmanager
def asking(base: ModelRef, warehouse: Path, processes: str) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": processes}
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.vllm.asking", base.path, str(warehouse)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield child
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()


def read_batches(child: subprocess.Popen[str], count: int) -> None:
    assert child.stdout is not None
    told = []
    for line in child.stdout:
        told.append(line)
        count -= line.startswith("batch")
        if not count:
            return
    raise AssertionError("".join(told))


@pytest.mark.parametrize("victim", ["the engine", "the whole process"])
def test_a_killed_engine_is_resumed(
    victim: str, base: ModelRef, device: Device, tmp_path: Path
) -> None:
    path = tmp_path / "w.duckdb"
    with asking(base, path, "1" if victim == "the engine" else "0") as child:
        read_batches(child, 2)
        if victim == "the engine":
            engines = [pid for pid in descendants(child.pid) if "EngineCore" in name_of(pid)]
            os.kill(engines[0], signal.SIGKILL)
            told, _ = child.communicate(timeout=300)
            assert child.returncode == 1
            assert "VllmError" in told
            assert "vLLM's engine died" in told
            # Lines of the engine's own log, with process and level.
            assert told.partition("last lines of its log")[2].count(" INFO ") >= 3
            assert "done" not in told.splitlines()
            assert [pid for pid in engines if Path(f"/proc/{pid}").exists()] == []
        else:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    kept = Warehouse(path).query("SELECT key FROM store.completions")["key"].to_list()
    assert 2 * BATCH <= len(kept) < len(ASKED)

    store = CompletionsStore(Warehouse(path), "second")
    sent: list[str] = []
    with open_generator(base, device, store, GeneratorConfig(backend="vllm")) as session:
        _note_requests(session.backend, sent)
        answers = session.complete(ASKED)
    wanted = {one.key(session.backend.fingerprint) for one in ASKED}
    assert set(kept) < wanted
    assert sorted(sent) == sorted(wanted - set(kept))
    assert sum(one.reused for one in answers) == len(kept)
    assert all(isinstance(one, Completion) and one.completion_tokens > 0 for one in answers)


def _note_requests(backend: Any, sent: list[str]) -> None:
    """Have the keys of what reaches the backend written down."""
    generate = backend.generate

    def noted(requests: list[Request]) -> Iterator[list[tuple[int, Completion]]]:
        sent.extend(one.key(backend.fingerprint) for one in requests)
        yield from generate(requests)

    backend.generate = noted
