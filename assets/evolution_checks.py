"""Asset checks of the instructor and of what it evolved."""

from collections import defaultdict

import dagster as dg

from refine_dagster.self_instruct.decisions import EVOLVED
from refine_dagster.teams_rl.operations import EPISODE_LENGTH, one_line
from resources.profile import ProfileResource
from resources.warehouse import WarehouseResource


@dg.asset_check(asset="instructor_policy", blocking=True)
def instructor_not_collapsed(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """The collapse guard did not end the instructor's training: diversity did not fall while
    validity rose, and no single operation took over."""
    rows = warehouse.open().query("SELECT algorithm, updates, ended_by FROM instructor_policy")
    collapsed = [row for row in rows.rows(named=True) if row["ended_by"] not in (None, "updates")]
    shown = {name: value for row in rows.rows(named=True) for name, value in row.items() if value}
    return dg.AssetCheckResult(passed=not collapsed, metadata=shown)


@dg.asset_check(asset=EVOLVED, blocking=True)
def evolution_closes(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """Every evolved row was made from what it says: the text of its seed, or of the last row of
    that seed that was kept; and every seed has each place of its evolution once."""
    opened = warehouse.open()
    rows = opened.read(EVOLVED).to_dicts()
    texts = {
        row["row_id"]: one_line(row["instruction"]) for row in opened.read("seed_tasks").to_dicts()
    } | {row["row_id"]: row["instruction"] for row in rows if row["valid"]}
    broken = {
        row["seed_id"]
        for row in rows
        if [texts.get(one["row_id"]) for one in row["parents"] if one["role"] == "evolved"]
        != [row["parent_instruction"]]
    }
    places: defaultdict[str, list[int]] = defaultdict(list)
    for row in rows:
        places[row["seed_id"]].append(row["round"])
    every = list(range(1, EPISODE_LENGTH + 1))
    broken |= {seed_id for seed_id, found in places.items() if sorted(found) != every}
    return dg.AssetCheckResult(passed=not broken, metadata={"seeds_that_do_not": len(broken)})


@dg.asset_check(asset=EVOLVED, blocking=True)
def valid_rate_above_floor(
    profile: ProfileResource, warehouse: WarehouseResource
) -> dg.AssetCheckResult:
    """At least `teams_rl.min_valid_rate` of the evolved rows were eliminated by no rule. The seeds
    are none that the instructor was trained on."""
    floor = profile.load().teams_rl.min_valid_rate
    rate = warehouse.open().query(f"SELECT avg(valid::INTEGER) FROM {EVOLVED}").item()
    return dg.AssetCheckResult(
        passed=rate is None or rate >= floor,
        metadata={"floor": floor, **({} if rate is None else {"valid_rate": rate})},
    )
