"""`refine-dagster plan`: what a run would take, before it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from refine_dagster.commands.output import (
    FormatOption,
    ProfileOption,
    SeedsOption,
    SetOption,
    console,
    overrides_of,
    plain,
    print_json,
    say,
    say_wrapped,
)
from refine_dagster.home import find_home

if TYPE_CHECKING:
    from assets.states import AssetState
    from refine_dagster.planning.plan import RunPlan

# Below this share of its cores, what else runs on the machine matters.
QUIET = 0.8
UNKNOWN = "?"
LOCK_TIMEOUT_S = 5.0


def plan(
    profile: ProfileOption = None,
    seeds: SeedsOption = None,
    settings: SetOption = None,
    format: FormatOption = "text",
) -> None:
    """Say what a run would take: requests, tokens, time, memory and disk of each stage.

    Rates are measured on this machine in some seconds. Nothing is asked, trained, downloaded or
    changed. It also says what the store has, and which assets are up to date.

    Example: refine-dagster plan --profile laptop
    """
    from assets.states import asset_states
    from refine_dagster.config.profile import load_profile
    from refine_dagster.planning.plan import (
        OFFLINE,
        UP_TO_DATE,
        given_model,
        offline_model,
        plan_run,
    )
    from refine_dagster.seeds.readers import read_seeds
    from refine_dagster.stages import seed_rows
    from refine_dagster.warehouse.checkpoints import CheckpointStore
    from refine_dagster.warehouse.warehouse import Warehouse

    config, home = load_profile(profile, overrides_of(settings, seeds__path=seeds)), find_home()
    warehouse = None
    if home.warehouse.is_file():
        warehouse = Warehouse(home.warehouse, lock_timeout_s=LOCK_TIMEOUT_S, read_only=True)
    checkpoints = CheckpointStore(home.checkpoints)
    rows = seed_rows(read_seeds(config.seeds.path)).tables["seed_tasks"]
    given = None if config.base_model.id == OFFLINE else given_model(config.base_model)
    # Reads whole files of weights.
    assets = asset_states(config, warehouse, checkpoints, given.fingerprint if given else None)
    states = {one.asset: one.state for one in assets}
    trained = warehouse if states["base_model"] == UP_TO_DATE else None
    with nullcontext(given) if given else offline_model(config, rows, home, trained) as found:
        planned = plan_run(config, rows, found, warehouse, states)
    if format == "json":
        answer = vars(planned) | {
            "seconds": planned.seconds,
            "cost": planned.cost,
            "assets": assets,
            "assumptions": planned.assumptions(),
        }
        print_json(answer)
    else:
        _print(planned, assets)


def _print(planned: RunPlan, assets: Sequence[AssetState]) -> None:
    from assets.states import NEVER

    say(f"Profile {planned.profile} on {planned.device}")
    names = ("stage", "requests", "read", "written", "trained", "time", "memory", "disk")
    rows = [
        (
            stage.stage,
            _count(stage.requests),
            _count(stage.prompt_tokens + stage.other_tokens),
            _count(stage.completion_tokens),
            _count(stage.trained_tokens),
            _time(stage.seconds) if stage in planned.to_make else stage.state,
            _bytes(stage.memory),
            _bytes(stage.disk),
        )
        for stage in planned.stages
    ]
    made = planned.to_make
    memory = [stage.memory for stage in made if stage.memory is not None]
    rows.append(("the rest of a run", "", "", "", "", _time(planned.rest), "", ""))
    total = (
        "to make, together",
        _count(sum(stage.requests for stage in made)),
        _count(sum(stage.prompt_tokens + stage.other_tokens for stage in made)),
        _count(sum(stage.completion_tokens for stage in made)),
        _count(sum(stage.trained_tokens for stage in made)),
        _time(planned.seconds),
        _bytes(max(memory, default=None)),
        _bytes(sum(stage.disk for stage in made)),
    )
    _print_table(names, [*rows, total])
    say_wrapped(
        "Read, written and trained are tokens. Memory is the peak of weights, caches and "
        "activations, without the process.",
        indent=0,
    )
    if planned.cost is not None:
        limit = "no limit" if planned.max_cost is None else f"at most {planned.max_cost:g}"
        say(f"Requests cost {planned.cost:,.2f} by generator.prices (generator.max_cost: {limit}).")
    say()
    _print_rates(planned)
    say()
    if planned.stored:
        stored = [
            (one.role, one.completions, UNKNOWN if one.of_base_model is None else one.of_base_model)
            for one in planned.stored
        ]
        _print_table(("in the store", "completions", "of this base model"), stored)
    else:
        say("The store is empty.")
    if all(one.because == NEVER for one in assets):
        say("Nothing was made in this home yet.")
    else:
        _print_table(("asset", "state", "because"), [(a.asset, a.state, a.because) for a in assets])
    say()
    for text in planned.assumptions():
        say_wrapped(f"- {text}", indent=0)


def _print_rates(planned: RunPlan) -> None:
    rates = planned.rates
    if rates is None:
        say_wrapped(f"Time and memory are not known: {planned.model}.", indent=0)
        return
    say_wrapped(
        f"Measured on {planned.model}, tokens a second: {rates.read:,.0f} read, "
        f"{rates.written:,.0f} written ({rates.rows} together), {rates.fine_tuning:,.0f} trained "
        f"in a fine-tuning, {rates.policy:,.0f} in reinforcement learning"
        + (f", {rates.full:,.0f} of all weights." if rates.full else "."),
        indent=0,
    )
    if rates.share < QUIET and planned.cpu_threads:
        one = planned.cpu_threads == 1
        of = "a core" if one else f"{planned.cpu_threads} cores"
        then = (
            "times are those of a quiet machine, and beside the same work a run takes longer."
            if one
            else "times are those beside the same work, and on a quiet machine a run takes less."
        )
        say_wrapped(f"It got {100 * rates.share:.0f} % of {of} meanwhile: {then}", indent=0)


def _print_table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    text = names[-1] == "because"
    for number, name in enumerate(names):
        table.add_column(name, justify="left" if text or not number else "right")
    for row in rows:
        table.add_row(*(plain(str(value)) for value in row))
    console.print(table)


def _count(number: float) -> str:
    """A number of at most four characters, `12k`; "" for 0.

    >>> _count(350), _count(12_340), _count(1_234_000), _count(0)
    ('350', '12k', '1.2M', '')
    """
    if not number:
        return ""
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            value = number / size
            return f"{value:.1f}{sign}" if value < 10 else f"{value:.0f}{sign}"
    return f"{number:.0f}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return UNKNOWN
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _bytes(amount: float | None) -> str:
    return UNKNOWN if amount is None else _count(amount) + ("B" if amount else "")
