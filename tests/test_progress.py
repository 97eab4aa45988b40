"""Progress reaches whoever listens, and costs nothing where nobody does."""

from __future__ import annotations

from refine_dagster import progress


def test_lines_tell_description_count_and_figures() -> None:
    lines: list[str] = []
    with (
        progress.reporting(progress.CallbackReporter(lines.append, every_s=0.0)),
        progress.task("scoring", total=4) as advance,
    ):
        assert progress.is_reporting()
        advance(3, reward=0.25, rows=7)
        progress.note("half way")
    assert lines == ["scoring: 3/4, reward 0.25, rows 7", "half way", "scoring: 3/4"]


def test_a_short_task_inside_another_is_not_told_of() -> None:
    lines: list[str] = []
    with (
        progress.reporting(progress.CallbackReporter(lines.append, every_s=60.0)),
        progress.task("training", total=2) as advance,
    ):
        for _ in range(2):
            with progress.task("requests", total=8) as inner:
                inner(8)
            advance(1)
    with progress.reporting(progress.CallbackReporter(lines.append)), progress.task("alone"):
        pass
    assert lines == ["training: 2/2", "alone: 0"]


def test_silence_without_a_reporter() -> None:
    assert not progress.is_reporting()
    with progress.task("nobody hears") as advance:
        advance(1)
    progress.note("nobody hears")
