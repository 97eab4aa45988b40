"""What becomes of a question to a server, besides an answer.

`Busy`, `Absent` and `Closed` are about the server: the question is asked again, elsewhere or later.
`Failed` may be either's fault: the question is tried a few times. `Refused` is about the question.
"""

from __future__ import annotations

from refine_dagster.errors import RefineError


class EndpointError(RefineError):
    """No server can answer, or not as the run needs it."""


class Outcome(Exception):  # noqa: N818
    """A question was not answered; the text says why, in words for a user."""


class Busy(Outcome):
    """The server has too much to do (429, 503); it may ask to wait for `wait_s`."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class Absent(Outcome):
    """The server cannot be reached."""


class Closed(Outcome):
    """The server will answer nothing of this run: it wants another key or has another model."""


class Failed(Outcome):
    """Something broke: a 5xx, a timeout, a cut connection, an answer that cannot be read."""


class Refused(Outcome):
    """The server will not answer this question, however often it is asked."""
