"""Shares requests among servers, each at its own pace, and tries again what may succeed.

A request waits in one queue until a server has room for it. What a server declines because it is
busy or gone returns to the queue. What fails is tried `TRIES` times; a prompt is then refused only
if a server answers something else at that moment, so an outage refuses nothing. The run ends with
an error where nothing is under way and no server has answered for `PATIENCE_S`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from refine_dagster.generation.endpoint.connection import Connection
from refine_dagster.generation.endpoint.outcomes import (
    Absent,
    Busy,
    Closed,
    EndpointError,
    Failed,
    Refused,
)
from refine_dagster.generation.endpoint.pace import Pace
from refine_dagster.generation.request import Completion, Request, Server

TRIES = 4
PATIENCE_S = 300.0
# Failures in a row after which a server is given a rest.
FAILURES = 3
# Seconds after which a batch is handed over that is not full.
HAND_OVER_S = 1.0
# Answers that wait to be handed over, in batches, before no more requests are sent.
WAITING = 8


@dataclass
class Site:
    """A server that is sent requests.

    Attributes:
        failures: in a row.
        closed: why it is sent no more; None while it is.
        absent: whether it could not be reached when it was last tried.
    """

    connection: Connection
    server: Server
    pace: Pace
    failures: int = 0
    closed: str | None = None
    absent: bool = False
    last_problem: str = ""


@dataclass
class _Job:
    position: int
    request: Request
    tries: int = 0
    failed_at: list[Site] = field(default_factory=list)


Answer = Callable[[Site, Request], Awaitable[Completion]]


class Dispatch:
    """The requests of one call. All methods run in one event loop.

    Args:
        answer: asks one server, and raises an `Outcome`.
        is_well: whether a server answers a plain request now.
        batch: answers that are handed over together, or more, if the receiver is slow.

    Attributes:
        notes: what happened to servers, one line each, for the receiver to show and clear.
    """

    def __init__(
        self,
        sites: Sequence[Site],
        requests: Sequence[Request],
        answer: Answer,
        is_well: Callable[[Site], Awaitable[bool]],
        batch: int,
        patience_s: float | None = None,
    ) -> None:
        self._sites, self._answer, self._is_well = sites, answer, is_well
        self._batch, self._patience_s = batch, patience_s or PATIENCE_S
        self._pending = deque(_Job(*numbered) for numbered in enumerate(requests))
        self._left = len(requests)
        self._running: set[asyncio.Task[None]] = set()
        self._done: list[tuple[int, Completion]] = []
        self._error: BaseException | None = None
        self.notes: list[str] = []
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        # Since when nothing was under way and nothing was answered.
        self._idle_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_late = False

    async def next_batch(self) -> list[tuple[int, Completion]]:
        """(position, completion) of what was answered since the last call; [] at the end."""
        self._send()
        self._is_late = False
        hand_over = self._loop.call_later(HAND_OVER_S, self._late)
        try:
            while True:
                if self._done and (
                    len(self._done) >= min(self._batch, self._left) or self._is_late or self._error
                ):
                    done, self._done = self._done, []
                    self._left -= len(done)
                    return done
                if self._error is not None:
                    raise self._error
                if not self._left:
                    return []
                self._wake.clear()
                await self._wake.wait()
        finally:
            hand_over.cancel()

    def _late(self) -> None:
        """From now on the first answer is handed over at once."""
        self._is_late = True
        self._wake.set()

    async def cancel(self) -> None:
        """End what is under way."""
        self._pending.clear()
        if self._timer is not None:
            self._timer.cancel()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _send(self) -> None:
        """Send what servers have room for."""
        now = self._loop.time()
        while self._pending and self._error is None and len(self._done) < WAITING * self._batch:
            job = self._pending[0]
            site = self._freest(job, now)
            if site is None:
                self._wait_for_room(now)
                return
            self._pending.popleft()
            site.pace.in_flight += 1
            task = self._loop.create_task(self._ask(site, job))
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _freest(self, job: _Job, now: float) -> Site | None:
        """The server with most room, rather one where the job has not failed."""
        best, best_rank = None, (False, 0)
        for site in self._sites:
            if site.closed is None and (room := site.pace.room(now)) > 0:
                rank = site not in job.failed_at, room
                if best is None or rank > best_rank:
                    best, best_rank = site, rank
        return best

    def _wait_for_room(self, now: float) -> None:
        """Send again when a resting server may be asked; fail where none ever will."""
        open_sites = [site for site in self._sites if site.closed is None]
        resumes_at = min((site.pace.resumes_at for site in open_sites), default=now)
        if not self._running:
            if self._idle_since is None:
                self._idle_since = now
            waited = max(now - self._idle_since, resumes_at - now)
            if not open_sites or waited > self._patience_s:
                self._fail(open_sites)
                return
        if resumes_at > now and self._timer is None:
            self._timer = self._loop.call_later(resumes_at - now, self._timed_out)

    def _timed_out(self) -> None:
        self._timer = None
        self._send()

    def _fail(self, open_sites: Sequence[Site]) -> None:
        problems = [
            f"{site.server.url}: {site.closed or site.last_problem}" for site in self._sites
        ]
        how_long = f" for {self._patience_s:g} s" if open_sites else ""
        self._error = EndpointError(
            f"no server answers{how_long}: {'; '.join(problems)}",
            where="config field generator.endpoint_urls",
            fix="start the servers and run again: everything answered so far is kept and reused",
        )
        self._wake.set()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._error = error
            self._wake.set()
        self._send()

    async def _ask(self, site: Site, job: _Job) -> None:
        sent_at = self._loop.time()
        try:
            completion = await self._answer(site, job.request)
        except Busy as error:
            site.last_problem = str(error)
            site.pace.busy(sent_at, self._loop.time(), error.wait_s)
            self._pending.appendleft(job)
        except Absent as error:
            site.last_problem = str(error)
            if not site.absent:
                site.absent = True
                self.notes.append(f"{site.server.url} {error}; others go on")
            # Of all requests that find it gone, the first gives it a rest.
            if self._loop.time() >= site.pace.resumes_at:
                site.pace.rest(self._loop.time())
            self._pending.appendleft(job)
        except Closed as error:
            if site.closed is None:
                site.closed = str(error)
                self.notes.append(f"{site.server.url} is left out: {error}")
            self._pending.appendleft(job)
        except Refused as error:
            self._idle_since = None
            self._finish(job, refused(str(error), site.server))
        except Failed as error:
            await self._failed(site, job, str(error))
        else:
            site.failures, self._idle_since = 0, None
            site.pace.succeeded()
            if site.absent:
                site.absent = False
                self.notes.append(f"{site.server.url} answers again")
            self._finish(job, completion)
        finally:
            site.pace.in_flight -= 1

    async def _failed(self, site: Site, job: _Job, problem: str) -> None:
        job.tries += 1
        job.failed_at.append(site)
        site.failures += 1
        site.last_problem = problem
        if site.failures >= FAILURES:
            site.pace.rest(self._loop.time())
        if job.tries >= TRIES and await self._anything_else_succeeds():
            self._finish(job, refused(f"{problem}, {job.tries} times", site.server))
            return
        if job.tries >= TRIES:
            job.tries = 0
            site.pace.rest(self._loop.time())
        self._pending.append(job)

    async def _anything_else_succeeds(self) -> bool:
        for site in self._sites:
            if site.closed is None and await self._is_well(site):
                self._idle_since = None
                return True
        return False

    def _finish(self, job: _Job, completion: Completion) -> None:
        self._done.append((job.position, completion))
        if self._is_late or len(self._done) >= min(self._batch, self._left):
            self._wake.set()


def refused(problem: str, server: Server) -> Completion:
    """The completion of a request that a server will not answer."""
    return Completion("", "refused", 0, 0, server=server, problem=problem)
