"""What each method of making instructions yields for the same number of model calls.

Self-Instruct spends calls on proposals, TeaMs-RL on rewrites and on reviews of them. Compared at
equal sizes, a cheaper method would gain nothing by being cheap. So the number n of calls is equal
here, each method has what its first n calls yield (`both`: n / 2 of each, the odd one for
Self-Instruct), and the datasets differ in size. A call is a request that was asked for, whether a
model or the store answered it. It is not a measure of tokens: a proposal writes several candidates.

A home has already made the calls, and those of the shorter method bound n. They are taken in the
order in which they were made, Self-Instruct's request by request and the evolution's step by step,
seed by seed, the reviews of a rewrite right behind it. A rewrite whose reviews are beyond the n-th
call is left out, and then up to two calls are not spent.

Candidates are decided on again, as if nothing else had been made: in the home an evolved candidate
may be refused because it is near a proposed one. With both methods, proposals come first, as in the
home. The target of the loop is no bound on them: it does not say what a call yields.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from refine_dagster import stages
from refine_dagster.comparison.arms import Method
from refine_dagster.config.dataset import SelfInstructConfig
from refine_dagster.errors import RefineError
from refine_dagster.hashing import content_id
from refine_dagster.language import ENGLISH, Language
from refine_dagster.teams_rl.evolution import evolution_calls
from refine_dagster.warehouse.rows import Row
from refine_dagster.warehouse.warehouse import Warehouse

NEEDED = ("raw_instructions", "evolved_instructions", "instruction_decisions")
# The config by which a candidate is novel.
NOVELTY = {"novelty_threshold", "refuse_at"}


@dataclass(frozen=True)
class Share:
    """What a method's first `calls` calls yield."""

    method: Method
    calls: int
    spent: Mapping[str, int]  # `propose`, `rewrite`, `review` -> calls; at most two fewer
    training: int  # the instructor's calls before, on top; 0 without evolution
    candidates: int  # how many rows they gave
    instructions: tuple[Row, ...]  # of `filtered_instructions`, in the order of decisions

    @property
    def per_instruction(self) -> float | None:
        """Calls for each accepted instruction, training left out; None where there is none."""
        return sum(self.spent.values()) / len(self.instructions) if self.instructions else None

    @property
    def per_instruction_with_training(self) -> float | None:
        spent = sum(self.spent.values()) + self.training
        return spent / len(self.instructions) if self.instructions else None


@dataclass(frozen=True)
class MethodCalls:
    """The calls that a home has made for instructions, and the rows that came of them, by slot."""

    seeds: tuple[Row, ...]
    proposed: tuple[Row, ...]
    evolved: tuple[Row, ...]
    training: int  # calls of the instructor's training
    config: SelfInstructConfig  # by which the home's candidates were decided on
    language: Language = ENGLISH

    @property
    def totals(self) -> Mapping[str, int]:
        """Method -> calls that it made in the home, training left out."""
        return {
            "self_instruct": len(_requests(self.proposed)),
            "teams_rl": sum(map(_calls, self.evolved)),
        }

    @property
    def most(self) -> int:
        return min(self.totals.values())

    @property
    def content(self) -> str:
        return content_id(
            "method_calls",
            [[*_request(row), row["parsed"], row["instruction"]] for row in self.proposed],
            [[_calls(row), row["valid"], row["instruction"]] for row in self.evolved],
            self.config.model_dump(mode="json", include=NOVELTY),
        )

    def share(self, method: Method, calls: int) -> Share:
        evolving = {"self_instruct": 0, "teams_rl": calls, "both": calls // 2}[method]
        asked = set(sorted(_requests(self.proposed))[: calls - evolving])
        proposed = [row for row in self.proposed if _request(row) in asked]
        evolved = _first_evolved(self.evolved, evolving)
        spent = {
            "propose": len(_requests(proposed)),
            "rewrite": len(evolved),
            "review": sum(map(_calls, evolved)) - len(evolved),
        }
        # As many as there are: a target would end the loop.
        decisions = self._decisions(proposed, evolved, len(proposed) + 1)
        accepted = stages.accept(proposed, evolved, decisions)
        return Share(
            method=method,
            calls=calls,
            spent=spent,
            training=0 if method == "self_instruct" else self.training,
            candidates=len(proposed) + len(evolved),
            instructions=tuple(accepted.tables["filtered_instructions"]),
        )

    def accepted_in_home(self) -> list[str]:
        """Ids of the candidates that the home's own decisions accept, up to its target."""
        decisions = self._decisions(self.proposed, self.evolved, self.config.target)
        return [row["candidate_id"] for row in decisions if row["kept"]]

    def _decisions(self, proposed: Sequence[Row], evolved: Sequence[Row], target: int) -> list[Row]:
        config = self.config.model_copy(update={"target": target})
        made = stages.decide(proposed, evolved, self.seeds, config, language=self.language)
        return made.tables["instruction_decisions"]


def read_method_calls(
    warehouse: Warehouse, config: SelfInstructConfig, language: Language = ENGLISH
) -> MethodCalls:
    """Read a home.

    Raises:
        RefineError: a method has made nothing in it, or with this config other candidates would
            have been accepted than were.
    """
    tables = {name: warehouse.read(name).to_dicts() for name in NEEDED}
    absent = [name for name, rows in tables.items() if not rows]
    if absent:
        raise RefineError(
            f"a comparison of methods needs {', '.join(absent)}, and there are no rows",
            where=str(warehouse.path),
            fix="run `refine-dagster run --select +filtered_instructions` with "
            "teams_rl.evolved_seeds above 0 first",
        )
    proposed, evolved = (sorted(tables[name], key=lambda row: row["slot"]) for name in NEEDED[:2])
    [instructor] = warehouse.read("instructor_policy").to_dicts()
    seeds = warehouse.read("seed_tasks").to_dicts()
    training = sum(evolution_calls(evolved, instructor).training.values())
    calls = MethodCalls(tuple(seeds), tuple(proposed), tuple(evolved), training, config, language)
    kept = {row["candidate_id"] for row in tables["instruction_decisions"] if row["kept"]}
    if set(calls.accepted_in_home()) != kept:
        raise RefineError(
            "this config would have accepted other candidates than the home has",
            where="self_instruct",
            fix="give the --profile that the home was made with, and the same --set of "
            "self_instruct.target, novelty_threshold and refuse_at",
        )
    return calls


def _request(row: Row) -> tuple[int, int]:
    """The request of a row of `raw_instructions`; every request has at least one row."""
    return row["round"], row["request"]


def _requests(proposed: Sequence[Row]) -> set[tuple[int, int]]:
    return {_request(row) for row in proposed}


def _calls(evolved: Row) -> int:
    """The calls for a row of `evolved_instructions`: a rewrite and its reviews."""
    return 1 + len(evolved["review_keys"])


def _first_evolved(rows: Sequence[Row], calls: int) -> list[Row]:
    first = []
    for row in rows:
        calls -= _calls(row)
        if calls < 0:
            break
        first.append(row)
    return first
