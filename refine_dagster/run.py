"""Runs the graph in this process; an error that a user can fix leaves as a `RefineError`."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import dagster as dg
from dagster._core.errors import DagsterAssetCheckFailedError  # not public, and has no public base
from sqlalchemy.exc import DBAPIError

from refine_dagster import progress
from refine_dagster.config.profile import load_profile
from refine_dagster.definitions import build_definitions
from refine_dagster.errors import RefineError, first_line
from refine_dagster.generation.endpoint.readiness import server_notes
from refine_dagster.home import Home
from refine_dagster.warehouse.run_lock import holding_run_lock
from resources.event_log import files_error, open_instance
from resources.warehouse import end_run_that_was_cut_off

# Dagster writes paths into addresses of databases, and looks for its settings by pattern.
_NOT_IN_PATHS = re.compile(r"[?*\[]|%[0-9A-Fa-f]{2}")
_DAGSTER_YAML = "# Dagster sends no usage data.\ntelemetry:\n  enabled: false\n"
# The terminal shows progress; Dagster's own log stays in its event log.
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class RunFailedError(RefineError):
    """A step or a blocking check of the run failed."""


def prepare_dagster_home(home: Home) -> None:
    """Make the folder of Dagster's runs and events, and set DAGSTER_HOME to it.

    Raises:
        RefineError: the folder cannot be written, or its path means another file to Dagster.
    """
    if found := _NOT_IN_PATHS.search(str(home.root)):
        raise RefineError(
            f"Dagster cannot keep its files under a path with {found[0]!r}",
            where=str(home.root),
            fix="set REFINE_HOME to a path without it",
        )
    settings = home.dagster / "dagster.yaml"
    try:
        home.dagster.mkdir(parents=True, exist_ok=True)
        if not settings.is_file():
            settings.write_text(_DAGSTER_YAML, encoding="utf-8")
    except OSError as error:
        raise RefineError(
            f"cannot write: {error.strerror}",
            where=str(home.dagster),
            fix="make room, or set REFINE_HOME to a folder that can be written",
        ) from error
    os.environ["DAGSTER_HOME"] = str(home.dagster)


def run_pipeline(
    home: Home,
    profile: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    select: str = "*",
    wait_s: float = 0.0,
) -> None:
    """Materialise the selected assets, their checks included.

    Args:
        profile: a packaged profile or a YAML file; None reads `REFINE_PROFILE`.
        overrides: dotted config field -> value.
        select: assets in Dagster's selection syntax: `*`, `seed_tasks`, `+evaluation_report`.
        wait_s: seconds to wait for another run in this home to end.

    Raises:
        RunLockedError: another run works in this home; nothing was started.
        RefineError: an error of a step that a user can fix, or a blocking check that failed.
        KeyboardInterrupt: the run was interrupted; everything committed stays.
    """
    definitions = build_definitions(profile, overrides, home)
    prepare_dagster_home(home)
    keys = _selected(definitions, select)
    config = load_profile(profile, overrides)
    for note in server_notes(config.generator, evolves=config.teams_rl.evolved_seeds > 0):
        progress.note(note)
    job = definitions.resolve_job_def("everything")
    run_id = str(uuid4())
    with (
        holding_run_lock(home.root, run_id, wait_s=wait_s, say=progress.note) as cut_off,
        _explaining_dagsters_files(home),
        open_instance(home) as instance,
    ):
        if cut_off:
            end_run_that_was_cut_off(instance, cut_off)
        try:
            result = job.execute_in_process(
                run_config=_QUIET, instance=instance, asset_selection=keys, run_id=run_id
            )
        except dg.DagsterExecutionInterruptedError as error:
            raise KeyboardInterrupt from error
        except DagsterAssetCheckFailedError as error:
            raise _checks_failed(str(error).splitlines()[1:]) from error
        except (dg.Failure, dg.DagsterError) as error:
            _raise_reason(_chain(error))
            raise
        checks = result.get_asset_check_evaluations()
        for name in not_passed(checks, dg.AssetCheckSeverity.WARN):
            progress.note(f"a check warns: {name} (`refine-dagster ui` shows why)")
        failed = not_passed(checks, dg.AssetCheckSeverity.ERROR)
    if failed:
        raise _checks_failed(failed)


def not_passed(
    checks: Iterable[dg.AssetCheckEvaluation], severity: dg.AssetCheckSeverity
) -> list[str]:
    """The checks of a severity that did not pass, each behind its asset's name."""
    return [
        f"{check.asset_key.to_user_string()}: {check.check_name}"
        for check in checks
        if not check.passed and check.severity == severity
    ]


def _checks_failed(checks: Sequence[str]) -> RunFailedError:
    return RunFailedError(
        f"checks failed: {', '.join(check.strip() for check in checks)}",
        fix="`refine-dagster status` shows what was made, `refine-dagster ui` why a check failed",
    )


def _selected(definitions: dg.Definitions, select: str) -> list[dg.AssetKey]:
    graph = definitions.resolve_asset_graph()
    names = {key.to_user_string() for key in graph.get_all_asset_keys()}
    try:
        with warnings.catch_warnings():
            # Dagster's parser of selections warns of a parameter that it passes to itself.
            warnings.simplefilter("ignore", dg.BetaWarning)
            keys = dg.AssetSelection.from_string(_keyed(select, names)).resolve(graph)
    except dg.DagsterError as error:
        raise RefineError(
            f"{select!r} selects nothing: {first_line(error)}",
            where="--select",
            fix="use Dagster's selection syntax: `*`, an asset's name, `a or b`, "
            "`+name` for all upstream, `group:marts`",
        ) from error
    if not keys:
        raise RefineError(f"{select!r} selects nothing", where="--select", fix="name an asset")
    return sorted(keys)


def _keyed(select: str, names: Collection[str]) -> str:
    """The selection with `key:` before bare names: Dagster takes those only on their own.

    >>> _keyed("+b or group:a", {"a", "b"})
    '+key:"b" or group:a'
    """
    return re.sub(
        r'(?<![\w:"=/])\w+(?![\w:"=/])',
        lambda word: f'key:"{word[0]}"' if word[0] in names else word[0],
        select,
    )


@contextmanager
def _explaining_dagsters_files(home: Home) -> Iterator[None]:
    """Raise one error where Dagster cannot read or write its files.

    Where a step failed before, for the same full disk, its error is raised.
    """
    try:
        yield
    except (DBAPIError, OSError) as error:
        _raise_reason(_chain(error, with_context=True))
        raise files_error(home, error) from error


def _chain(error: BaseException, *, with_context: bool = False) -> Iterator[BaseException]:
    """The error and its causes; with their contexts, also errors that were being handled."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or (link.__context__ if with_context else None)


def _raise_reason(chain: Iterable[BaseException]) -> None:
    """Raise the first error of the chain that is a RefineError or an interruption, if one is."""
    for error in chain:
        if isinstance(error, RefineError | KeyboardInterrupt):
            raise error from error.__cause__
