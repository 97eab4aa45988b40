"""An open connection to the servers of a config: which of them can be used, and what they are."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

from refine_dagster import progress
from refine_dagster.config.models import GeneratorConfig
from refine_dagster.generation.endpoint.connection import Connection
from refine_dagster.generation.endpoint.description import answers_at_all, described
from refine_dagster.generation.endpoint.dispatch import Answer, Dispatch, Site
from refine_dagster.generation.endpoint.loop_thread import LoopThread
from refine_dagster.generation.endpoint.outcomes import EndpointError, Outcome
from refine_dagster.generation.endpoint.pace import Pace
from refine_dagster.generation.request import Request, Server

if TYPE_CHECKING:
    from aiohttp import ClientSession


class EndpointSession:
    """A context manager over the servers of `config.endpoint_urls`.

    Servers that cannot be used are left out, with a note each.

    Raises:
        EndpointError: at its begin, where none can be used.
    """

    def __init__(
        self, config: GeneratorConfig, environment: Mapping[str, str] | None = None
    ) -> None:
        self._config = config
        self._key = endpoint_key(config, os.environ if environment is None else environment)
        self.sites: list[Site] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._loop = stack.enter_context(LoopThread())
            self._http = self._loop.run(_http_session())
            stack.callback(lambda: self._loop.run(self._http.close()))
            usable, problems = self._loop.run(self._describe())
            for problem in problems:
                progress.note(f"{problem}: left out")
            if not usable:
                raise EndpointError(
                    f"no server can be used: {'; '.join(problems)}",
                    where="config fields generator.endpoint_urls, generator.endpoint_model",
                    fix="start the servers with that model, or correct URLs, name and key",
                )
            self.sites = usable
            self._until_exit = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._until_exit.close()

    @property
    def servers(self) -> list[Server]:
        return [site.server for site in self.sites]

    @property
    def loop(self) -> LoopThread:
        return self._loop

    async def dispatch(self, requests: Sequence[Request], answer: Answer, batch: int) -> Dispatch:
        return Dispatch(self.sites, requests, answer, _is_well, batch)

    async def _describe(self) -> tuple[list[Site], list[str]]:
        """Servers that can be used, and a problem for each that cannot."""
        config, usable, problems = self._config, [], []
        connections = [
            Connection(self._http, url, self._key, config.endpoint_timeout_s)
            for url in config.endpoint_urls
        ]
        model = config.endpoint_model or ""
        found = await asyncio.gather(
            *(described(connection, model, config.endpoint_api) for connection in connections),
            return_exceptions=True,
        )
        for connection, server in zip(connections, found, strict=True):
            if isinstance(server, Server):
                usable.append(Site(connection, server, Pace(config.endpoint_concurrency)))
            elif isinstance(server, Outcome):
                problems.append(f"{connection.url} {server}")
            else:
                raise server
        return usable, problems


def endpoint_key(config: GeneratorConfig, environment: Mapping[str, str]) -> str | None:
    """The key for the servers; None where the config names no variable.

    Raises:
        EndpointError: the variable is not set, or holds what no header can.
    """
    if config.endpoint_key_env is None:
        return None
    key = environment.get(config.endpoint_key_env, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise EndpointError(
            f"the variable {config.endpoint_key_env} "
            + ("has characters that a key cannot have" if key else "is not set"),
            where="config field generator.endpoint_key_env",
            fix=f"export {config.endpoint_key_env} with the servers' key",
        )
    return key


async def _is_well(site: Site) -> bool:
    return await answers_at_all(site.connection, site.server)


async def _http_session() -> ClientSession:
    import aiohttp

    # Each server's pace bounds its connections.
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
