"""`refine-dagster ui`: the web server, a run started through it, and its memory of that run."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

from refine_dagster.definitions import build_definitions
from refine_dagster.home import Home
from refine_dagster.warehouse.warehouse import Warehouse

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
STARTS_WITHIN_S = 90.0
RUNS_WITHIN_S = 90.0
STOPS_WITHIN_S = 20.0

NODES = "{ assetNodes { assetKey { path } groupName } }"
REPOSITORIES = """{ repositoriesOrError { ... on RepositoryConnection {
    nodes { name location { name } jobs { name } } } } }"""
LAUNCH = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } } } }"""
RUN = """query($id: ID!) { runOrError(runId: $id) { __typename
    ... on Run { status assetMaterializations { assetKey { path } } } } }"""


class Server:
    """A running `refine-dagster ui`."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/graphql"

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The data that GraphQL answers."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = Request(self._url, body, {"Content-Type": "application/json"})
        with urlopen(request, timeout=30) as answer:
            told = json.load(answer)
        assert "errors" not in told, told
        return dict(told["data"])

    def answers(self) -> bool:
        """Whether the code location is loaded."""
        try:
            return bool(self.ask(REPOSITORIES)["repositoriesOrError"].get("nodes"))
        except (URLError, ConnectionError, TimeoutError):
            return False


@contextmanager
def serving(home: Home, log: Path) -> Iterator[Server]:
    """Start the UI in a session of its own, and end all of its processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    kept = {name: text for name, text in os.environ.items() if not name.startswith("REFINE_")}
    kept.pop("DAGSTER_HOME", None)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "refine_dagster.cli", "ui", "--port", str(port)],
            cwd=REPOSITORY,
            env={**kept, "REFINE_HOME": str(home.root), "OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    server = Server(port)
    try:
        wait(server.answers, STARTS_WITHIN_S, log, alive=process)
        yield server
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its group: politely, then for certain."""
    for kind, seconds in ((signal.SIGTERM, STOPS_WITHIN_S), (signal.SIGKILL, STOPS_WITHIN_S)):
        try:
            os.killpg(process.pid, kind)
        except ProcessLookupError:
            break
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
    process.wait(STOPS_WITHIN_S)


def wait(
    done: Callable[[], bool],
    seconds: float,
    log: Path,
    alive: subprocess.Popen[bytes] | None = None,
) -> None:
    """Wait until `done`, or fail with the end of the log."""
    deadline = time.monotonic() + seconds
    while not done():
        tail = log.read_text(encoding="utf-8", errors="replace")[-4000:]
        assert alive is None or alive.poll() is None, f"the server ended:\n{tail}"
        assert time.monotonic() < deadline, f"not done after {seconds:g} s:\n{tail}"
        time.sleep(0.5)


def status(server: Server, run_id: str) -> str:
    """A run's status; the kind of the answer where there is no such run."""
    found = server.ask(RUN, id=run_id)["runOrError"]
    return str(found.get("status", found["__typename"]))


@pytest.mark.timeout(300)
def test_the_ui_shows_the_graph_runs_it_and_remembers(tmp_path: Path) -> None:
    home, log = Home(tmp_path / "home"), tmp_path / "ui.log"
    expected = {
        spec.key.to_user_string(): spec.group_name
        for spec in build_definitions("offline", home=home).resolve_all_asset_specs()
    }
    assert not home.root.exists()
    with serving(home, log) as server:
        nodes = server.ask(NODES)["assetNodes"]
        assert {"/".join(n["assetKey"]["path"]): n["groupName"] for n in nodes} == expected
        (repository,) = server.ask(REPOSITORIES)["repositoriesOrError"]["nodes"]
        assert {"everything", "dataset_only", "train_only"} <= {
            job["name"] for job in repository["jobs"]
        }
        assert not home.warehouse.exists()
        selector = {
            "repositoryName": repository["name"],
            "repositoryLocationName": repository["location"]["name"],
            "jobName": "everything",
            "assetSelection": [{"path": ["seed_tasks"]}],
        }
        launched = server.ask(LAUNCH, params={"selector": selector})["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        run_id = launched["run"]["runId"]
        ended = ("SUCCESS", "FAILURE", "CANCELED")
        wait(lambda: status(server, run_id) in ended, RUNS_WITHIN_S, log)
        assert status(server, run_id) == "SUCCESS", log.read_text(encoding="utf-8")[-4000:]
    seeds = Warehouse(home.warehouse).read("seed_tasks")
    assert seeds.height >= 150
    assert "enabled: false" in (home.dagster / "dagster.yaml").read_text(encoding="utf-8")
    with serving(home, log) as server:
        found = server.ask(RUN, id=run_id)["runOrError"]
    assert found["status"] == "SUCCESS"
    assert found["assetMaterializations"] == [{"assetKey": {"path": ["seed_tasks"]}}]
