"""The completions store: every model call goes through here, and none is made twice.

A request is looked up by its key. What is not there goes to the backend in batches, and each batch
is committed before the next starts (docs/architecture.md, section 3.1). Budgets are counted per run
from what is stored, so they hold across assets and restarts of one run.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

import duckdb
import polars as pl

from refine_dagster import progress
from refine_dagster.config.models import GeneratorConfig
from refine_dagster.errors import BudgetSpentError
from refine_dagster.generation.budget import Budget, Spent
from refine_dagster.generation.model_text import backend_fingerprint
from refine_dagster.generation.request import Backend, Completion, Request, sampling_fields
from refine_dagster.hashing import canonical_json, content_id
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import ModelRef
from refine_dagster.registry import BACKENDS
from refine_dagster.warehouse.database import DatabaseFile
from refine_dagster.warehouse.ledger import RoleUsage


class CompletionsFile(DatabaseFile):
    def prepare(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Make the store's table, as a warehouse has it."""
        connection.execute("CREATE SCHEMA IF NOT EXISTS store")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS store.completions (key VARCHAR PRIMARY KEY, "
            "role VARCHAR NOT NULL, model VARCHAR NOT NULL, prompt VARCHAR NOT NULL, "
            "sampling VARCHAR NOT NULL, seed BIGINT NOT NULL, text VARCHAR NOT NULL, "
            "finish_reason VARCHAR NOT NULL, prompt_tokens BIGINT NOT NULL, "
            "completion_tokens BIGINT NOT NULL, seconds DOUBLE NOT NULL, run_id VARCHAR NOT NULL)"
        )
        connection.execute(
            "CREATE TABLE IF NOT EXISTS store.answers "
            "(key VARCHAR PRIMARY KEY, server VARCHAR NOT NULL, problem VARCHAR)"
        )
        connection.execute(
            "CREATE TABLE IF NOT EXISTS store.servers (server VARCHAR PRIMARY KEY, "
            "url VARCHAR NOT NULL, software VARCHAR NOT NULL, version VARCHAR NOT NULL, "
            "model VARCHAR NOT NULL, fingerprint VARCHAR NOT NULL, api VARCHAR NOT NULL, "
            "repeats BOOLEAN, scores BOOLEAN NOT NULL, template_tokens BIGINT)"
        )


class CompletionsStore:
    """Answers requests for one run and counts them by role.

    `file` is the warehouse, or the path of a DuckDB file, which is made where there is none; it is
    open only while completions are looked up or written, so several processes may use it. The
    budget is counted per `run_id`; None is a run of its own.

    Attributes:
        usage: role -> what was asked, reused and sent since the store was opened.
        uses: key of each completion used since then -> whether it had to be sent.
    """

    def __init__(
        self,
        file: DatabaseFile | Path | str,
        run_id: str | None = None,
        budget: Budget | None = None,
    ) -> None:
        self.file = file if isinstance(file, DatabaseFile) else CompletionsFile(Path(file))
        self.run_id = run_id or uuid4().hex
        self.budget = budget or Budget()
        self.usage: dict[str, RoleUsage] = {}
        self.uses: dict[str, bool] = {}
        # A request's own key -> the key of the completion that answered instead.
        self._instead: dict[str, str] = {}

    def complete(
        self, backend: Backend, requests: Sequence[Request], also: Sequence[str] = ()
    ) -> list[Completion]:
        """Answer `requests` in order, from the store where possible.

        Completions of the backends of the fingerprints `also` answer what there is none of this
        one's for.

        Raises:
            BudgetSpentError: the budget ended before the requests did; what was answered is stored.
        """
        keys = [request.key(backend.fingerprint) for request in requests]
        known = self._look_up(keys)
        if also:
            keys = self._answered_instead(requests, keys, known, also)
        todo = {
            key: request for key, request in zip(keys, requests, strict=True) if key not in known
        }
        fresh: dict[str, _Answer] = {}
        try:
            if todo:
                self._send(backend, todo, fresh)
        finally:
            self._count(requests, keys, fresh)
        return [fresh[key].completion if key in fresh else known[key] for key in keys]

    def stored(
        self, fingerprint: str, requests: Sequence[Request], also: Sequence[str] = ()
    ) -> list[bool]:
        """Whether `complete` would answer each request without sending it."""
        keys = [[request.key(name) for name in (fingerprint, *also)] for request in requests]
        known = self._look_up([key for of_request in keys for key in of_request])
        return [any(key in known for key in of_request) for of_request in keys]

    def key_of(self, fingerprint: str, request: Request) -> str:
        """The key of the completion that answered a request to the backend of that fingerprint."""
        key = request.key(fingerprint)
        return self._instead.get(key, key)

    def _answered_instead(
        self,
        requests: Sequence[Request],
        keys: Sequence[str],
        known: dict[str, Completion],
        also: Sequence[str],
    ) -> list[str]:
        """Keys to answer by; what other backends have is added to `known`."""
        others = {
            key: [request.key(fingerprint) for fingerprint in also]
            for key, request in zip(keys, requests, strict=True)
            if key not in known or key in self._instead
        }
        answers = self._look_up([other for listed in others.values() for other in listed])
        known.update(answers)
        for key, listed in others.items():
            if answered := [other for other in listed if other in answers]:
                self._instead.setdefault(key, answered[0])
        return [self._instead.get(key, key) for key in keys]

    def _look_up(self, keys: Sequence[str]) -> dict[str, Completion]:
        with self.file.connect() as connection:
            connection.register("asked", pl.DataFrame({"key": sorted(set(keys))}).to_arrow())
            rows = connection.execute(
                "SELECT key, text, finish_reason, prompt_tokens, completion_tokens "
                "FROM store.completions SEMI JOIN asked USING (key)"
            ).fetchall()
        return {
            key: Completion(text, finish, prompt_tokens, completion_tokens, reused=True)
            for key, text, finish, prompt_tokens, completion_tokens in rows
        }

    def _send(
        self, backend: Backend, todo: dict[str, Request], answered: dict[str, _Answer]
    ) -> None:
        keys, spent = list(todo), self._spent()
        requests = [todo[key] for key in keys[: self.budget.allowed(len(todo), spent)]]
        role = next(iter(todo.values())).role
        written = 0
        begun = started = time.monotonic()
        with progress.task(f"{role} requests", total=len(todo)) as advance:
            for batch in backend.generate(requests) if requests else ():
                now = time.monotonic()
                share = (now - started) / len(batch)
                answers = {keys[position]: _Answer(done, share) for position, done in batch}
                self._store(backend, todo, answers)
                answered.update(answers)
                spent.requests += len(batch)
                spent.prompt_tokens += sum(done.prompt_tokens for _, done in batch)
                spent.completion_tokens += sum(done.completion_tokens for _, done in batch)
                written += sum(done.completion_tokens for _, done in batch)
                advance(len(batch), tokens_per_s=round(written / max(now - begun, 1e-9)))
                if self.budget.is_used_up(spent):
                    break
                started = time.monotonic()
        if len(answered) < len(todo):
            raise BudgetSpentError(
                f"the run's budget ended with {len(todo) - len(answered)} {role} requests unsent",
                where=self.budget.in_words(),
                fix="raise the budget and run again: everything answered so far is kept and reused",
            )

    def _spent(self) -> Spent:
        """What the run has sent; not counted where nothing bounds it."""
        if not self.budget.is_bounded:
            return Spent()
        sent = self.file.query(
            "SELECT count(*), coalesce(sum(prompt_tokens), 0)::BIGINT, "
            "coalesce(sum(completion_tokens), 0)::BIGINT FROM store.completions WHERE run_id = ?",
            [self.run_id],
        )
        return Spent(*sent.row(0))

    def _store(
        self, backend: Backend, todo: dict[str, Request], answers: dict[str, _Answer]
    ) -> None:
        rows = [
            {
                "key": key,
                "role": todo[key].role,
                "model": backend.fingerprint,
                "prompt": todo[key].prompt,
                "sampling": canonical_json(sampling_fields(todo[key].sampling)),
                "seed": todo[key].seed,
                "text": answer.completion.text,
                "finish_reason": answer.completion.finish_reason,
                "prompt_tokens": answer.completion.prompt_tokens,
                "completion_tokens": answer.completion.completion_tokens,
                "seconds": answer.seconds,
                "run_id": self.run_id,
            }
            for key, answer in answers.items()
        ]
        served = {
            key: answer.completion for key, answer in answers.items() if answer.completion.server
        }
        with self.file.connect() as connection:
            if served:
                # First: a completion that is there has all that belongs to it.
                _store_servers(connection, served)
            connection.register("answered", pl.DataFrame(rows).to_arrow())
            connection.execute("INSERT OR IGNORE INTO store.completions BY NAME FROM answered")

    def _count(
        self, requests: Sequence[Request], keys: Sequence[str], fresh: dict[str, _Answer]
    ) -> None:
        sent: set[str] = set()
        for request, key in zip(requests, keys, strict=True):
            used = self.usage.get(request.role, RoleUsage())
            answer = fresh.get(key) if key not in sent else None
            sent.add(key)
            self.uses[key] = self.uses.get(key, False) or key in fresh
            self.usage[request.role] = used.plus(
                sent=answer is not None,
                prompt_tokens=answer.completion.prompt_tokens if answer else 0,
                completion_tokens=answer.completion.completion_tokens if answer else 0,
                seconds=answer.seconds if answer else 0.0,
            )


def _store_servers(connection: duckdb.DuckDBPyConnection, served: Mapping[str, Completion]) -> None:
    """Keep which server gave each completion (by key), what it is, and why it wrote nothing."""
    answers, servers = [], {}
    for key, completion in served.items():
        described = asdict(completion.server) if completion.server else {}
        name = content_id("server", described)
        servers[name] = {"server": name, **described}
        answers.append({"key": key, "server": name, "problem": completion.problem})
    texts = {"problem": pl.String, "repeats": pl.Boolean, "template_tokens": pl.Int64}
    for table, rows in (("servers", list(servers.values())), ("answers", answers)):
        connection.register("kept", pl.DataFrame(rows, schema_overrides=texts).to_arrow())
        connection.execute(f"INSERT OR IGNORE INTO store.{table} BY NAME FROM kept")


@dataclass(frozen=True)
class _Answer:
    completion: Completion
    seconds: float


@dataclass(frozen=True)
class GeneratorSession:
    """Answers requests for as long as its model is loaded.

    Attributes:
        model: the model's fingerprint, which rows name as their policy.
        also: fingerprints of other backends whose completions may answer.
    """

    backend: Backend
    store: CompletionsStore
    model: str
    also: tuple[str, ...] = ()

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        return self.store.complete(self.backend, requests, self.also)

    def stored(self, requests: Sequence[Request]) -> list[bool]:
        return self.store.stored(self.backend.fingerprint, requests, self.also)

    def key_of(self, request: Request) -> str:
        return self.store.key_of(self.backend.fingerprint, request)


@contextmanager
def open_generator(
    ref: ModelRef, device: Device, store: CompletionsStore, config: GeneratorConfig
) -> Iterator[GeneratorSession]:
    """Load a model for the block; release its memory at the end."""
    also: tuple[str, ...] = ()
    if config.reuse_other_backends:
        also = tuple(
            backend_fingerprint(name, ref, device)
            for name in BACKENDS.names()
            if name != config.backend
        )
    with BACKENDS.get(config.backend)(ref, device, config) as backend:
        model = getattr(backend, "model", ref.fingerprint)
        yield GeneratorSession(backend, store, model, also)
