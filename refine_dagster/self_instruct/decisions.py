"""A decision for every candidate instruction, in slot order (docs/architecture.md, section 3.3).

The loop that proposes decides round by round, and the asset that filters decides on all candidates
at once. Both come to the same decisions, because each depends only on the seeds, the config and the
candidates before it. Evolved instructions (TeaMs-RL) come last and have no target of their own.

The nearest text of every candidate is found by the full scan: it is part of the row and its id, and
no index spares a kept text the comparison with the whole pool. At 15,000 candidates (12,733 kept)
the scan takes about a millisecond each, little beside generating them (docs/novelty_filter.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from refine_dagster.config.dataset import SelfInstructConfig
from refine_dagster.config.policy_round import FIRST_ROUND, PolicyRound
from refine_dagster.language import ENGLISH, Language
from refine_dagster.novelty import NoveltyFilter
from refine_dagster.self_instruct.heuristics import Rejection, first_rejection
from refine_dagster.warehouse.rows import Parent, Row, make_row

KEPT = "kept"
# The table of evolved candidates; seeds are evolved in the first policy round only.
EVOLVED = "evolved_instructions"
# The column `method` of a candidate.
SELF_INSTRUCT = "self_instruct"
TEAMS_RL = "teams_rl"


@dataclass(frozen=True)
class Demonstration:
    """An instruction that a prompt may show, with its row."""

    asset: str
    row_id: str
    name: str  # a seed's id or a candidate's slot, used by draws
    instruction: str
    evolved: bool = False  # by TeaMs-RL; the Self-Instruct loop does not show it then

    def as_parent(self, role: str) -> Parent:
        return Parent(self.asset, self.row_id, role)


def seed_demonstrations(seeds: Iterable[Row]) -> list[Demonstration]:
    return [
        Demonstration("seed_tasks", row["row_id"], row["seed_id"], row["instruction"])
        for row in seeds
    ]


def pool_demonstrations(former: Iterable[Row], policy_round: PolicyRound) -> list[Demonstration]:
    """The pool of the round before as demonstrations, in slot order; none in the first round."""
    if policy_round.is_first:
        return []
    table = policy_round.before.name("filtered_instructions")
    return [
        Demonstration(
            table, row["row_id"], row["slot"], row["instruction"], row["method"] == TEAMS_RL
        )
        for row in in_slot_order(former)
    ]


class InstructionDecider:
    """Decides on a policy round's candidates in slot order.

    `pool` has the seeds and the pool of the round before; `config.target` counts on top of it.
    """

    def __init__(
        self,
        pool: Sequence[Demonstration],
        config: SelfInstructConfig,
        policy_round: PolicyRound = FIRST_ROUND,
        language: Language = ENGLISH,
    ) -> None:
        self._language = language
        self.target = config.target
        self._candidates = policy_round.name("raw_instructions")
        self._decisions = policy_round.name("instruction_decisions")
        self.accepted: list[Demonstration] = []
        self._novelty = NoveltyFilter(
            config.novelty_threshold,
            config.refuse_at,
            nearest_of="all",
            reading=language.reading,
        )
        self._novelty.preload([item.instruction for item in pool], [item.row_id for item in pool])
        # Row id -> asset, for every text of the pool.
        self._assets = {item.row_id: item.asset for item in pool}

    @property
    def full(self) -> bool:
        return len(self.accepted) >= self.target

    def decide(self, candidates: Sequence[Row]) -> list[Row]:
        """Rows of `instruction_decisions` for rows of `raw_instructions`, in slot order.

        The order of the rules: `unparsed`, the heuristics, `over_target`, `too_similar`.
        """
        return [self._decide(row, self._candidates, self._rejection(row)) for row in candidates]

    def decide_evolved(self, candidates: Sequence[Row]) -> list[Row]:
        """Rows of `instruction_decisions` for rows of `evolved_instructions`, in slot order.

        The order of the rules: those of elimination, the heuristics, `too_similar`.
        """
        return [self._decide(row, EVOLVED, self._evolved_rejection(row)) for row in candidates]

    def _rejection(self, candidate: Row) -> Rejection | None:
        if not candidate["parsed"]:
            return Rejection("unparsed")
        rejection = first_rejection(str(candidate["instruction"]), self._language)
        if rejection is None and self.full:
            return Rejection("over_target", float(len(self.accepted) + 1), float(self.target))
        return rejection

    def _evolved_rejection(self, candidate: Row) -> Rejection | None:
        if not candidate["valid"]:
            return Rejection(candidate["rule"], candidate["value"], candidate["threshold"])
        return first_rejection(str(candidate["instruction"]), self._language)

    def _decide(self, candidate: Row, table: str, rejection: Rejection | None) -> Row:
        text = str(candidate["instruction"])
        score, nearest, tokenizer = None, None, None
        if rejection is None:
            decision = self._novelty.accept([text], [candidate["row_id"]])[0]
            score = decision.score
            tokenizer = None if decision.tokenizer == "rouge_score" else decision.tokenizer
            nearest = None if decision.nearest is None else str(decision.nearest)
            if decision.kept:
                self._assets[candidate["row_id"]] = table
                named = candidate["row_id"], candidate["slot"], candidate["instruction"]
                self.accepted.append(Demonstration(table, *named, table == EVOLVED))
            else:
                rejection = Rejection("too_similar", score, self._novelty.threshold)
        parents = [Parent(table, candidate["row_id"], "candidate")]
        nearest_asset = None
        if nearest is not None:
            nearest_asset = self._assets[nearest]
            parents.append(Parent(nearest_asset, nearest, "nearest"))
        payload = {
            "candidate_id": candidate["row_id"],
            "method": candidate["method"],
            "slot": candidate["slot"],
            "round": candidate["round"],
            "instruction": text,
            "kept": rejection is None,
            "rule": rejection.rule if rejection else KEPT,
            "value": rejection.value if rejection else None,
            "threshold": rejection.threshold if rejection else None,
            "nearest_asset": nearest_asset,
            "nearest_id": nearest,
            "nearest_score": score,
            "tokenizer": tokenizer,
        }
        return make_row(self._decisions, payload, parents)


def decision_figures(decisions: Sequence[Row]) -> dict[str, int]:
    """How many candidates were kept, and how many each rule rejected."""
    figures = {"candidates": len(decisions), "kept": sum(row["kept"] for row in decisions)}
    evolved = [row for row in decisions if row["method"] == TEAMS_RL]
    if evolved:
        figures["kept_evolved"] = sum(row["kept"] for row in evolved)
    for rule in sorted({row["rule"] for row in decisions} - {KEPT}):
        figures[f"rejected_{rule}"] = sum(row["rule"] == rule for row in decisions)
    return figures


def filtered_rows(
    candidates: Sequence[Row],
    decisions: Sequence[Row],
    policy_round: PolicyRound = FIRST_ROUND,
    former: Sequence[Row] = (),
    evolved: Sequence[Row] = (),
) -> list[Row]:
    """Rows of `filtered_instructions`: the pool of the round before, then what is kept."""
    table = policy_round.name("filtered_instructions")
    proposed = policy_round.name("raw_instructions")
    by_id = {row["row_id"]: (row, proposed) for row in candidates}
    by_id |= {row["row_id"]: (row, EVOLVED) for row in evolved}
    rows = [_taken_over(row, table, policy_round) for row in former]
    for decision in decisions:
        if not decision["kept"]:
            continue
        candidate, asset = by_id[decision["candidate_id"]]
        payload = {
            "instruction": candidate["instruction"],
            "method": candidate["method"],
            "slot": candidate["slot"],
            "policy": candidate["policy"],
            "nearest_score": decision["nearest_score"],
        }
        if not policy_round.is_first:
            payload["accepted_in"] = policy_round.number
        parents = [
            Parent(asset, candidate["row_id"], "candidate"),
            Parent(policy_round.name("instruction_decisions"), decision["row_id"], "decision"),
        ]
        rows.append(make_row(table, payload, parents))
    return rows


def _taken_over(row: Row, table: str, policy_round: PolicyRound) -> Row:
    names = ("instruction", "method", "slot", "policy", "nearest_score")
    payload = {name: row[name] for name in names}
    before = policy_round.before
    payload["accepted_in"] = before.number if before.is_first else row["accepted_in"]
    parent = Parent(before.name("filtered_instructions"), row["row_id"], "former_pool")
    return make_row(table, payload, [parent])


def in_slot_order(rows: Iterable[Row]) -> list[Row]:
    """Rows of a pool of instructions by method, then slot."""
    return sorted(rows, key=lambda row: (row["method"], row["slot"]))
