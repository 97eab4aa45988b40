"""How likely a model finds a response, token by token: what membership attacks are made of.

Beside each token's log-probability go the mean and the standard deviation of the log-probability
under the model's own next-token distribution at that place (Min-K%++, arXiv 2404.02936, section 4):
mu = sum p log p, sigma^2 = sum p (log p - mu)^2. Only response tokens count; the prompt is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from refine_dagster.errors import RefineError
from refine_dagster.evaluation.membership import TokenLikelihoods
from refine_dagster.language_model import LoadedModel


class TooLongError(RefineError):
    """A response with its prompt does not fit into the model's context."""


@dataclass(frozen=True)
class Likelihoods:
    """A response under one model, one number a token, nats (see the module)."""

    logs: tuple[float, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]


def read_likelihoods(
    loaded: LoadedModel, prompts: Sequence[str], responses: Sequence[str]
) -> list[Likelihoods]:
    """Likelihoods of responses after their prompts, in order; one pass a response, no padding.

    Raises:
        ValueError: a response has no tokens, or there are not as many prompts.
        TooLongError: a text does not fit into the model's context.
    """
    import torch

    limit = getattr(loaded.model.config, "max_position_embeddings", None)
    found = []
    for number, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        given: list[int] = loaded.tokenizer(prompt, verbose=False)["input_ids"]
        asked: list[int] = loaded.tokenizer(response, add_special_tokens=False)["input_ids"]
        if not given or not asked:
            raise ValueError(f"prompt or response {number} has no tokens")
        if limit is not None and len(given) + len(asked) > limit:
            raise TooLongError(
                f"{len(given) + len(asked)} tokens do not fit into the model's context of {limit}",
                where=f"response {number}",
                fix="take shorter examples",
            )
        ids = torch.tensor([[*given, *asked]], device=loaded.device.name)
        with torch.inference_mode():
            logits = loaded.model(
                input_ids=ids, use_cache=False, logits_to_keep=len(asked) + 1
            ).logits[0, :-1]
            logs = logits.double().cpu().log_softmax(-1)
        shares = logs.exp()
        means = (shares * logs).sum(-1)
        deviations = (shares * (logs - means[:, None]) ** 2).sum(-1).sqrt()
        chosen = logs.gather(1, torch.tensor(asked)[:, None])[:, 0]
        found.append(
            Likelihoods(tuple(chosen.tolist()), tuple(means.tolist()), tuple(deviations.tolist()))
        )
    return found


def joined(
    responses: Sequence[str], trained: Sequence[Likelihoods], base: Sequence[Likelihoods]
) -> list[TokenLikelihoods]:
    """Responses under a trained model and under the one before, as the attacks take them."""
    return [
        TokenLikelihoods(text, after.logs, after.means, after.deviations, before.logs)
        for text, after, before in zip(responses, trained, base, strict=True)
    ]
