"""How many requests a server is sent at once: additive increase, multiplicative decrease.

A run of successes as long as the limit raises it by one. The first `busy` of a burst takes a
quarter off; those of requests that were under way by then say nothing new.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# Seconds of the first wait and of the longest, where a server does not say how long.
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
# Seconds of a wait where a server says that there is none.
SHORTEST_WAIT_S = 0.05


@dataclass
class Pace:
    """The pace of one server. Times are seconds of one clock.

    Attributes:
        ceiling: the limit never exceeds it, and begins there.
        in_flight: requests that are under way; counted by the caller.
        resumes_at: nothing is sent before.
    """

    ceiling: int
    limit: int = field(init=False)
    in_flight: int = 0
    resumes_at: float = 0.0
    _successes: int = 0
    _slowed_at: float = float("-inf")
    _waits: int = 0

    def __post_init__(self) -> None:
        self.limit = self.ceiling

    def room(self, now: float) -> int:
        """How many more requests may be sent."""
        return 0 if now < self.resumes_at else self.limit - self.in_flight

    def succeeded(self) -> None:
        self._waits = 0
        self._successes += 1
        if self._successes >= self.limit and self.limit < self.ceiling:
            self.limit += 1
            self._successes = 0

    def busy(self, sent_at: float, now: float, wait_s: float | None) -> None:
        """The server declined a request that was sent at `sent_at`; it may say how long to wait."""
        self._successes = 0
        if sent_at > self._slowed_at:
            self._slowed_at = now
            self.limit = max(1, self.limit * 3 // 4)
            self.rest(now, wait_s)
        elif wait_s is not None:
            self.resumes_at = max(self.resumes_at, now + wait_s)

    def rest(self, now: float, wait_s: float | None = None) -> None:
        """Send nothing for `wait_s`, or for twice the last wait."""
        if wait_s is None:
            wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**self._waits)
            self._waits += 1
        self.resumes_at = max(self.resumes_at, now + max(wait_s, SHORTEST_WAIT_S))
