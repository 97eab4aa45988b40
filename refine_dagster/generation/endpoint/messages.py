"""Requests as OpenAI's interface has them, and completions from what a server answers.

Base models continue this project's own prompts through `/completions`. Where a server has only
`/chat/completions`, the prompt is one message of the user, and the template that the server puts
around it is its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

from refine_dagster.generation.endpoint.connection import one_line
from refine_dagster.generation.endpoint.outcomes import Failed, Refused
from refine_dagster.generation.model_text import list_end
from refine_dagster.generation.request import Completion, FinishReason, Request, Sampling, Server

COMPLETIONS, CHAT = "/completions", "/chat/completions"
# Some servers keep seeds in 32 bits, signed; the low bits of a request's seed are as good as any.
_SEED_BITS = 2**31 - 1


def writing_body(request: Request, sampling: Sampling, model: str, api: str) -> dict[str, Any]:
    """The body that asks for a text. Every request has a seed, greedy ones too."""
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": request.seed & _SEED_BITS,
    }
    if sampling.presence_penalty:
        body["presence_penalty"] = sampling.presence_penalty
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if api == "chat":
        return body | {"messages": [{"role": "user", "content": request.prompt}]}
    return body | {"prompt": request.prompt}


def scoring_body(request: Request, label: str, model: str) -> dict[str, Any]:
    """The body that asks how likely `label` is after the prompt.

    Servers give log-probabilities of what they echo. One token is written beyond it, because not
    all of them take 0; EleutherAI's lm-evaluation-harness asks in the same way.
    """
    return {
        "model": model,
        "prompt": request.prompt + label,
        "max_tokens": 1,
        "temperature": 0.0,
        "seed": request.seed & _SEED_BITS,
        "echo": True,
        "logprobs": 1,
    }


def written(
    answer: Any, request: Request, sampling: Sampling, server: Server, count: Callable[[str], int]
) -> Completion:
    """The completion in a server's answer.

    Args:
        count: counts tokens where the server does not say how many there were.

    Raises:
        Refused: the server's filter stopped it.
        Failed: the answer has not the form that it should have.
    """
    choice = _choice(answer)
    message = choice.get("message") if server.api == "chat" else None
    if isinstance(message, Mapping) and message.get("refusal"):
        raise Refused(f"refusal: {one_line(message['refusal'])}")
    text = message.get("content") if isinstance(message, Mapping) else choice.get("text")
    ended = choice.get("finish_reason")
    if ended == "content_filter":
        raise Refused("content_filter")
    if not isinstance(text, str):
        raise Failed("an answer without a text")
    if server.api == "chat":
        text = as_continuation(request.prompt, text)
    cuts = [text.index(stop) for stop in sampling.stop if stop in text]
    if sampling.lines and (end := list_end(text, sampling.lines)) is not None:
        cuts.append(end)
    finish: FinishReason = "eos"
    if cuts or isinstance(choice.get("stop_reason"), str):
        finish = "stop"
    elif ended == "length":
        finish = "length"
    prompt_tokens, completion_tokens = token_counts(answer)
    text = text[: min(cuts)] if cuts else text
    return Completion(
        text,
        finish,
        count(request.prompt) if prompt_tokens is None else prompt_tokens,
        count(text) if completion_tokens is None else completion_tokens,
        server=server,
    )


def as_continuation(prompt: str, text: str) -> str:
    """A chat model's answer as the text after the prompt.

    Models that chat often say the prompt's open last line again, and begin without the blank that
    follows it.

    >>> as_continuation("Task 1: Sing.\\nTask 2:", "Task 2: Name a bird.")
    ' Name a bird.'
    """
    open_line = prompt.rsplit("\n", 1)[-1].strip()
    answer = text.strip()
    if open_line and answer.startswith(open_line):
        answer = answer[len(open_line) :].lstrip()
    return f" {answer}" if answer else ""


def token_counts(answer: Any) -> tuple[int | None, int | None]:
    """Tokens of prompt and completion as the server counted them; None where it did not."""
    usage = answer.get("usage") if isinstance(answer, Mapping) else None
    found = [
        usage.get(name) if isinstance(usage, Mapping) else None
        for name in ("prompt_tokens", "completion_tokens")
    ]
    prompt, completion = (count if isinstance(count, int) else None for count in found)
    return prompt, completion


def label_score(answer: Any, label: str) -> tuple[float, int]:
    """A label's log-probability (nats) in the answer to `scoring_body`, and its tokens.

    The label's tokens are found from the end, because servers differ in whether the prompt's first
    special token counts. They must be the label exactly: a token that begins in the prompt has no
    log-probability of the label alone.

    Raises:
        Failed: the answer has no such log-probabilities.
    """
    given = _choice(answer).get("logprobs")
    tokens = given.get("tokens") if isinstance(given, Mapping) else None
    values = given.get("token_logprobs") if isinstance(given, Mapping) else None
    if not _listed(tokens) or not _listed(values) or len(tokens) != len(values):
        raise Failed("an answer without log-probabilities")
    # The last token is the one that was written.
    pairs = list(zip(tokens[:-1], values[:-1], strict=True))[::-1]
    text, total = "", 0.0
    for count, (token, value) in enumerate(pairs, 1):
        if not isinstance(token, str) or not isinstance(value, (int, float)):
            break
        text, total = _plain(token) + text, total + value
        # Some tokenizers keep the blank before a word in a token of its own, some show none.
        own_blank = count < len(pairs) and isinstance(pairs[count][0], str)
        own_blank = own_blank and _plain(pairs[count][0]) == " " and text == label.lstrip()
        if text.lstrip() == label.lstrip() and not own_blank:
            return total, count
        if len(text.lstrip()) > len(label.lstrip()):
            break
    raise Failed(f"no log-probabilities of the label {label.strip()!r} alone")


def _plain(token: str) -> str:
    """A token's text: tokenizers write a blank as a character of their own."""
    return token.replace("▁", " ").replace("Ġ", " ")


def _listed(value: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _choice(answer: Any) -> Mapping[str, Any]:
    choices = answer.get("choices") if isinstance(answer, Mapping) else None
    if not _listed(choices) or not choices or not isinstance(choices[0], Mapping):
        raise Failed("an answer without choices")
    return choices[0]
