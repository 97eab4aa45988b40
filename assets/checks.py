"""Asset checks: what must hold before anything downstream may run."""

from collections.abc import Sequence
from statistics import fmean

import dagster as dg

from assets.evolution_checks import (
    evolution_closes,
    instructor_not_collapsed,
    valid_rate_above_floor,
)
from assets.privacy_checks import negative_controls_at_chance, over_fitting_is_seen
from refine_dagster.config.policy_round import FIRST_ROUND, PolicyRound, later_rounds, rounds_until
from refine_dagster.judge.judge import PARTS
from refine_dagster.self_instruct.decisions import EVOLVED
from refine_dagster.warehouse.ledger import MIGRATION
from refine_dagster.warehouse.tables import is_beyond, slice_of
from refine_dagster.warehouse.warehouse import Warehouse
from resources.profile import ProfileResource
from resources.warehouse import WarehouseResource

# Standard errors by which the judge's accuracy must exceed chance.
STANDARD_ERRORS = 2.0
# AUC that every part of the judge must exceed with its whole interval; one half is guessing.
AUC_FLOOR = 0.5
# Commands that write to the ledger beside Dagster; migrations do too.
BESIDE_DAGSTER = ("exports", "prune")


def funnel_reconciles(policy_round: PolicyRound) -> dg.AssetChecksDefinition:
    """The check of a policy round's candidates and decisions."""
    raw = slice_of(policy_round.name("raw_instructions"))
    decisions = slice_of(policy_round.name("instruction_decisions"))
    evolved = (
        f"UNION ALL SELECT method, round, row_id FROM {EVOLVED}" if policy_round.is_first else ""
    )

    @dg.asset_check(asset=decisions.asset, name="funnel_reconciles", blocking=True)
    def reconciles(warehouse: WarehouseResource) -> dg.AssetCheckResult:
        """Candidates = kept + rejected + unparsed in every round of the loop and at every place of
        the evolution, one decision for each candidate."""
        broken = warehouse.open().query(
            f"""
            WITH candidates AS (
                SELECT method, round, count(*) AS candidates, count(DISTINCT row_id) AS ids
                FROM (SELECT method, round, row_id FROM {raw.live} {evolved}) GROUP BY ALL
            ), decided AS (
                SELECT method, round, count(*) AS decisions,
                       count(DISTINCT candidate_id) AS ids,
                       count(*) FILTER (kept AND rule = 'kept') AS kept,
                       count(*) FILTER (NOT kept AND rule = 'unparsed') AS failed,
                       count(*) FILTER (NOT kept AND rule NOT IN ('kept', 'unparsed')) AS rejected
                FROM {decisions.live} GROUP BY ALL
            )
            SELECT method, round, candidates, kept, rejected, failed
            FROM candidates FULL JOIN decided USING (method, round)
            WHERE candidates IS DISTINCT FROM kept + rejected + failed
               OR candidates.ids IS DISTINCT FROM decided.ids
            """
        )
        return dg.AssetCheckResult(
            passed=broken.is_empty(), metadata={"rounds_that_do_not": broken.height}
        )

    return reconciles


def instances_reconcile(last: PolicyRound) -> dg.AssetChecksDefinition:
    """The check of the dataset's instances against the last policy round's pool."""
    pool = slice_of(last.name("filtered_instructions")).live

    @dg.asset_check(asset="instruction_dataset", name="instances_reconcile", blocking=True)
    def reconcile(warehouse: WarehouseResource) -> dg.AssetCheckResult:
        """Accepted instructions = kept + rejected instances, and the kept ones are the dataset."""
        counts = warehouse.open().query(
            f"""
            SELECT (SELECT count(*) FROM {pool}) AS instructions,
                   (SELECT count(DISTINCT instruction_id) FROM instance_decisions) AS decisions,
                   (SELECT count(*) FROM instance_decisions WHERE kept) AS kept,
                   (SELECT count(*) FROM instruction_dataset) AS dataset
            """
        )
        instructions, decisions, kept, dataset = counts.row(0)
        return dg.AssetCheckResult(
            passed=instructions == decisions and kept == dataset,
            metadata={name: int(counts[name].item()) for name in counts.columns},
        )

    return reconcile


def _not_empty(asset: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=asset, name="not_empty", blocking=True, description=f"`{asset}` has at least one row."
    )
    def not_empty(warehouse: WarehouseResource) -> dg.AssetCheckResult:
        rows = int(warehouse.open().query(f"SELECT count(*) FROM {slice_of(asset).live}").item())
        return dg.AssetCheckResult(passed=rows > 0, metadata={"rows": rows})

    return not_empty


@dg.asset_check(asset="feedback_judge", blocking=True)
def judge_better_than_chance(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """Held-out accuracy of every dimension exceeds chance by two standard errors."""
    rows = warehouse.open().query(
        "SELECT dimension, accuracy, chance, examples FROM feedback_judge_accuracy "
        "WHERE corruption = 'all' ORDER BY dimension"
    )
    weak = [
        dimension
        for dimension, accuracy, chance, examples in rows.rows()
        if accuracy - chance <= STANDARD_ERRORS * (chance * (1 - chance) / examples) ** 0.5
    ]
    return dg.AssetCheckResult(
        passed=not weak and not rows.is_empty(),
        metadata={
            "no_better_than_chance": ", ".join(weak) or "none",
            **{dimension: accuracy for dimension, accuracy, _, _ in rows.rows()},
        },
    )


@dg.asset_check(asset="feedback_judge", blocking=True)
def judge_auc(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """Every part puts good texts above bad ones on tasks where both are known: the lower bound of
    its AUC is over one half. Shown beside it, without being held to a floor: the AUC between right
    and wrong answers of the same kind, which is what the policy can learn about being right."""
    measures = (
        warehouse.open()
        .query("SELECT dimension, measure, value FROM feedback_judge_quality ORDER BY ALL")
        .rows()
    )
    lows = {dimension: value for dimension, measure, value in measures if measure == "auc_low"}
    weak = sorted(part.name for part in PARTS if not lows.get(part.name, 0.0) > AUC_FLOOR)
    return dg.AssetCheckResult(
        passed=not weak,
        metadata={
            "floor": AUC_FLOOR,
            "not_above_the_floor": ", ".join(weak) or "none",
            **{
                f"{dimension}_{measure}": value
                for dimension, measure, value in measures
                if measure.startswith("auc")
            },
        },
    )


def _ends(
    warehouse: Warehouse, policy_round: PolicyRound, figure: str, window: int
) -> tuple[float, float] | None:
    """Means of a figure over the first and over the last `window` of the policy's steps."""
    steps = slice_of(policy_round.name("rl_policy_checkpoint_steps")).live
    values = warehouse.query(
        f"SELECT {figure} FROM {steps} WHERE {figure} IS NOT NULL ORDER BY step"
    )[figure]
    if values.is_empty():
        return None
    return fmean(values.head(window)), fmean(values.tail(window))


def kl_within_bound(policy_round: PolicyRound = FIRST_ROUND) -> dg.AssetChecksDefinition:
    """The check of how far a round's training went."""

    @dg.asset_check(
        asset=policy_round.name("rl_policy_checkpoint"), name="kl_within_bound", blocking=True
    )
    def within_bound(profile: ProfileResource, warehouse: WarehouseResource) -> dg.AssetCheckResult:
        """The trained policy is still near the policy that it began as: the mean KL of its last
        steps is at most `reinforcement.max_kl`. Farther away, the judge scores texts unlike those
        it was made for."""
        config = profile.load().reinforcement
        ends = _ends(warehouse.open(), policy_round, "kl", config.guard_window)
        return dg.AssetCheckResult(
            passed=ends is not None and ends[1] <= config.max_kl,
            metadata={"bound": config.max_kl, **({"kl": ends[1]} if ends else {})},
        )

    return within_bound


def diversity_above_floor(policy_round: PolicyRound = FIRST_ROUND) -> dg.AssetChecksDefinition:
    """The check of what a round's training left of diversity."""

    @dg.asset_check(
        asset=policy_round.name("rl_policy_checkpoint"),
        name="diversity_above_floor",
        blocking=True,
    )
    def above_floor(profile: ProfileResource, warehouse: WarehouseResource) -> dg.AssetCheckResult:
        """The policy has not collapsed: the mean diversity of its last steps is at least
        `reinforcement.min_diversity_share` of that of its first ones."""
        config = profile.load().reinforcement
        ends = _ends(warehouse.open(), policy_round, "diversity", config.guard_window)
        if ends is None:
            return dg.AssetCheckResult(passed=False, metadata={"steps": 0})
        floor = config.min_diversity_share * ends[0]
        return dg.AssetCheckResult(
            passed=ends[1] >= floor,
            metadata={"floor": floor, "diversity": ends[1], "diversity_at_first": ends[0]},
        )

    return above_floor


@dg.asset_check(asset="rl_policy_checkpoint", blocking=True)
def reward_rose(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """The held-out reward rose by more than its bootstrap interval: the lower bound is over 0."""
    gain = _gain(warehouse, FIRST_ROUND)
    return dg.AssetCheckResult(passed=bool(gain) and gain["gain_low"] > 0, metadata=gain)


def reward_not_fallen(policy_round: PolicyRound) -> dg.AssetChecksDefinition:
    """The check of a later round's gain."""

    @dg.asset_check(
        asset=policy_round.name("rl_policy_checkpoint"), name="reward_not_fallen", blocking=True
    )
    def not_fallen(warehouse: WarehouseResource) -> dg.AssetCheckResult:
        """The held-out reward did not fall in this round: the upper bound of the gain's interval is
        not below 0. It need not rise again, as the first round may have taken what there was."""
        gain = _gain(warehouse, policy_round)
        return dg.AssetCheckResult(passed=bool(gain) and gain["gain_high"] >= 0, metadata=gain)

    return not_fallen


def _gain(warehouse: WarehouseResource, policy_round: PolicyRound) -> dict[str, float]:
    """The held-out reward before and after a round's training; empty where there was none."""
    rows = warehouse.open().query(
        "SELECT reward_before, reward_after, gain, gain_low, gain_high "
        f"FROM {slice_of(policy_round.name('rl_policy_checkpoint')).live}"
    )
    return {name: float(rows[name].item()) for name in rows.columns} if rows.height else {}


@dg.asset_check(asset="evaluation_report", blocking=True)
def ledger_agrees_with_dagster(
    context: dg.AssetCheckExecutionContext, profile: ProfileResource, warehouse: WarehouseResource
) -> dg.AssetCheckResult:
    """For every asset, the ledger's last record and Dagster's last event name the same run and
    data version. If not, something was committed without Dagster, or a run was killed between the
    two: materialise the assets named here again."""
    differing, compared = disagreements(
        context.instance, warehouse.open(), context.run.run_id, profile.load().rounds
    )
    return dg.AssetCheckResult(
        passed=not differing,
        metadata={
            "assets_compared": compared,
            "assets_that_differ": ", ".join(sorted(differing)) or "none",
            **differing,
        },
    )


def disagreements(
    instance: dg.DagsterInstance, warehouse: Warehouse, run_id: str, rounds: int = 1
) -> tuple[dict[str, str], int]:
    """Asset -> how the ledger and Dagster's event log differ on it; and how many were compared.

    Args:
        run_id: the run under way. What it has yet to materialise is not compared.
        rounds: policy rounds of the graph. Rows of rounds beyond were taken back without Dagster.
    """
    last = warehouse.query(
        "SELECT asset, sequence, run_id, data_version FROM lineage.materializations "
        f"WHERE NOT list_contains(?, asset) AND NOT starts_with(run_id, '{MIGRATION}') "
        "QUALIFY row_number() OVER (PARTITION BY asset ORDER BY sequence DESC) = 1 ORDER BY asset",
        [list(BESIDE_DAGSTER)],
    )
    differing: dict[str, str] = {}
    compared = 0
    for asset, sequence, ledger_run, ledger_version in last.rows():
        if is_beyond(asset, rounds):
            continue
        key = dg.AssetKey(asset)
        event = instance.get_latest_materialization_event(key)
        made = event.asset_materialization if event else None
        planned = instance.get_latest_planned_materialization_info(key)
        if planned and planned.run_id == run_id and (event is None or event.run_id != run_id):
            continue
        compared += 1
        version = (made.tags or {}).get("dagster/data_version") if made else None
        if event is None or made is None:
            differing[asset] = f"materialization {sequence} is unknown to Dagster"
        elif version != ledger_version:
            differing[asset] = f"{ledger_version} in materialization {sequence}, here {version}"
        elif event.run_id != ledger_run:
            differing[asset] = (
                f"run {ledger_run} in materialization {sequence}, here {event.run_id}"
            )
    return differing, compared


def asset_checks(rounds: int = 1) -> Sequence[dg.AssetChecksDefinition]:
    """All checks of the pipeline's own assets in a graph of so many policy rounds."""
    every = rounds_until(rounds)
    return [
        judge_better_than_chance,
        judge_auc,
        reward_rose,
        instructor_not_collapsed,
        evolution_closes,
        valid_rate_above_floor,
        *(funnel_reconciles(one) for one in every),
        *(kl_within_bound(one) for one in every),
        *(diversity_above_floor(one) for one in every),
        *(reward_not_fallen(one) for one in later_rounds(rounds)),
        instances_reconcile(every[-1]),
        negative_controls_at_chance,
        over_fitting_is_seen,
        ledger_agrees_with_dagster,
        *(
            _not_empty(one.name(asset))
            for one in every
            for asset in ("filtered_instructions", "reward_scored_instructions")
        ),
        *(
            _not_empty(asset)
            for asset in (
                "seed_tasks",
                "instruction_dataset",
                "evaluation_report",
                "privacy_report",
            )
        ),
    ]
