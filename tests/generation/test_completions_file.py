"""The completions store on a file of its own: one table, several processes, a killed process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import duckdb

from refine_dagster.generation.completions import CompletionsStore
from tests.builders.warehouse import new_warehouse

# Asks for numbers FROM to UNTIL, two a batch; DIES names the batch at which the process is killed.
PROCESS = """
import os, signal, sys
from refine_dagster.generation.completions import CompletionsStore
from refine_dagster.generation.request import Completion, Request, Sampling

path, first, last, dies = sys.argv[1], *map(int, sys.argv[2:])

class Echo:
    name, fingerprint = "echo", "f"

    def generate(self, requests):
        for batch, start in enumerate(range(0, len(requests), 2)):
            if batch == dies:
                os.kill(os.getpid(), signal.SIGKILL)
            part = range(start, min(start + 2, len(requests)))
            yield [(n, Completion(requests[n].prompt.upper(), "eos", 1, 1)) for n in part]

store = CompletionsStore(path)
asked = [Request("propose", f"prompt {n}", Sampling(8), n) for n in range(first, last)]
texts = [done.text for done in store.complete(Echo(), asked)]
assert texts == [f"PROMPT {n}" for n in range(first, last)]
print(store.usage["propose"].sent, store.usage["propose"].reused)
"""


def _start(path: Path, first: int, last: int, dies: int = -1) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROCESS, str(path), str(first), str(last), str(dies)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _sent_and_reused(process: subprocess.Popen[str]) -> tuple[int, int]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    sent, reused = out.split()
    return int(sent), int(reused)


def test_two_processes_share_a_file_and_ask_for_nothing_that_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "completions.duckdb"
    killed = _start(path, 0, 10, dies=3)
    killed.wait(timeout=120)
    assert killed.returncode == -9
    # The three batches before the one in flight are there.
    one, other = _start(path, 0, 10), _start(path, 8, 20)
    (sent, reused), (more, _) = _sent_and_reused(one), _sent_and_reused(other)
    assert (sent + reused, reused >= 6) == (10, True)
    assert 10 <= more <= 12
    assert _sent_and_reused(_start(path, 0, 20)) == (0, 20)


def test_a_file_of_its_own_holds_the_stores_tables_and_no_other(tmp_path: Path) -> None:
    store = CompletionsStore(tmp_path / "own.duckdb")
    warehouse = new_warehouse(tmp_path / "warehouse.duckdb")
    names = ("answers", "completions", "servers")
    for name in names:
        columns = f"SELECT * FROM (DESCRIBE store.{name})"
        assert store.file.query(columns).equals(warehouse.query(columns))
    with duckdb.connect(str(tmp_path / "own.duckdb")) as connection:
        tables = connection.execute("SELECT schema_name, table_name FROM duckdb_tables()")
        assert sorted(tables.fetchall()) == [("store", name) for name in names]
