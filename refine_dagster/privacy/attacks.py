"""Membership inference: can a text's likelihood tell whether the model was trained on it?

Every attack turns a text's per-token log-likelihoods l_i (nats, response tokens only) into one
number that is higher for members, if it works:

- `loss`: mean l_i (arXiv 1709.01604);
- `calibrated`: the same, minus the mean under the model before training (arXiv 2111.08440);
- `zlib`: sum of l_i over the bytes of the compressed text (arXiv 2012.07805);
- `min_k`: mean of the lowest share of l_i (Min-K%, arXiv 2310.16789);
- `min_k_plus_plus`: mean of the lowest share of (l_i - mu_i)/sigma_i, mu_i and sigma_i being mean
  and standard deviation of the log-probability under the model's own next-token distribution
  (Min-K%++, arXiv 2404.02936).

A success is only worth something beside controls: the model before training cannot know its
members, and a classifier that reads the texts alone (`bag_of_words_scores`) must fail too, or
members and non-members differ by themselves. An AUC of 0.5 is chance; the figure to compare is
its distance from 0.5.

How likely a model finds a response, token by token: what membership attacks are made of.

Beside each token's log-probability go the mean and the standard deviation of the log-probability
under the model's own next-token distribution at that place (Min-K%++, arXiv 2404.02936, section 4):
mu = sum p log p, sigma^2 = sum p (log p - mu)^2. Only response tokens count; the prompt is given.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from refine_dagster.errors import RefineError
from refine_dagster.models.language_model import LoadedModel
from refine_dagster.novelty.rouge import rouge_tokens
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
    """A response under a model; all sequences have one number a token, nats.

    Attributes:
        text: the response.
        logs: log-probability of each token.
        means, deviations: of the log-probability under the next-token distribution at its place.
        base_logs: log-probability under the model before training.
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
    """How well an attack tells members from others; a row of the privacy report.

    Attributes:
        auc: probability that a member scores above a non-member, ties half.
        auc_low, auc_high: 95 % bootstrap interval, members and others resampled each.
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
    """Mean of the lowest share of the values, at least one of them."""
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
    """All attacks on a split that was made by seed before training.

    Args:
        members, others: responses that were, and were not, trained on.
        samples: bootstrap resamples.
        run seed: seeds the resampling.

    Raises:
        MembershipError: there are no members or no others.
    """
    ours = [attack_scores(response, share) for response in members]
    theirs = [attack_scores(response, share) for response in others]
    return [
        attack_result(
            name,
            [scores[name] for scores in ours],
            [scores[name] for scores in theirs],
            samples=samples,
            run_seed=run_seed,
        )
        for name in ATTACKS
    ]


def attack_result(
    name: str, members: Sequence[float], others: Sequence[float], *, samples: int, run_seed: str
) -> AttackResult:
    """One attack's AUC with interval from its scores; see `attack_results`."""
    if not members or not others:
        raise MembershipError(
            f"{len(members)} members and {len(others)} others",
            where="membership inference",
            fix="take a larger dataset or a split with some of each",
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
    """Share of members above the threshold that at most a share `fpr` of the others is above.

    Raises:
        MembershipError: under 100 others, where 1 % is less than one of them.
    """
    if len(others) < LEAST_FOR_LOW_FPR:
        raise MembershipError(
            f"a false-positive rate of {fpr:.0%} needs {LEAST_FOR_LOW_FPR} non-members, "
            f"there are {len(others)}",
            where="membership inference",
            fix="report the AUC, or hold out more",
        )
    allowed = int(len(others) * fpr)
    threshold = np.sort(others)[len(others) - allowed - 1]
    return float((members > threshold).mean())


def bag_of_words_scores(
    members: Sequence[str], others: Sequence[str], *, folds: int = 5, run_seed: str
) -> tuple[list[float], list[float]]:
    """Cross-fitted naive Bayes on words: a control that knows the texts and no model.

    A text is scored by its mean log-odds of being a member, by word counts (add one) of the
    other folds' texts. Its score is the rank of that within its fold: what one fold lacks the
    others have, so folds' log-odds are shifted against each other, and mixed they would fall below
    chance.

    Returns:
        Scores of members and of others, in order, 0 to 1.
    """
    texts = [(text, True) for text in members] + [(text, False) for text in others]
    words = [rouge_tokens(text) for text, _ in texts]
    # Folds are dealt within each side, in an order of the texts' own.
    fold = [0] * len(texts)
    for side in (True, False):
        places = [place for place, (_, member) in enumerate(texts) if member is side]
        places.sort(key=lambda place: request_seed(run_seed, "fold", texts[place][0], place))
        for rank, place in enumerate(places):
            fold[place] = rank % folds
    scores = [0.0] * len(texts)
    for held in range(folds):
        counts: dict[bool, dict[str, int]] = {True: {}, False: {}}
        for place, (_, member) in enumerate(texts):
            if fold[place] != held:
                for word in words[place]:
                    counts[member][word] = counts[member].get(word, 0) + 1
        odds = _log_odds(counts[True], counts[False])
        for place in range(len(texts)):
            if fold[place] == held:
                known = [odds.get(word, 0.0) for word in words[place]]
                scores[place] = fmean(known) if known else 0.0
        _rank([place for place in range(len(texts)) if fold[place] == held], scores)
    return scores[: len(members)], scores[len(members) :]


def _rank(places: Sequence[int], scores: list[float]) -> None:
    """Replace the scores at some places by their middle rank among each other, 0 to 1."""
    from scipy.stats import rankdata

    ranks = rankdata([scores[place] for place in places])
    for place, rank in zip(places, (2 * ranks - 1) / (2 * len(places)), strict=True):
        scores[place] = float(rank)


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
