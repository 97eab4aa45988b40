"""A server with OpenAI's interface on the loopback, which fails in every way that servers do.

What it writes is a function of model, prompt and seed. A mark in a prompt makes it misbehave for
that prompt; the attributes of `StubServer` make it misbehave for all. As a script it serves on a
port of its own until its input ends, for benchmarks.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

WORDS = ("cat", "dog", "sun", "rain", "ship", "bread", "drum", "rose", "ball", "lamp")
# Mark in a prompt -> how it is answered. With `ONCE` behind it only the first time.
MARKS = ("@400", "@500", "@cut", "@half", "@slow", "@nothing", "@filter", "@text", "@long")
ONCE = "once"


@dataclass
class StubServer:
    """Answers like a server that serves `model`.

    Attributes:
        chat_only: it has no `/completions`.
        scores: it gives log-probabilities.
        repeats: equal requests have equal answers.
        key: the key that it wants.
        most: requests that it handles at once; it declines others with 429.
        retry_after: goes along with a 429.
        delay_s: seconds that an answer takes.
        busy, broken: it declines everything with 503, or 500.
        adapters: names that it has loaded; None where it loads none.
        asked: bodies of the requests for texts, in order.
    """

    model: str = "stub"
    chat_only: bool = False
    scores: bool = True
    repeats: bool = True
    key: str | None = None
    most: int | None = None
    retry_after: str | None = "0.05"
    delay_s: float = 0.0
    busy: bool = False
    broken: bool = False
    usage: bool = True
    adapters: set[str] | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)
    declined: int = 0
    at_once: int = 0
    most_at_once: int = 0
    port: int = 0
    _seen: Counter[str] = field(default_factory=Counter)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def prompts(self) -> list[str]:
        """The prompts that a run sent, without those that measure the server."""
        return [
            prompt
            for body in self.asked
            if "lamp" not in (prompt := prompt_of(body)) or "@" in prompt
        ]

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                _, path, _ = head.split(" ", 2)
                fields = {
                    name.lower(): value.strip()
                    for name, _, value in (line.partition(":") for line in head.split("\r\n")[1:])
                }
                body = await reader.readexactly(int(fields.get("content-length", 0)))
                asked = json.loads(body) if body else {}
                if not await self._answer(writer, path, asked, fields):
                    break
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(
        self,
        writer: asyncio.StreamWriter,
        path: str,
        asked: dict[str, Any],
        fields: Mapping[str, str],
    ) -> bool:
        """Write an answer; False closes the connection."""
        if self.key is not None and fields.get("authorization") != f"Bearer {self.key}":
            said = fields.get("authorization", "nothing")
            return _write(writer, 401, _error(f"wrong key: {said}"))
        if path == "/v1/models":
            return _write(writer, 200, {"data": [{"id": self.model, "owned_by": "stub"}]})
        if path == "/version":
            return _write(writer, 200, {"version": "1.2.3"})
        if path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter"):
            return self._adapter(writer, path, asked)
        chat = path == "/v1/chat/completions"
        if not chat and (path != "/v1/completions" or self.chat_only):
            return _write(writer, 404, {"detail": "Not Found"})
        if self.busy or (self.most is not None and self.at_once >= self.most):
            self.declined += 1
            headers = {"Retry-After": self.retry_after} if self.retry_after else {}
            return _write(writer, 503 if self.busy else 429, _error("busy"), headers)
        if self.broken:
            return _write(writer, 500, _error("broken"))
        if asked["model"] not in (self.model, *(self.adapters or ())):
            return _write(writer, 404, _error(f"no model {asked['model']}"))
        self.asked.append(asked)
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            return await self._write_text(writer, asked, chat)
        finally:
            self.at_once -= 1

    async def _write_text(
        self, writer: asyncio.StreamWriter, asked: dict[str, Any], chat: bool
    ) -> bool:
        prompt = prompt_of(asked)
        answer = self._text_answer(asked, chat)
        match self._mark(prompt):
            case "@400":
                return _write(writer, 400, _error("this prompt is not allowed"))
            case "@500":
                return _write(writer, 500, _error("out of luck"))
            case "@cut":
                return False
            case "@half":
                return _write(writer, 200, answer, cut_at=40)
            case "@slow":
                await asyncio.sleep(30)
            case "@nothing":
                answer["choices"] = []
            case "@filter":
                answer["choices"][0]["finish_reason"] = "content_filter"
            case "@text":
                return _write(writer, 200, "not an object")
            case "@long":
                answer["choices"][0]["finish_reason"] = "length"
        return _write(writer, 200, answer)

    def _mark(self, prompt: str) -> str | None:
        for mark in MARKS:
            if mark in prompt:
                self._seen[prompt] += 1
                if mark + ONCE not in prompt or self._seen[prompt] == 1:
                    return mark
        return None

    def _text_answer(self, asked: dict[str, Any], chat: bool) -> dict[str, Any]:
        prompt = prompt_of(asked)
        text = words_for(asked["model"], prompt, asked["seed"] if self.repeats else len(self.asked))
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "text": text}
        if chat:
            open_line = prompt.rsplit("\n", 1)[-1]
            message = {"role": "assistant", "content": f"{open_line}{text}"}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
        elif asked.get("echo") and self.scores:
            tokens = ["<s>", *(f" {word}" for word in prompt.split()), " x"]
            values = [None, *(-len(word) / 4 for word in prompt.split()), -1.0]
            choice["logprobs"] = {"tokens": tokens, "token_logprobs": values}
        answer: dict[str, Any] = {"choices": [choice], "system_fingerprint": "fp_stub"}
        if self.usage:
            extra = 7 if chat else 0
            answer["usage"] = {
                "prompt_tokens": len(prompt.split()) + extra,
                "completion_tokens": len(text.split()),
            }
        return answer

    def _adapter(self, writer: asyncio.StreamWriter, path: str, asked: dict[str, Any]) -> bool:
        if self.adapters is None:
            return _write(writer, 404, {"detail": "Not Found"})
        if "lora_name" not in asked:
            return _write(writer, 400, _error("lora_name: Field required"))
        name = asked["lora_name"]
        if path == "/v1/unload_lora_adapter":
            self.adapters.discard(name)
            return _write(writer, 200, f"Success: LoRA adapter '{name}' removed successfully.")
        if name in self.adapters:
            return _write(
                writer, 400, _error(f"The lora adapter '{name}' has already been loaded.")
            )
        self.adapters.add(name)
        return _write(writer, 200, f"Success: LoRA adapter '{name}' added successfully.")


def prompt_of(asked: Mapping[str, Any]) -> str:
    messages = asked.get("messages")
    return str(messages[-1]["content"] if messages else asked["prompt"])


def words_for(model: str, prompt: str, seed: int) -> str:
    """The stub's text: three words."""
    digest = hashlib.sha256(f"{model}/{prompt}/{seed}".encode()).digest()
    return "".join(f" {WORDS[byte % len(WORDS)]}" for byte in digest[:3])


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message}}


def _write(
    writer: asyncio.StreamWriter,
    status: int,
    answer: Any,
    headers: Mapping[str, str] | None = None,
    cut_at: int | None = None,
) -> bool:
    """Write an answer as JSON, a text as it is; what is cut has the rest missing."""
    body = (answer if isinstance(answer, str) else json.dumps(answer)).encode()[:cut_at]
    lines = [f"HTTP/1.1 {status} X", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    lines.append(f"Content-Length: {len(body)}")
    writer.write("\r\n".join([*lines, "", ""]).encode() + body)
    return True


class Running:
    """A stub that runs in a thread; `die` cuts its connections and frees its port."""

    def __init__(self, stub: StubServer) -> None:
        self.stub = stub
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait(10)

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _serve(self) -> None:
        self._end = asyncio.Event()
        writers: set[asyncio.StreamWriter] = set()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.add(writer)
            await self.stub.handle(reader, writer)
            writers.discard(writer)

        server = await asyncio.start_server(handle, "127.0.0.1", self.stub.port, backlog=512)
        self.stub.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._end.wait()
        server.close()
        for writer in list(writers):
            writer.transport.abort()

    def die(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join(10)


@contextmanager
def running(*stubs: StubServer) -> Iterator[list[Running]]:
    """Serve the stubs for the block."""
    started = [Running(stub) for stub in stubs]
    try:
        yield started
    finally:
        for one in started:
            one.die()


if __name__ == "__main__":
    with running(StubServer(delay_s=float(sys.argv[1]) if len(sys.argv) > 1 else 0.0)) as [served]:
        print(served.stub.url, flush=True)
        sys.stdin.read()
