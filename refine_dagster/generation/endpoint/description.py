"""What a server is: asked of it, and measured with a few short requests, before it is sent more.

The measurements have the form of a run's requests, so a server that does not take a field such as
`seed` is known before it would refuse every prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from refine_dagster.generation.endpoint.connection import Connection, NoRoute, one_line
from refine_dagster.generation.endpoint.messages import (
    CHAT,
    COMPLETIONS,
    label_score,
    scoring_body,
    token_counts,
    writing_body,
    written,
)
from refine_dagster.generation.endpoint.outcomes import Closed, Failed, Outcome, Refused
from refine_dagster.generation.request import Request, Sampling, Scoring, Server
from refine_dagster.hashing import json_hash

Api = Literal["auto", "completions", "chat"]

_TRIAL = Request(
    "respond",
    "Write two words about a lamp.\nAnswer:",
    Sampling(16, temperature=0.9, top_p=0.95, presence_penalty=0.1, stop=("\n\n",)),
    seed=20_260_101,
)
_LABEL = " no"
_SCORED = Request("review", "Is a lamp a bird? Answer yes or no.\nAnswer:", Scoring((_LABEL,)), 0)
# Fields of a model's entry that change whenever the server starts.
_CHANGING = {"created", "permission", "modified_at", "expires_at"}
# Where servers say their version: path below the root -> software, and the name of the field.
_VERSIONS = {
    "/api/version": ("ollama", "version"),
    "/get_server_info": ("sglang", "version"),
    "/props": ("llama.cpp", "build_info"),
    "/version": ("vllm", "version"),
}


async def described(connection: Connection, model: str, api: Api) -> Server:
    """Ask and measure a server.

    Raises:
        Outcome: it cannot be reached, has not the model, or does not answer a plain request.
    """
    entry = await _entry(connection, model)
    software, version = await _software(connection)
    if not software:
        software = one_line(entry.get("owned_by") or "")
    used, answers = await _trials(connection, model, api)
    said = {name: value for name, value in entry.items() if name not in _CHANGING}
    fingerprint = json_hash(
        [said, await _ollama_digest(connection, model, software), _stamp(answers[0])]
    )
    server = Server(
        url=connection.url,
        software=software,
        version=version,
        model=model,
        fingerprint=fingerprint,
        api=used,
        repeats=None,
        scores=False,
        template_tokens=None,
    )
    texts = [written(answer, _TRIAL, _sampling(), server, len).text for answer in answers]
    measured = vars(server) | {"repeats": texts[0] == texts[1]}
    if used == "completions":
        measured["scores"] = await _gives_scores(connection, model)
    else:
        measured["template_tokens"] = await _template_tokens(connection, model)
    return Server(**measured)


async def answers_at_all(connection: Connection, server: Server) -> bool:
    """Whether a server answers a plain request now."""
    body = writing_body(_TRIAL, _sampling(), server.model, server.api) | {"max_tokens": 1}
    try:
        await connection.post(CHAT if server.api == "chat" else COMPLETIONS, body, 30.0)
    except Outcome:
        return False
    return True


def _sampling() -> Sampling:
    assert isinstance(_TRIAL.sampling, Sampling)
    return _TRIAL.sampling


async def _entry(connection: Connection, model: str) -> Mapping[str, Any]:
    """What the server's list says about a model; {} where it has no list."""
    try:
        listed = await connection.get(connection.url + "/models")
    except NoRoute:
        return {}
    entries = listed.get("data") if isinstance(listed, Mapping) else None
    by_id = {
        str(entry.get("id")): entry
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, Mapping)
    }
    # Ollama takes a name without its tag.
    for name in (model, f"{model}:latest"):
        if name in by_id:
            return by_id[name]
    few = one_line(", ".join(sorted(by_id)[:8])) or "nothing"
    raise Closed(f"has no model {model!r}; it serves {few}")


async def _software(connection: Connection) -> tuple[str, str]:
    """Software and version, as far as the server says them."""
    for path, (software, name) in _VERSIONS.items():
        try:
            answer = await connection.get(connection.root + path)
        except Outcome:
            continue
        if isinstance(answer, Mapping) and isinstance(answer.get(name), str):
            return software, one_line(answer[name])
    return "", ""


async def _ollama_digest(connection: Connection, model: str, software: str) -> str | None:
    if software != "ollama":
        return None
    try:
        listed = await connection.get(connection.root + "/api/tags")
    except Outcome:
        return None
    for entry in listed.get("models", []) if isinstance(listed, Mapping) else []:
        if isinstance(entry, Mapping) and entry.get("name") in (model, f"{model}:latest"):
            return str(entry.get("digest"))
    return None


def _stamp(answer: Any) -> str | None:
    stamp = answer.get("system_fingerprint") if isinstance(answer, Mapping) else None
    return stamp if isinstance(stamp, str) else None


async def _trials(connection: Connection, model: str, api: Api) -> tuple[str, list[Any]]:
    """The interface that is used, and the answers to the same request, asked twice."""
    routes = {"completions": COMPLETIONS, "chat": CHAT}
    tried = ["completions", "chat"] if api == "auto" else [api]
    for place, name in enumerate(tried):
        body = writing_body(_TRIAL, _sampling(), model, name)
        try:
            return name, [await connection.post(routes[name], body) for _ in range(2)]
        except (NoRoute, Refused) as error:
            # Hosted chat models refuse `/completions` with a 400 or a 404.
            if place == len(tried) - 1:
                raise Closed(f"does not answer a plain request: {error}") from error
    raise AssertionError(api)


async def _gives_scores(connection: Connection, model: str) -> bool:
    try:
        label_score(
            await connection.post(COMPLETIONS, scoring_body(_SCORED, _LABEL, model)), _LABEL
        )
    except (NoRoute, Refused, Failed):
        return False
    return True


async def _template_tokens(connection: Connection, model: str) -> int | None:
    """Tokens around a message: twice the length of a text less that of the text said twice."""
    lengths = []
    for times in (8, 16):
        request = Request("respond", "lamp " * times, Sampling(1), 0)
        answer = await connection.post(CHAT, writing_body(request, Sampling(1), model, "chat"))
        lengths.append(token_counts(answer)[0])
    once, twice = lengths
    return None if once is None or twice is None else 2 * once - twice
