"""Progress of long work: reported by the code that works, shown by the reporter of its caller.

    with progress.task("scoring", total=160) as advance:
        advance(8, reward=0.2)

The command line shows bars, a Dagster step logs a line every few seconds. Without a reporter,
progress costs nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

Figure = float | int | str


class Reporter(Protocol):
    """Shows the progress of named tasks."""

    def start(self, description: str, total: int | None) -> int:
        """Begin a task of `total` steps (None: unknown) and return its handle."""

    def advance(self, handle: int, steps: int, figures: dict[str, Figure]) -> None:
        """Move a task on by `steps` and show `figures` beside it."""

    def finish(self, handle: int) -> None:
        """End a task, whether it completed or failed."""

    def note(self, message: str) -> None:
        """Show a line that belongs to no task."""


_reporter: ContextVar[Reporter | None] = ContextVar("refine_dagster_reporter", default=None)


@contextmanager
def reporting(reporter: Reporter | None) -> Iterator[None]:
    """Show progress through `reporter` inside the block; None shows nothing."""
    token = _reporter.set(reporter)
    try:
        yield
    finally:
        _reporter.reset(token)


def is_reporting() -> bool:
    """Whether a reporter is installed, such as the command line's around a Dagster step."""
    return _reporter.get() is not None


class Advance(Protocol):
    def __call__(self, steps: int = 1, /, **figures: Figure) -> None: ...


@contextmanager
def task(description: str, total: int | None = None) -> Iterator[Advance]:
    reporter = _reporter.get()
    if reporter is None:
        yield lambda steps=1, /, **figures: None
        return
    handle = reporter.start(description, total)

    def advance(steps: int = 1, /, **figures: Figure) -> None:
        reporter.advance(handle, steps, figures)

    try:
        yield advance
    finally:
        reporter.finish(handle)


def note(message: str) -> None:
    """Show one line of text, if a reporter is installed."""
    reporter = _reporter.get()
    if reporter is not None:
        reporter.note(message)


class NoteReporter:
    """Calls `on_line` with each note, and shows no tasks."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line

    def start(self, description: str, total: int | None) -> int:
        return 0

    def advance(self, handle: int, steps: int, figures: dict[str, Figure]) -> None:
        """Nothing is shown."""

    def finish(self, handle: int) -> None:
        """Nothing is shown."""

    def note(self, message: str) -> None:
        self._on_line(message)


def figure_texts(figures: dict[str, Figure]) -> list[str]:
    """Each figure after its name; four digits of a float."""
    return [
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in figures.items()
    ]


@dataclass
class _Task:
    description: str
    total: int | None
    is_inner: bool
    done: int = 0
    began: float = field(default_factory=time.monotonic)
    reported: float = field(default_factory=time.monotonic)

    def line(self, figures: dict[str, Figure]) -> str:
        total = f"/{self.total}" if self.total is not None else ""
        return ", ".join([f"{self.description}: {self.done}{total}", *figure_texts(figures)])


class CallbackReporter:
    """Calls `on_line` with one line of text, at most every `every_s` seconds for each task.

    A task inside another that ends sooner than that is not reported at all.
    """

    def __init__(self, on_line: Callable[[str], None], *, every_s: float = 5.0) -> None:
        self._on_line = on_line
        self._every_s = every_s
        self._tasks: list[_Task] = []
        self._open = 0

    def start(self, description: str, total: int | None) -> int:
        self._tasks.append(_Task(description, total, is_inner=self._open > 0))
        self._open += 1
        return len(self._tasks) - 1

    def advance(self, handle: int, steps: int, figures: dict[str, Figure]) -> None:
        task = self._tasks[handle]
        task.done += steps
        now = time.monotonic()
        if now - task.reported >= self._every_s:
            task.reported = now
            self._on_line(task.line(figures))

    def finish(self, handle: int) -> None:
        task = self._tasks[handle]
        self._open -= 1
        if not task.is_inner or time.monotonic() - task.began >= self._every_s:
            self._on_line(task.line({}))

    def note(self, message: str) -> None:
        self._on_line(message)
