"""Runs of the command line in child processes that tests may kill.

Importing the libraries takes seconds, so one server process imports them once and every child is
forked from it, before it has run anything. What the imports made is set aside from collections.
A child is a real process: its own process group, its own files, its own database connections, and
what it prints goes to a log file.
"""

from __future__ import annotations

import importlib
import itertools
import json
import math
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest import mock

from refine_dagster.generation.request import Completion, Request, Scoring
from refine_dagster.home import Home
from refine_dagster.models.device import set_imports_aside
from refine_dagster.warehouse.tables import graph_assets

TINY = str(Path(__file__).parent / "tiny.yaml")
# For what needs only the first assets: a base model that was hardly trained, two rounds.
QUICK = {
    "REFINE_BASE_MODEL__STEPS": "2",
    "REFINE_BASE_MODEL__PRIMER_TASKS": "50",
    "REFINE_SELF_INSTRUCT__MAX_ROUNDS": "2",
    "REFINE_SELF_INSTRUCT__TARGET": "1000",
}
CHECKS_OF_LEARNING = {
    "judge_better_than_chance",
    "judge_auc",
    "reward_rose",
    "reward_not_fallen",
    "over_fitting_is_seen",
}
FIRST_ASSETS = (
    "--select",
    "seed_tasks or base_model or raw_instructions or stg_raw_instructions",
)
PRELOADED = [
    "pytest",
    "dagster._core.execution.execute_in_process",
    "dagster._core.storage.event_log.sqlite",
    "duckdb",
    "peft",
    "polars",
    "pyarrow",
    "rouge_score.rouge_scorer",
    "torch",
    "transformers.models.llama.modeling_llama",
    "trl.trainer.grpo_trainer",
    "trl.trainer.sft_trainer",
    "refine_dagster.cli",
    "refine_dagster.run",
    "refine_dagster.commands.run",
    "tests.pipeline.children",
]


# What follows the last asset of the pipeline: its SQL models have no line of progress.
SQL_MODELS = "sql models"

set_imports_aside()


@dataclass
class Child:
    """A command line at work. `log` has what it printed, `sent` the requests it decoded."""

    process: BaseProcess
    log: Path
    sent: Path

    @property
    def pid(self) -> int:
        """The process id, which is its process group's too."""
        assert self.process.pid is not None
        return self.process.pid

    def cpu_s(self) -> float:
        """Processor seconds used so far: a clock that other work does not turn. inf once ended."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii")
        except (FileNotFoundError, ProcessLookupError):
            return math.inf
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def printed(self) -> list[str]:
        """The whole lines printed so far."""
        return self.log.read_text(encoding="utf-8").split("\n")[:-1]

    def batches(self) -> list[list[str]]:
        """Keys of the requests sent, one list for each batch, in order."""
        if not self.sent.exists():
            return []
        return [json.loads(line) for line in self.sent.read_text(encoding="utf-8").splitlines()]

    def sent_keys(self) -> list[str]:
        """Keys of the requests sent, in order."""
        return [key for batch in self.batches() for key in batch]

    def wait_for(self, found: Callable[[list[str]], bool], timeout_s: float = 400.0) -> bool:
        """Wait until the lines printed are as wanted; False where the child ended first."""
        deadline = time.monotonic() + timeout_s
        while not found(self.printed()):
            if not self.process.is_alive():
                return found(self.printed())
            assert time.monotonic() < deadline, self.log.read_text(encoding="utf-8")
            time.sleep(0.01)
        return True

    def seconds_of_stages(self) -> dict[str, float]:
        """Processor seconds of each stage of the whole graph, in order, as the child gets there."""
        seconds: dict[str, float] = {}
        for place in range(len(graph_assets())):
            assert self.wait_for(partial(_more_ended, place)), self.log.read_text(encoding="utf-8")
            seconds[ended(self.printed())[place]] = self.cpu_s() - sum(seconds.values())
        # The summary, which the command prints last, is no stage.
        assert self.wait_for(partial(_begins_a_line, "Funnel per stage"))
        seconds[SQL_MODELS] = self.cpu_s() - sum(seconds.values())
        return seconds

    def kill(self) -> bool:
        """SIGKILL the process group; False where the child had ended by itself."""
        if self.process.is_alive():
            os.killpg(self.pid, signal.SIGKILL)
        self.process.join()
        return self.process.exitcode == -signal.SIGKILL

    def end(self, timeout_s: float = 900.0) -> int:
        """Wait for the end and return the exit code; kill it where it does not come."""
        self.process.join(timeout_s)
        if self.process.is_alive():
            self.kill()
        assert self.process.exitcode is not None
        return self.process.exitcode


def ended(lines: Sequence[str]) -> list[str]:
    """The assets that a child said were done, in order."""
    names = (line.partition(": ")[0] for line in lines)
    return [name for name in names if name in graph_assets()]


def _more_ended(count: int, lines: Sequence[str]) -> bool:
    return len(ended(lines)) > count


def _begins_a_line(text: str, lines: Sequence[str]) -> bool:
    return any(line.startswith(text) for line in lines)


def fork(log: Path, work: Callable[..., None], *given: object) -> Child:
    """Start `work(*given)` in a child whose output goes to the file `log`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    log.write_text("", encoding="utf-8")
    process = context.Process(target=_begin, args=(log, work, given))
    process.start()
    return Child(process, log, log.with_suffix(".sent"))


def run_command(
    home: Home,
    log: Path,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    prepare: Callable[..., None] | None = None,
    given: Sequence[object] = (),
) -> Child:
    """Start `refine-dagster run --profile tiny ARGUMENTS` on a home.

    Args:
        environment: variables beside `REFINE_HOME`.
        prepare: called with `given` in the child before the command.
    """
    variables = {"REFINE_HOME": str(home.root), **(environment or {})}
    return fork(log, _command, log.with_suffix(".sent"), arguments, variables, prepare, given)


def at_call(function: str, call: int, when: str, act: Callable[..., None], *given: object) -> None:
    """Have `act(*given)` done at one call of a function; runs in the child.

    Args:
        function: `module:name` or `module:Class.name`.
        call: which call, from 1.
        when: `before` or `after` the call.
    """
    module, _, path = function.partition(":")
    owner: Any = importlib.import_module(module)
    *outer, name = path.split(".")
    for one in outer:
        owner = getattr(owner, one)
    original = getattr(owner, name)
    calls = itertools.count(1)

    def watched(*arguments: Any, **named: Any) -> Any:
        number = next(calls)
        if number == call and when == "before":
            act(*given)
        result = original(*arguments, **named)
        if number == call and when == "after":
            act(*given)
        return result

    setattr(owner, name, watched)


def _begin(log: Path, work: Callable[..., None], given: Sequence[object]) -> None:
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    work(*given)


def _command(
    sent: Path,
    arguments: Sequence[str],
    variables: Mapping[str, str],
    prepare: Callable[..., None] | None,
    given: Sequence[object],
) -> None:
    for name in [name for name in os.environ if name.startswith("REFINE_")]:
        del os.environ[name]
    os.environ.update(variables)
    _leave_out_checks_of_learning()
    _list_what_is_sent(sent)
    if prepare is not None:
        prepare(*given)
    from refine_dagster.cli import main

    sys.argv = ["refine-dagster", "run", "--profile", TINY, *arguments]
    main()


def _leave_out_checks_of_learning() -> None:
    """Models as small as the tiny profile's do not learn enough to pass them."""
    from assets import checks

    all_checks = checks.asset_checks

    def kept(rounds: int = 1) -> list[Any]:
        return [
            check
            for check in all_checks(rounds)
            if not {spec.name for spec in check.check_specs} & CHECKS_OF_LEARNING
        ]

    mock.patch("refine_dagster.definitions.asset_checks", kept).start()


def _list_what_is_sent(sent: Path) -> None:
    """Write down the keys of every batch before it is decoded, or its labels are scored."""
    from refine_dagster.generation.transformers_backend import TransformersBackend

    decode = TransformersBackend._decode

    def listed(self: TransformersBackend, batch: Sequence[Any]) -> Any:
        keys = [row.request.key(self.fingerprint) for row in batch]
        with sent.open("a", encoding="utf-8") as file:
            file.write(json.dumps(keys) + "\n")
        return decode(self, batch)

    generate = TransformersBackend.generate

    def scored_too(
        self: TransformersBackend, requests: Sequence[Request]
    ) -> Iterator[list[tuple[int, Completion]]]:
        keys = [one.key(self.fingerprint) for one in requests if isinstance(one.sampling, Scoring)]
        if keys:
            with sent.open("a", encoding="utf-8") as file:
                file.write(json.dumps(keys) + "\n")
        yield from generate(self, requests)

    mock.patch.object(TransformersBackend, "_decode", listed).start()
    mock.patch.object(TransformersBackend, "generate", scored_too).start()
