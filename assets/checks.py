"""Asset checks: what must hold before anything downstream may run."""

from collections.abc import Sequence
from statistics import fmean

import dagster as dg

from refine_dagster.lineage.warehouse import Warehouse
from refine_dagster.refine_af.judge_quality import PARTS
from resources.profile import ProfileResource
from resources.warehouse import WarehouseResource

# Standard errors by which the judge's accuracy must exceed chance.
STANDARD_ERRORS = 2.0
# AUC that every part of the judge must exceed with its whole interval; one half is guessing.
AUC_FLOOR = 0.5
# Commands that write to the ledger beside Dagster.
BESIDE_DAGSTER = ("exports", "prune")


@dg.asset_check(asset="instruction_decisions", blocking=True)
def funnel_reconciles(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """Candidates = kept + rejected + unparsed in every round, one decision for each candidate."""
    broken = warehouse.open().query(
        """
        WITH candidates AS (
            SELECT method, round, count(*) AS candidates, count(DISTINCT row_id) AS ids
            FROM raw_instructions GROUP BY ALL
        ), decided AS (
            SELECT method, round, count(*) AS decisions,
                   count(DISTINCT candidate_id) AS ids,
                   count(*) FILTER (kept AND rule = 'kept') AS kept,
                   count(*) FILTER (NOT kept AND rule = 'unparsed') AS failed,
                   count(*) FILTER (NOT kept AND rule NOT IN ('kept', 'unparsed')) AS rejected
            FROM instruction_decisions GROUP BY ALL
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


@dg.asset_check(asset="instruction_dataset", blocking=True)
def instances_reconcile(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """Accepted instructions = kept + rejected instances, and the kept ones are the dataset."""
    counts = warehouse.open().query(
        """
        SELECT (SELECT count(*) FROM filtered_instructions) AS instructions,
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


def _not_empty(asset: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=asset, name="not_empty", blocking=True, description=f"`{asset}` has at least one row."
    )
    def not_empty(warehouse: WarehouseResource) -> dg.AssetCheckResult:
        rows = int(warehouse.open().query(f"SELECT count(*) FROM {asset}").item())
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
    weak = sorted(part for part in PARTS if not lows.get(part, 0.0) > AUC_FLOOR)
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


def _ends(warehouse: Warehouse, figure: str, window: int) -> tuple[float, float] | None:
    """Means of a figure over the first and over the last `window` of the policy's steps."""
    values = warehouse.query(
        f"SELECT {figure} FROM rl_policy_checkpoint_steps WHERE {figure} IS NOT NULL ORDER BY step"
    )[figure]
    if values.is_empty():
        return None
    return fmean(values.head(window)), fmean(values.tail(window))


@dg.asset_check(asset="rl_policy_checkpoint", blocking=True)
def kl_within_bound(profile: ProfileResource, warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """The trained policy is still near the base policy: the mean KL of its last steps is at most
    `reinforcement.max_kl`. Farther away, the judge scores texts unlike those it was made for."""
    knobs = profile.load().reinforcement
    ends = _ends(warehouse.open(), "kl", knobs.guard_window)
    return dg.AssetCheckResult(
        passed=ends is not None and ends[1] <= knobs.max_kl,
        metadata={"bound": knobs.max_kl, **({"kl": ends[1]} if ends else {})},
    )


@dg.asset_check(asset="rl_policy_checkpoint", blocking=True)
def diversity_above_floor(
    profile: ProfileResource, warehouse: WarehouseResource
) -> dg.AssetCheckResult:
    """The policy has not collapsed: the mean diversity of its last steps is at least
    `reinforcement.min_diversity_share` of that of its first ones."""
    knobs = profile.load().reinforcement
    ends = _ends(warehouse.open(), "diversity", knobs.guard_window)
    if ends is None:
        return dg.AssetCheckResult(passed=False, metadata={"steps": 0})
    floor = knobs.min_diversity_share * ends[0]
    return dg.AssetCheckResult(
        passed=ends[1] >= floor,
        metadata={"floor": floor, "diversity": ends[1], "diversity_at_first": ends[0]},
    )


@dg.asset_check(asset="rl_policy_checkpoint", blocking=True)
def reward_rose(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """The held-out reward rose by more than its bootstrap interval: the lower bound is over 0."""
    rows = warehouse.open().query(
        "SELECT reward_before, reward_after, gain, gain_low, gain_high FROM rl_policy_checkpoint"
    )
    return dg.AssetCheckResult(
        passed=not rows.is_empty() and bool((rows["gain_low"] > 0).all()),
        metadata={name: float(rows[name].item()) for name in rows.columns} if rows.height else {},
    )


@dg.asset_check(asset="evaluation_report", blocking=True)
def ledger_agrees_with_dagster(
    context: dg.AssetCheckExecutionContext, warehouse: WarehouseResource
) -> dg.AssetCheckResult:
    """Of every asset, the ledger's last record and Dagster's last event tell of the same run and
    the same data version. If not, something was committed behind Dagster's back, or a run was
    killed between the two: materialise the assets named here again."""
    differing, compared = disagreements(context.instance, warehouse.open(), context.run.run_id)
    return dg.AssetCheckResult(
        passed=not differing,
        metadata={
            "assets_compared": compared,
            "assets_that_differ": ", ".join(sorted(differing)) or "none",
            **differing,
        },
    )


def disagreements(
    instance: dg.DagsterInstance, warehouse: Warehouse, run_id: str
) -> tuple[dict[str, str], int]:
    """Asset -> how the ledger and Dagster's event log differ on it; and how many were compared.

    Args:
        run_id: the run under way. What it has yet to materialise is not compared.
    """
    last = warehouse.query(
        "SELECT asset, sequence, run_id, data_version FROM lineage.materializations "
        "WHERE NOT list_contains(?, asset) "
        "QUALIFY row_number() OVER (PARTITION BY asset ORDER BY sequence DESC) = 1 ORDER BY asset",
        [list(BESIDE_DAGSTER)],
    )
    differing: dict[str, str] = {}
    compared = 0
    for asset, sequence, ledger_run, ledger_version in last.rows():
        key = dg.AssetKey(asset)
        event = instance.get_latest_materialization_event(key)
        told = event.asset_materialization if event else None
        planned = instance.get_latest_planned_materialization_info(key)
        if planned and planned.run_id == run_id and (event is None or event.run_id != run_id):
            continue
        compared += 1
        version = (told.tags or {}).get("dagster/data_version") if told else None
        if event is None or told is None:
            differing[asset] = f"materialization {sequence} is unknown to Dagster"
        elif version != ledger_version:
            differing[asset] = f"{ledger_version} in materialization {sequence}, here {version}"
        elif event.run_id != ledger_run:
            differing[asset] = (
                f"run {ledger_run} in materialization {sequence}, here {event.run_id}"
            )
    return differing, compared


def asset_checks() -> Sequence[dg.AssetChecksDefinition]:
    """All checks of the pipeline's own assets."""
    emptiness = [
        _not_empty(asset)
        for asset in (
            "seed_tasks",
            "filtered_instructions",
            "reward_scored_instructions",
            "instruction_dataset",
            "evaluation_report",
        )
    ]
    return [
        funnel_reconciles,
        instances_reconcile,
        judge_better_than_chance,
        judge_auc,
        reward_rose,
        kl_within_bound,
        diversity_above_floor,
        ledger_agrees_with_dagster,
        *emptiness,
    ]
