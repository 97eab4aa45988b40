"""A stand-in for the Hugging Face Hub on this machine: it takes a commit and keeps its files."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Hub:
    """What the Hub was asked, and what was committed to it: repository -> path -> content."""

    address: str = ""
    refusing: bool = False
    created: list[dict[str, Any]] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    messages: list[str] = field(default_factory=list)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)


@contextmanager
def hub_on_loopback() -> Iterator[Hub]:
    """A Hub that answers until the block ends."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._answer(404, {"error": "not found"})

        do_HEAD = do_GET  # noqa: N815

        def do_POST(self) -> None:
            hub.tokens.add(self.headers.get("Authorization"))
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if hub.refusing:
                self._answer(403, {"error": "you may not write here"})
            elif self.path.endswith("/repos/create"):
                asked = json.loads(body)
                hub.created.append(asked)
                name = f"{asked['organization']}/{asked['name']}"
                self._answer(200, {"url": f"{hub.address}/datasets/{name}"})
            elif "/preupload/" in self.path:
                files = [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for file in json.loads(body)["files"]
                ]
                self._answer(200, {"files": files})
            elif match := re.search(r"/api/datasets/(.+)/commit/", self.path):
                self._commit(match[1], body)
            else:
                self._answer(200, {})

        def _commit(self, repository: str, body: bytes) -> None:
            for line in body.splitlines():
                part = json.loads(line)
                if part["key"] == "header":
                    hub.messages.append(part["value"]["summary"])
                elif part["key"] == "file":
                    content = base64.b64decode(part["value"]["content"])
                    hub.files.setdefault(repository, {})[part["value"]["path"]] = content
            address = f"{hub.address}/datasets/{repository}/commit/{'0' * 40}"
            answer = {"commitUrl": address, "commitOid": "0" * 40, "success": True}
            self._answer(200, answer)

        def _answer(self, status: int, value: dict[str, Any]) -> None:
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
