"""A server's pace falls by a quarter for a burst, and grows by one after a run of successes."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from refine_dagster.generation.endpoint.connection import retry_after
from refine_dagster.generation.endpoint.pace import LONGEST_WAIT_S, Pace


def test_a_burst_of_busy_answers_costs_a_quarter_once() -> None:
    pace = Pace(32)
    for _ in range(10):
        pace.busy(sent_at=1.0, now=2.0, wait_s=None)
    assert pace.limit == 24
    pace.busy(sent_at=3.0, now=4.0, wait_s=None)
    assert pace.limit == 18


def test_a_run_of_successes_adds_one_up_to_the_ceiling() -> None:
    pace = Pace(8)
    pace.busy(1.0, 2.0, None)
    assert pace.limit == 6
    for _ in range(5):
        pace.succeeded()
    assert pace.limit == 6
    pace.succeeded()
    assert pace.limit == 7
    for _ in range(100):
        pace.succeeded()
    assert pace.limit == 8


def test_a_busy_answer_breaks_a_run_and_one_request_always_goes() -> None:
    pace = Pace(2)
    pace.busy(1.0, 2.0, None)
    assert pace.limit == 1
    pace.busy(3.0, 4.0, None)
    assert pace.limit == 1
    pace.succeeded()
    assert pace.limit == 2


def test_nothing_is_sent_while_a_server_rests() -> None:
    pace = Pace(4)
    pace.in_flight = 1
    pace.busy(1.0, 2.0, wait_s=5.0)
    assert pace.room(6.9) == 0
    assert pace.room(7.0) == 2
    # A later answer of the same burst may ask for more.
    pace.busy(1.5, 3.0, wait_s=9.0)
    assert pace.room(11.9) == 0
    assert pace.room(12.0) == 2


def test_waits_double_until_something_succeeds() -> None:
    pace, waits, now = Pace(4), [], 10.0
    for _ in range(9):
        pace.rest(now)
        waits.append(pace.resumes_at - now)
        now = pace.resumes_at
    assert waits[:3] == [0.5, 1.0, 2.0]
    assert waits[-1] == LONGEST_WAIT_S
    pace.succeeded()
    pace.rest(now)
    assert pace.resumes_at - now == 0.5


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("3", 3.0),
        ("-1", 0.0),
        ("soon", None),
        ("Tue, 01 Dec 2026 12:00:09 GMT", 9.0),
        ("Tue, 01 Dec 2026 11:00:00 GMT", 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, datetime(2026, 12, 1, 12, 0, 0, tzinfo=UTC)) == seconds
