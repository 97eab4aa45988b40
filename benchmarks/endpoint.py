"""Requests to servers: this project's backend with the store on, beside bare clients.

Run it from the repository's root. Against a stub server in a process of its own:

    python benchmarks/endpoint.py

Against a real one, with the files of the model that it serves:

    vllm serve FOLDER --served-model-name m &
    python benchmarks/endpoint.py --url http://localhost:8000/v1 --model m --folder FOLDER \
        --requests 512 --tokens 64 --concurrency 64

Each round asks the same number of other prompts by each client in turn; figures are medians over
rounds. *Bare* is an asyncio client that keeps `concurrency` requests in flight and nothing else.
Requests a CPU second are those of this process, on one core; seconds of the clock also depend on
the server and on what else runs.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import psutil
import typer
from rich.console import Console
from rich.table import Table

from refine_dagster.config.models import GeneratorConfig
from refine_dagster.generation.completions import CompletionsStore
from refine_dagster.generation.endpoint.backend import EndpointBackend
from refine_dagster.generation.endpoint.messages import writing_body
from refine_dagster.generation.model_text import model_text
from refine_dagster.generation.request import Request, Sampling
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import ModelRef, resolve_model

ROOT = Path(__file__).parents[1]
WORDS = ("river", "stone", "cloud", "letter", "winter", "market", "tree", "bridge", "song", "bird")


@dataclass(frozen=True)
class Target:
    """The servers, and how they are asked."""

    url: str
    model: str
    concurrency: int
    tokens: int


@dataclass(frozen=True)
class Measured:
    """One client in one round."""

    requests: int
    tokens: int
    seconds: float
    cpu_s: float
    grown_mb: float


def prompts(count: int, offset: int) -> Iterator[Request]:
    """Short requests, each of its own."""
    for number in range(offset, offset + count):
        words = " ".join(WORDS[number // 10**place % 10] for place in range(6))
        sampling = Sampling(16, temperature=0.7, stop=("\n\n",))
        yield Request("propose", f"Write about {words}.\nTask {number}:", sampling, number)


def bodies(requests: Sequence[Request], target: Target) -> list[dict[str, Any]]:
    sampling = Sampling(target.tokens, temperature=0.7, stop=("\n\n",))
    return [writing_body(one, sampling, target.model, "completions") for one in requests]


def by_aiohttp(requests: Sequence[Request], target: Target) -> int:
    """Ask by aiohttp alone; tokens written."""
    import aiohttp

    async def main() -> int:
        left, tokens = iter(bodies(requests, target)), 0
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:

            async def work() -> None:
                nonlocal tokens
                for body in left:
                    async with session.post(f"{target.url}/completions", json=body) as response:
                        tokens += (await response.json())["usage"]["completion_tokens"]

            await asyncio.gather(*(work() for _ in range(target.concurrency)))
        return tokens

    return asyncio.run(main())


def by_httpx(requests: Sequence[Request], target: Target) -> int:
    """Ask by httpx alone; tokens written."""
    import httpx

    async def main() -> int:
        left, tokens = iter(bodies(requests, target)), 0
        limits = httpx.Limits(max_connections=target.concurrency)
        async with httpx.AsyncClient(limits=limits, timeout=600) as client:

            async def work() -> None:
                nonlocal tokens
                for body in left:
                    response = await client.post(f"{target.url}/completions", json=body)
                    tokens += response.json()["usage"]["completion_tokens"]

            await asyncio.gather(*(work() for _ in range(target.concurrency)))
        return tokens

    return asyncio.run(main())


def by_store(text: Any) -> Callable[[Sequence[Request], Target], int]:
    """Ask by the backend, every batch committed to a new file."""

    def ask(requests: Sequence[Request], target: Target) -> int:
        sampling = Sampling(target.tokens, temperature=0.7, stop=("\n\n",))
        asked = [Request(one.role, one.prompt, sampling, one.seed) for one in requests]
        config = GeneratorConfig(
            backend="endpoint",
            endpoint_urls=(target.url,),
            endpoint_model=target.model,
            endpoint_concurrency=target.concurrency,
            batch_size=256,
        )
        device, ref = Device("cpu", "float32", 1, True), ModelRef("folder", "f" * 64)
        with tempfile.TemporaryDirectory() as folder, ExitStack() as resources:
            store = CompletionsStore(Path(folder) / "completions.duckdb")
            backend = EndpointBackend(ref, device, config, text, resources)
            done = store.complete(backend, asked)
        return sum(one.completion_tokens for one in done)

    return ask


def measured(
    ask: Callable[[Sequence[Request], Target], int], requests: Sequence[Request], target: Target
) -> Measured:
    process = psutil.Process()
    before, cpu, begun = process.memory_info().rss, time.process_time(), time.monotonic()
    tokens = ask(requests, target)
    seconds, cpu_s = time.monotonic() - begun, time.process_time() - cpu
    grown = (process.memory_info().rss - before) / 2**20
    return Measured(len(requests), tokens, seconds, cpu_s, grown)


@contextmanager
def stub_server() -> Iterator[str]:
    """The base URL of a stub in a process of its own."""
    command = [sys.executable, "-m", "tests.builders.stub_server"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        yield child.stdout.readline().strip()
        child.stdin.close()


def main(
    url: Annotated[str | None, typer.Option(help="A server; without it a stub.")] = None,
    model: str = "stub",
    folder: Annotated[Path | None, typer.Option(help="Files of the served model.")] = None,
    requests: int = 10_000,
    tokens: int = 16,
    concurrency: int = 64,
    rounds: int = 3,
    httpx: Annotated[bool, typer.Option(help="Also a bare client on httpx.")] = True,
) -> None:
    """Print the table."""
    if folder is None:
        text: Any = SimpleNamespace(
            count_tokens=lambda text: len(text.split()), cut=lambda text, most: text[:most]
        )
    else:
        text = model_text(resolve_model(str(folder)), None)
    clients = {"backend with the store": by_store(text), "bare aiohttp": by_aiohttp}
    if httpx:
        clients["bare httpx"] = by_httpx
    found: dict[str, list[Measured]] = {name: [] for name in clients}
    with ExitStack() as stack:
        target = Target(url or stack.enter_context(stub_server()), model, concurrency, tokens)
        offset = 0
        for _ in range(rounds):
            for name, ask in clients.items():
                found[name].append(measured(ask, list(prompts(requests, offset)), target))
                offset += requests
    table = Table(title=f"{requests} requests a round, {concurrency} in flight, {rounds} rounds")
    for column in ("client", "requests/s", "requests/CPU s", "tokens/s", "of bare", "MB grown"):
        table.add_column(column, justify="left" if column == "client" else "right")
    bare = statistics.median(one.tokens / one.seconds for one in found["bare aiohttp"])
    for name, runs in found.items():
        speed = statistics.median(one.tokens / one.seconds for one in runs)
        table.add_row(
            name,
            f"{statistics.median(one.requests / one.seconds for one in runs):,.0f}",
            f"{statistics.median(one.requests / one.cpu_s for one in runs):,.0f}",
            f"{speed:,.0f}",
            f"{speed / bare:.2f}",
            ", ".join(f"{one.grown_mb:.0f}" for one in runs),
        )
    Console(width=100).print(table)


if __name__ == "__main__":
    typer.run(main)
