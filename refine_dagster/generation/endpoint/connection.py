"""JSON over HTTP to one server; whatever goes wrong is an `Outcome`."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from refine_dagster.generation.endpoint.outcomes import Absent, Busy, Closed, Failed, Refused

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

CONNECT_S = 10.0
# Bytes of a response that are read, and characters of a server's message that are quoted.
LONGEST_RESPONSE, LONGEST_QUOTE = 16 * 2**20, 300
_BUSY = (429, 503, 529)
_WRONG_KEY = (401, 403)
_ABSENT_ROUTE = (404, 405, 501)


class NoRoute(Closed):
    """The server has no such route, or not for this model (404, 405, 501)."""


class Connection:
    """One server.

    Args:
        url: the base URL, with `/v1` where the server has it.
        key: goes along as the bearer token, and is taken out of whatever the server says.
    """

    def __init__(self, session: ClientSession, url: str, key: str | None, timeout_s: float) -> None:
        self.url = url.rstrip("/")
        self.root = self.url.removesuffix("/v1")
        self._session, self._timeout_s, self._key = session, timeout_s, key
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    async def post(self, path: str, body: Any, timeout_s: float | None = None) -> Any:
        """The JSON that the server answers to `body` at `path` below the base URL."""
        return _json(await self._ask("POST", self.url + path, body, timeout_s or self._timeout_s))

    async def get(self, url: str) -> Any:
        """The JSON at a whole URL."""
        return _json(await self._ask("GET", url, None, CONNECT_S))

    async def tell(self, path: str, body: Any) -> None:
        """Post `body`, where the server's answer is of no interest."""
        await self._ask("POST", self.url + path, body, self._timeout_s)

    async def _ask(self, method: str, url: str, body: Any, timeout_s: float) -> bytes:
        import aiohttp

        limits = aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_S)
        try:
            async with self._session.request(
                method,
                url,
                json=body,
                headers=self._headers,
                timeout=limits,
                # A redirect could carry the key elsewhere.
                allow_redirects=False,
            ) as response:
                text = await _read(response)
                if response.status != 200:
                    raise self._declined(response, text)
                return text
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Absent(f"cannot be reached ({type(error).__name__})") from error
        except TimeoutError as error:
            raise Failed(f"no answer within {timeout_s:g} s") from error
        except aiohttp.ClientError as error:
            raise Failed(f"the connection was cut ({type(error).__name__})") from error

    def _declined(self, response: ClientResponse, text: bytes) -> Exception:
        status = response.status
        said = f"{status} {self.without_key(_message(text))}".strip()
        if status in _BUSY:
            return Busy(said, retry_after(response.headers.get("Retry-After"), datetime.now(UTC)))
        if status in _WRONG_KEY:
            return Closed(f"refuses the key ({said})")
        if status in _ABSENT_ROUTE:
            return NoRoute(said)
        if status >= 500:
            return Failed(said)
        if 300 <= status < 400:
            return Closed(f"answers with a redirect ({status}), which is not followed")
        return Refused(said)

    def without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise Failed("the answer is not JSON, or half of it") from error


async def _read(response: ClientResponse) -> bytes:
    body = bytearray()
    async for part in response.content.iter_any():
        body += part
        if len(body) > LONGEST_RESPONSE:
            raise Failed(f"an answer of more than {LONGEST_RESPONSE // 2**20} MiB")
    return bytes(body)


def _message(text: bytes) -> str:
    """What an error's body says, shortened: OpenAI's `error.message`, `message` or `detail`."""
    said: Any = text.decode("utf-8", "replace")
    with suppress(ValueError):
        said = json.loads(said)
    if isinstance(said, dict):
        said = said.get("error", said)
    if isinstance(said, dict):
        said = next((said[name] for name in ("message", "detail") if name in said), said)
    return one_line(said)


def one_line(said: object) -> str:
    """A server's text, shortened, without characters that a terminal would act on."""
    text = " ".join(str(said).split())
    return "".join(character for character in text if character.isprintable())[:LONGEST_QUOTE]


def retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds that a `Retry-After` asks to wait; None where there is none, or none to be read.

    >>> from datetime import timezone
    >>> now = datetime(2026, 12, 1, 12, 0, 0, tzinfo=timezone.utc)
    >>> retry_after("2.5", now), retry_after("Tue, 01 Dec 2026 12:00:09 GMT", now)
    (2.5, 9.0)
    """
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - now).total_seconds())
    except (TypeError, ValueError):
        return None
