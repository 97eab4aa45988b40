"""Membership inference: can a text's likelihood tell whether the model was trained on it?

Each attack turns the token log-probabilities of a response into one number that should be higher
for members. docs/methods.md, section 7, defines the attacks and cites their papers; docs/privacy.md
explains how to read the results.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from refine_dagster.errors import RefineError
from refine_dagster.models.architecture import context_length
from refine_dagster.models.language_model import LoadedModel
from refine_dagster.novelty.tokenizers import unicode_tokens
from refine_dagster.seeding import request_seed
from refine_dagster.statistics import auc, bootstrap

ATTACKS = ("loss", "calibrated", "zlib", "min_k", "min_k_plus_plus")
MIN_K_SHARE = 0.2
LOW_FPR = 0.01
LEAST_FOR_LOW_FPR = 100
_LEAST_SIGMA = 1e-6


class MembershipError(RefineError):
    """There is too little to measure membership with."""


@dataclass(frozen=True)
class TokenLikelihoods:
    """A response under a model after training, and its log-probabilities before (`base_logs`).

    One number per token, as in `Likelihoods`.
    """

    text: str
    logs: tuple[float, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]
    base_logs: tuple[float, ...]

    def __post_init__(self) -> None:
        lengths = {len(self.logs), len(self.means), len(self.deviations), len(self.base_logs)}
        if lengths == {0} or len(lengths) > 1:
            raise ValueError("a response has one number a token in every sequence, and a token")


@dataclass(frozen=True)
class AttackResult:
    """How well an attack distinguishes members from others.

    Attributes:
        auc_low, auc_high: 95 % bootstrap interval; members and others are resampled separately.
        tpr_at_low_fpr: share of members above all but 1 % of the others; None under 100 others.
    """

    attack: str
    members: int
    others: int
    auc: float
    auc_low: float
    auc_high: float
    tpr_at_low_fpr: float | None

    @property
    def advantage(self) -> float:
        """Distance of the AUC from chance, 0 to 0.5."""
        return abs(self.auc - 0.5)


def attack_scores(response: TokenLikelihoods, share: float = MIN_K_SHARE) -> dict[str, float]:
    """Every attack's score of a response, by the names in `ATTACKS`."""
    normalised = [
        (log - mean) / max(deviation, _LEAST_SIGMA)
        for log, mean, deviation in zip(
            response.logs, response.means, response.deviations, strict=True
        )
    ]
    return {
        "loss": fmean(response.logs),
        "calibrated": fmean(response.logs) - fmean(response.base_logs),
        "zlib": math.fsum(response.logs) / len(zlib.compress(response.text.encode())),
        "min_k": lowest_mean(response.logs, share),
        "min_k_plus_plus": lowest_mean(normalised, share),
    }


def lowest_mean(values: Sequence[float], share: float) -> float:
    """Mean of the lowest share of the values, of at least one."""
    count = max(1, int(len(values) * share))
    return fmean(sorted(values)[:count])


def attack_results(
    members: Sequence[TokenLikelihoods],
    others: Sequence[TokenLikelihoods],
    *,
    samples: int,
    run_seed: str,
    share: float = MIN_K_SHARE,
) -> list[AttackResult]:
    """All attacks on responses that were (`members`) and were not trained on.

    Args:
        samples: bootstrap resamples.
        share: of the tokens that `min_k` and `min_k_plus_plus` use.
    """
    ours = [attack_scores(response, share) for response in members]
    theirs = [attack_scores(response, share) for response in others]
    results = []
    for name in ATTACKS:
        scores = ([response[name] for response in side] for side in (ours, theirs))
        results.append(attack_result(name, *scores, samples=samples, run_seed=run_seed))
    return results


def attack_result(
    name: str, members: Sequence[float], others: Sequence[float], *, samples: int, run_seed: str
) -> AttackResult:
    """One attack's AUC with interval, from its scores."""
    if not members or not others:
        raise MembershipError(
            f"{len(members)} members and {len(others)} others",
            where="membership inference",
            fix="use a larger dataset or a split with some of each",
        )
    ours, theirs = np.asarray(members, dtype=float), np.asarray(others, dtype=float)
    interval = bootstrap(
        lambda draw: auc(draw.choice(ours, len(ours)), draw.choice(theirs, len(theirs))),
        samples=samples,
        seed=request_seed(run_seed, "membership", name),
    )
    enough = len(others) >= LEAST_FOR_LOW_FPR
    return AttackResult(
        attack=name,
        members=len(members),
        others=len(others),
        auc=auc(ours, theirs),
        auc_low=interval.low,
        auc_high=interval.high,
        tpr_at_low_fpr=tpr_at(ours, theirs, LOW_FPR) if enough else None,
    )


def tpr_at(members: NDArray[np.float64], others: NDArray[np.float64], fpr: float) -> float:
    """Share of members above the threshold that at most a share `fpr` of the others exceeds."""
    if len(others) < LEAST_FOR_LOW_FPR:
        raise MembershipError(
            f"a false-positive rate of {fpr:.0%} needs {LEAST_FOR_LOW_FPR} non-members, "
            f"there are {len(others)}",
            where="membership inference",
            fix="report the AUC, or hold out more texts",
        )
    allowed = int(len(others) * fpr)
    threshold = np.sort(others)[len(others) - allowed - 1]
    return float((members > threshold).mean())


def bag_of_words_scores(
    members: Sequence[str], others: Sequence[str], *, folds: int = 5, run_seed: str
) -> tuple[list[float], list[float]]:
    """Cross-fitted naive Bayes on words: a control that reads the texts and no model.

    A text's log-odds of being a member are the mean over its words, from the word counts (plus one)
    of the other folds. Its score is their rank within its fold: the words that one fold lacks are
    in the others, which shifts the folds' log-odds, and mixed they would fall below chance level.

    Returns:
        Scores of members and of others, in order, 0 to 1.
    """
    from scipy.stats import rankdata

    texts = [(text, True) for text in members] + [(text, False) for text in others]
    words = [unicode_tokens(text) for text, _ in texts]
    # Each side is divided among the folds, in a hashed order of its texts.
    fold = [0] * len(texts)
    for side in (True, False):
        indices = [index for index, (_, member) in enumerate(texts) if member is side]
        indices.sort(key=lambda index: request_seed(run_seed, "fold", texts[index][0], index))
        for rank, index in enumerate(indices):
            fold[index] = rank % folds
    scores = [0.0] * len(texts)
    for held in range(folds):
        counts: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
        for index, (_, member) in enumerate(texts):
            if fold[index] != held:
                counts[member].update(words[index])
        odds = _log_odds(counts[True], counts[False])
        held_out = [index for index in range(len(texts)) if fold[index] == held]
        means = [
            fmean(odds.get(word, 0.0) for word in words[index]) if words[index] else 0.0
            for index in held_out
        ]
        # Middle ranks, 0 to 1.
        for index, rank in zip(held_out, (2 * rankdata(means) - 1) / (2 * len(means)), strict=True):
            scores[index] = float(rank)
    return scores[: len(members)], scores[len(members) :]


def _log_odds(ours: Mapping[str, int], theirs: Mapping[str, int]) -> dict[str, float]:
    vocabulary = sorted(ours.keys() | theirs.keys())
    our_total = sum(ours.values()) + len(vocabulary)
    their_total = sum(theirs.values()) + len(vocabulary)
    return {
        word: math.log((ours.get(word, 0) + 1) / our_total)
        - math.log((theirs.get(word, 0) + 1) / their_total)
        for word in vocabulary
    }


class TooLongError(RefineError):
    """A response with its prompt does not fit into the model's context."""


@dataclass(frozen=True)
class Likelihoods:
    """A response under one model, one number per token, nats.

    Attributes:
        logs: log-probability of each token.
        means, deviations: of the log-probability under the model's next-token distribution there.
    """

    logs: tuple[float, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]


def read_likelihoods(
    loaded: LoadedModel, prompts: Sequence[str], responses: Sequence[str]
) -> list[Likelihoods]:
    """Likelihoods of responses after their prompts; one forward pass each, without padding."""
    import torch

    limit = context_length(loaded.model.config)
    likelihoods = []
    for number, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        before: list[int] = loaded.tokenizer(prompt, verbose=False)["input_ids"]
        tokens: list[int] = loaded.tokenizer(response, add_special_tokens=False)["input_ids"]
        if not before or not tokens:
            raise ValueError(f"prompt or response {number} has no tokens")
        length = len(before) + len(tokens)
        if length > limit:
            raise TooLongError(
                f"{length} tokens do not fit into the model's context of {limit}",
                where=f"response {number}",
                fix="use shorter examples",
            )
        ids = torch.tensor([[*before, *tokens]], device=loaded.device.name)
        with torch.inference_mode():
            logits = loaded.model(
                input_ids=ids, use_cache=False, logits_to_keep=len(tokens) + 1
            ).logits[0, :-1]
            logs = logits.double().cpu().log_softmax(-1)
        shares = logs.exp()
        means = (shares * logs).sum(-1)
        deviations = (shares * (logs - means[:, None]) ** 2).sum(-1).sqrt()
        chosen = logs.gather(1, torch.tensor(tokens)[:, None])[:, 0]
        figures = (tuple(column.tolist()) for column in (chosen, means, deviations))
        likelihoods.append(Likelihoods(*figures))
    return likelihoods


def joined(
    responses: Sequence[str], trained: Sequence[Likelihoods], base: Sequence[Likelihoods]
) -> list[TokenLikelihoods]:
    return [
        TokenLikelihoods(text, after.logs, after.means, after.deviations, before.logs)
        for text, after, before in zip(responses, trained, base, strict=True)
    ]
