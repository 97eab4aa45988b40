"""All asset checks of a graph, and those that belong to no single asset."""

from collections.abc import Sequence

import dagster as dg

from assets.dataset import instances_reconcile
from assets.evolution import evolution_closes, instructor_not_collapsed, valid_rate_above_floor
from assets.feedback import judge_auc, judge_better_than_chance
from assets.instructions import funnel_reconciles
from assets.policy import diversity_above_floor, kl_within_bound, reward_not_fallen, reward_rose
from assets.privacy import negative_controls_at_chance, over_fitting_is_seen
from assets.screening import screening_checks
from refine_dagster.config.policy_round import later_rounds, rounds_until
from refine_dagster.warehouse.heads import read_head
from refine_dagster.warehouse.ledger import MIGRATION
from refine_dagster.warehouse.tables import is_beyond, slice_of
from refine_dagster.warehouse.warehouse import Warehouse
from resources.ledger_events import DATA_VERSION, contradicted, logged_entries
from resources.profile import ProfileResource
from resources.warehouse import WarehouseResource

# Commands that write to the ledger beside Dagster; migrations do too.
BESIDE_DAGSTER = ("exports", "prune")
# Entries that differ and are named.
NAMED = 5


def _not_empty(asset: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=asset, name="not_empty", blocking=True, description=f"`{asset}` has at least one row."
    )
    def not_empty(warehouse: WarehouseResource) -> dg.AssetCheckResult:
        rows = int(warehouse.open().query(f"SELECT count(*) FROM {slice_of(asset).live}").item())
        return dg.AssetCheckResult(passed=rows > 0, metadata={"rows": rows})

    return not_empty


@dg.asset_check(asset="evaluation_report", blocking=True)
def ledger_agrees_with_dagster(
    context: dg.AssetCheckExecutionContext, profile: ProfileResource, warehouse: WarehouseResource
) -> dg.AssetCheckResult:
    """For every asset, the ledger's last record and Dagster's last event name the same run and
    data version. If not, something was committed without Dagster, or a run was killed between the
    two: materialise the assets named here again.

    And every event names an entry that the ledger has, with its digest. If not, an older database
    was put in place, or entries were changed: put the home's own database back."""
    opened = warehouse.open()
    differing, compared = disagreements(
        context.instance, opened, context.run.run_id, profile.load().rounds
    )
    logged = list(logged_entries(context.instance))
    lost = contradicted(opened, logged)
    with opened.reading() as connection:
        head = read_head(connection)
    return dg.AssetCheckResult(
        passed=not differing and not lost,
        metadata={
            "assets_compared": compared,
            "assets_that_differ": ", ".join(sorted(differing)) or "none",
            **differing,
            "entries_compared": len(logged),
            "entries_that_differ": "; ".join(f"{entry} {how}" for entry, how in lost[:NAMED])
            or "none",
            **({"ledger_entries": head.sequence, "ledger_head": head.digest} if head else {}),
        },
    )


def disagreements(
    instance: dg.DagsterInstance, warehouse: Warehouse, run_id: str, rounds: int = 1
) -> tuple[dict[str, str], int]:
    """Asset -> how the ledger and Dagster's event log differ on it; and how many were compared.

    What the run `run_id` has yet to materialise, and rounds beyond `rounds`, are not compared.
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
        version = (made.tags or {}).get(DATA_VERSION) if made else None
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
    """All checks in a graph of so many policy rounds, those of SQL models excepted."""
    every = rounds_until(rounds)
    return [
        judge_better_than_chance,
        judge_auc,
        reward_rose,
        instructor_not_collapsed,
        evolution_closes,
        valid_rate_above_floor,
        *(funnel_reconciles(policy_round) for policy_round in every),
        *(kl_within_bound(policy_round) for policy_round in every),
        *(diversity_above_floor(policy_round) for policy_round in every),
        *(reward_not_fallen(policy_round) for policy_round in later_rounds(rounds)),
        instances_reconcile(every[-1]),
        *screening_checks(),
        negative_controls_at_chance,
        over_fitting_is_seen,
        ledger_agrees_with_dagster,
        *(
            _not_empty(policy_round.name(asset))
            for policy_round in every
            for asset in ("filtered_instructions", "reward_scored_instructions")
        ),
        _not_empty("seed_tasks"),
        _not_empty("instruction_dataset"),
        _not_empty("evaluation_report"),
        _not_empty("privacy_report"),
    ]
