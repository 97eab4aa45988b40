"""A control that reads the texts and no model: do members and non-members differ by themselves?

The classifier is naive Bayes on words, each text scored by what the others taught
(`membership.bag_of_words_scores`). Such scores hang together, since every text teaches the scores
of most others, and a bootstrap over texts takes them for independent: on the packaged seeds, its
95 % intervals left out one half for every sixth of sixty random splits. How far chance alone takes
the AUC is therefore asked of the same texts with the sides dealt anew (a permutation test): the
interval's width is the spread of those AUCs, and it contains one half where the split is no easier
to see than most others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import NormalDist

import numpy as np

from refine_dagster.evaluation.membership import (
    COVERAGE,
    AttackResult,
    attack_result,
    auc,
    bag_of_words_scores,
)
from refine_dagster.generation.request import request_seed

BAG_OF_WORDS = "bag_of_words"
# Deals of the sides: their spread is known to a tenth.
DEALS = 60


def bag_of_words_result(
    members: Sequence[str], others: Sequence[str], *, salt: str
) -> AttackResult:
    """The classifier as an attack; its interval is a permutation test's (see the module).

    Raises:
        MembershipError: there are no members or no others.
    """
    ours, theirs = bag_of_words_scores(members, others, salt=salt)
    found = attack_result(BAG_OF_WORDS, ours, theirs, samples=1, salt=salt)
    texts = np.array([*members, *others], dtype=object)
    random = np.random.default_rng(request_seed(salt, "deals", BAG_OF_WORDS))
    dealt = []
    for _ in range(DEALS):
        shuffled = random.permutation(texts).tolist()
        one, two = bag_of_words_scores(
            shuffled[: len(members)], shuffled[len(members) :], salt=salt
        )
        dealt.append(auc(np.asarray(one), np.asarray(two)))
    reach = NormalDist().inv_cdf((1 + COVERAGE) / 2) * float(np.std(dealt))
    return replace(found, auc_low=max(0.0, found.auc - reach), auc_high=min(1.0, found.auc + reach))
