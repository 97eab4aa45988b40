"""Progress in the terminal: rich bars on a screen, plain lines in a log file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from refine_dagster.commands.output import plain
from refine_dagster.progress import CallbackReporter, Figure, figure_texts, reporting


class BarReporter:
    """Shows each task as a bar with its figures, and removes it when it ends."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars

    def start(self, description: str, total: int | None) -> int:
        return int(self._bars.add_task(description, total=total, figures=""))

    def advance(self, handle: int, steps: int, figures: dict[str, Figure]) -> None:
        self._bars.update(TaskID(handle), advance=steps, figures="  ".join(figure_texts(figures)))

    def finish(self, handle: int) -> None:
        self._bars.remove_task(TaskID(handle))

    def note(self, message: str) -> None:
        self._bars.console.print(plain(message), highlight=False)


@contextmanager
def showing_progress(console: Console) -> Iterator[None]:
    """Show progress on `console` inside the block."""
    if not console.is_terminal:
        lines = CallbackReporter(
            lambda line: console.print(plain(line), highlight=False), every_s=10.0
        )
        with reporting(lines):
            yield
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=console) as bars, reporting(BarReporter(bars)):
        yield
