"""Progress of long work, reported once and shown wherever the work runs.

Engine code says `with progress.task("scoring", total=160) as advance: ... advance(8, reward=0.2)`.
The caller decides how it is shown: the command line installs a rich bar, a Dagster step logs a
line every few seconds, a test collects it. Without a reporter, progress costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
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
        """Show one line of text that belongs to no task."""


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
    """Whether somebody already shows progress (the command line, around a Dagster step)."""
    return _reporter.get() is not None


class Advance(Protocol):
    """Moves a task on: `advance(steps, name=figure, ...)`."""

    def __call__(self, steps: int = 1, /, **figures: Figure) -> None: ...


@contextmanager
def task(description: str, total: int | None = None) -> Iterator[Advance]:
    """Announce a task and yield the function that moves it on."""
    reporter = _reporter.get()
    if reporter is None:
        yield _silent
        return
    handle = reporter.start(description, total)

    def advance(steps: int = 1, /, **figures: Figure) -> None:
        reporter.advance(handle, steps, figures)

    try:
        yield advance
    finally:
        reporter.finish(handle)


def note(message: str) -> None:
    """Show one line of text."""
    reporter = _reporter.get()
    if reporter is not None:
        reporter.note(message)


def _silent(steps: int = 1, /, **figures: Figure) -> None:
    return None


class CallbackReporter:
    """Reports through one function of text, at most once every `every_s` seconds a task.

    A task inside another that ends sooner than that is not told of at all.
    """

    def __init__(self, say: Callable[[str], None], *, every_s: float = 5.0) -> None:
        from time import monotonic

        self._say = say
        self._every_s = every_s
        self._clock = monotonic
        self._tasks: list[tuple[str, int | None]] = []
        self._done: list[int] = []
        self._said: list[float] = []
        self._began: list[float] = []
        self._inside: list[bool] = []
        self._open = 0

    def start(self, description: str, total: int | None) -> int:
        self._tasks.append((description, total))
        self._done.append(0)
        self._began.append(self._clock())
        self._said.append(self._began[-1])
        self._inside.append(self._open > 0)
        self._open += 1
        return len(self._tasks) - 1

    def advance(self, handle: int, steps: int, figures: dict[str, Figure]) -> None:
        self._done[handle] += steps
        if self._clock() - self._said[handle] >= self._every_s:
            self._said[handle] = self._clock()
            self._say(self._line(handle, figures))

    def finish(self, handle: int) -> None:
        self._open -= 1
        if self._inside[handle] and self._clock() - self._began[handle] < self._every_s:
            return
        self._say(self._line(handle, {}))

    def note(self, message: str) -> None:
        self._say(message)

    def _line(self, handle: int, figures: dict[str, Figure]) -> str:
        description, total = self._tasks[handle]
        of = f"/{total}" if total is not None else ""
        shown = "".join(
            f", {name} {value:.4g}" if isinstance(value, float) else f", {name} {value}"
            for name, value in figures.items()
        )
        return f"{description}: {self._done[handle]}{of}{shown}"
