"""The home of a project's files (`REFINE_HOME`, by default `./refine_home`), and atomic writes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HOME_VARIABLE = "REFINE_HOME"
DEFAULT_HOME = "refine_home"


@dataclass(frozen=True)
class Home:
    """The folder and what is in it. Nothing is created before something is written."""

    root: Path

    @property
    def warehouse(self) -> Path:
        return self.root / "warehouse.duckdb"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def report(self) -> Path:
        """The page that the asset `run_report` writes."""
        return self.root / "run_report.html"

    @property
    def dagster(self) -> Path:
        """Dagster's own home: runs, events, schedules."""
        return self.root / "dagster"


def find_home(environment: Mapping[str, str] | None = None) -> Home:
    """The home that the environment names, as an absolute path."""
    environment = os.environ if environment is None else environment
    return Home(Path(environment.get(HOME_VARIABLE) or DEFAULT_HOME).expanduser().resolve())


def cache_folder(environment: Mapping[str, str] | None = None) -> Path:
    """The folder of what can be made again: fetched and converted models."""
    environment = os.environ if environment is None else environment
    caches = Path(environment.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute()
    return caches / "refine-dagster"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write to; at the end what was written there replaces `path`.

    The parent folder is made. After an error or a kill, `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield partial
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a whole file, text as UTF-8."""
    with replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
