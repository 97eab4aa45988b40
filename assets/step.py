"""How an asset is declared, and what it does around its stage: read, commit, report.

An asset is a function of its inputs' data versions, its config and its code. `Step.unchanged` finds
the last materialization made from the same three and, where its checkpoints are still whole, lets
the body end there: "Materialize all" with nothing changed asks nothing and trains nothing.
"""

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from assets.facts import Facts, checkpoints_are_whole, is_repeat
from assets.preview import markdown_table, step_plots
from refine_dagster import progress, stages
from refine_dagster.config.profile import Profile
from refine_dagster.errors import RefineError
from refine_dagster.generation.budget import cost
from refine_dagster.generation.completions import CompletionsStore
from refine_dagster.language import language_of
from refine_dagster.models.device import Device, session_figures
from refine_dagster.models.language_model import registered_base
from refine_dagster.refine_af.feedback import Feedback, needs_student
from refine_dagster.refine_af.instances import base_scores
from refine_dagster.runtime import Made, Model, Runtime
from refine_dagster.warehouse.checkpoints import CheckpointStore
from refine_dagster.warehouse.ledger import Commit, Record
from refine_dagster.warehouse.rows import Row, frame, with_entries
from refine_dagster.warehouse.tables import slice_of, tables_of
from refine_dagster.warehouse.warehouse import Warehouse
from resources.ledger_events import DATA_VERSION, DIGEST, SEQUENCE

# Before a role: the figure of what its requests cost.
SPEND = "spend_"

Result = dg.MaterializeResult[Any]


class Step:
    """One materialization of one asset (`asset`: its key), under the run's `profile`."""

    def __init__(self, context: dg.AssetExecutionContext, facts: Facts, profile: Profile) -> None:
        self.asset = facts.key
        self.profile = profile
        self.warehouse: Warehouse = context.resources.warehouse.open()
        self._context = context
        self._facts = facts
        self._run_id = context.run.run_id
        self._store: CompletionsStore | None = None
        self._device: Device | None = None
        self._started_at = datetime.now(UTC)
        self._code_version = facts.code_version(profile)
        self._config_hash = facts.config_hash(profile)
        with self.warehouse.held():
            for asset in self.warehouse.retire_rounds_beyond(profile.rounds, self._run_id):
                progress.note(f"{asset}: rows removed, there are {profile.rounds} policy rounds")
            self._inputs = self._upstream()

    @property
    def checkpoints(self) -> CheckpointStore:
        store: CheckpointStore = self._context.resources.checkpoints.store(self.warehouse)
        return store

    def runs(self, asset: str) -> bool:
        """Whether the run is to materialise that asset, too."""
        selection = self._context.run.asset_selection
        return selection is None or dg.AssetKey(asset) in selection

    @contextmanager
    def runtime(self) -> Iterator[Runtime]:
        """The device, and what else a stage needs to run models; recorded."""
        resources, config = self._context.resources, self.profile.generator
        with resources.gpu.session(self.profile.device) as device:
            self._device = device
            store = self._store = resources.generator.store(self.warehouse, self._run_id, config)
            yield Runtime(
                run_seed=self.profile.run_seed,
                language=language_of(self.profile.language),
                device=device,
                checkpoints=self.checkpoints,
                generator=lambda ref: resources.generator.session(ref, device, store, config),
            )

    @contextmanager
    def feedback(self, runtime: Runtime, scale: Sequence[Row]) -> Iterator[Feedback]:
        """The loaded judge behind reward rule and format gate; `scale` gives `base_scores`."""
        resources, profile = self._context.resources, self.profile
        row = self.row("base_model")
        base = Model(registered_base(self.checkpoints, row), "base_model", row)
        seeds = self.rows("seed_tasks") if needs_student(profile.reward) else []
        sides = stages.student_seeds(seeds, profile.run_seed) if seeds else ([], [])
        with (
            stages.opened_parts(base, *sides, profile.reward, runtime) as opened,
            resources.judge.session(
                self.row("feedback_judge"),
                self.checkpoints,
                runtime.device,
                profile,
                base.ref,
                base_scores(scale),
                opened,
            ) as feedback,
        ):
            yield feedback

    def rows(self, table: str) -> list[Row]:
        """The live rows of an upstream table, or of its slice of a later round, by row id."""
        owner = slice_of(table).asset
        if owner != self.asset and owner not in self._inputs:
            raise KeyError(f"{self.asset} reads {table} without depending on {owner}")
        return self.warehouse.read(table).to_dicts()

    def row(self, table: str) -> Row:
        """The single live row of an upstream table."""
        rows = self.rows(table)
        if len(rows) != 1:
            raise RefineError(
                f"{table} has {len(rows)} live rows, one was expected",
                fix=f"materialise {slice_of(table).asset} again",
            )
        return rows[0]

    def unchanged(self, **outside: str) -> Result | None:
        """The result of the last materialization, if this one would only repeat it.

        `outside` are content hashes of what the asset reads besides its inputs, such as files.
        """
        self._inputs = {**self._inputs, **{f"file:{k}": v for k, v in outside.items()}}
        last = self.warehouse.last_record(self.asset)
        made_from = self._inputs, self._code_version, self._config_hash
        if last is None or not is_repeat(last, *made_from):
            return None
        # Reads whole files of weights: not while the warehouse is held.
        if not checkpoints_are_whole(self.warehouse, lambda: self.checkpoints, self.asset):
            return None
        with self.warehouse.held():
            commit = self.warehouse.commit(self._record(last.metrics), None)
            return self._result(commit, last.metrics, unchanged=True)

    def commit(self, made: Made, metadata: Mapping[str, Any] | None = None) -> Result:
        """Commit what a stage made; `metadata` is shown in Dagster but not recorded."""
        frames = {name: frame(name, rows) for name, rows in made.tables.items()}
        record = self._record(made.figures)
        with self.warehouse.held():
            commit = self.warehouse.commit(record, frames, made.checkpoints)
            return self._result(commit, record.metrics, metadata)

    def _record(self, figures: Mapping[str, Any]) -> Record:
        return Record(
            asset=self.asset,
            run_id=self._run_id,
            code_version=self._code_version,
            config_hash=self._config_hash,
            inputs=self._inputs,
            config=self._facts.config_of(self.profile),
            usage=self._store.usage if self._store else {},
            uses=self._store.uses if self._store else {},
            metrics={
                **{
                    name: value
                    for name, value in figures.items()
                    if value is not None and not name.startswith(SPEND)
                },
                **self._spend(),
            },
            device=session_figures(self._device) if self._device else {},
            started_at=self._started_at,
        )

    def _spend(self) -> dict[str, float]:
        """Money by role; {} where the profile has no prices."""
        prices = self.profile.generator.prices
        usage = self._store.usage if self._store and prices else {}
        return {
            f"{SPEND}{role}": cost(prices, used.sent, used.prompt_tokens, used.completion_tokens)
            for role, used in usage.items()
        }

    def _result(
        self,
        commit: Commit,
        figures: Mapping[str, Any],
        metadata: Mapping[str, Any] | None = None,
        *,
        unchanged: bool = False,
    ) -> Result:
        usage = self._store.usage.values() if self._store else ()
        seconds = (datetime.now(UTC) - self._started_at).total_seconds()
        sent = sum(role.sent for role in usage)
        change = "unchanged" if unchanged else f"+{commit.rows_added} -{commit.rows_removed}"
        progress.note(
            f"{self.asset}: {commit.rows_total} rows ({change}), {sent} requests sent, "
            f"{seconds:.1f} s"
        )
        main = tables_of(self.asset)[0].table
        shown: dict[str, Any] = {
            "dagster/row_count": commit.rows_total,
            "rows_added": commit.rows_added,
            "rows_removed": commit.rows_removed,
            "rows_reused": commit.rows_reused,
            "requests_sent": sent,
            "requests_reused": sum(role.reused for role in usage),
            "seconds": seconds,
            "unchanged": unchanged,
            SEQUENCE: commit.sequence,
            DIGEST: commit.digest,
            "dagster/column_schema": dg.TableSchema(
                [
                    dg.TableColumn(name, kind, description=meaning)
                    for name, (kind, meaning) in main.columns.items()
                ]
            ),
            **(self._pictures_of(commit.data_version) if unchanged else self._pictures()),
            **self._session(),
            **figures,
            **(metadata or {}),
        }
        return dg.MaterializeResult(
            metadata=shown,
            data_version=dg.DataVersion(commit.data_version),
            # What was run, whatever the launchpad or an edited file made of what was loaded.
            tags={"dagster/code_version": self._code_version},
        )

    def _pictures_of(self, data_version: str) -> dict[str, Any]:
        """What Dagster showed last, if it is of this content: drawing a plot again is slow."""
        last = self._context.instance.get_latest_materialization_event(self._context.asset_key)
        shown = last.asset_materialization if last else None
        if shown is None or (shown.tags or {}).get(DATA_VERSION) != data_version:
            return self._pictures()
        return {
            name: value
            for name, value in shown.metadata.items()
            if isinstance(value, dg.MarkdownMetadataValue)
        }

    def _pictures(self) -> dict[str, Any]:
        """The asset's first rows, and plots of its training steps if it has a table of them."""
        tables = tables_of(self.asset)
        first = self.warehouse.query(f"SELECT * EXCLUDE (parents) FROM {tables[0].live} LIMIT 5")
        pictures = {"preview": dg.MetadataValue.md(markdown_table(with_entries(first)))}
        steps = [part.name for part in tables if "step" in part.table.columns]
        if steps:
            pictures["training"] = dg.MetadataValue.md(step_plots(self.warehouse.read(steps[0])))
        return pictures

    def _session(self) -> dict[str, Any]:
        if self._device is None:
            return {}
        figures = session_figures(self._device)
        shown: dict[str, Any] = {
            "device": dg.MetadataValue.json(figures),
            "device_seconds": figures["seconds"],
            "peak_memory_mb": figures["peak_memory_mb"],
        }
        if self._device.use.budgets:
            tables = [f"**{title}**\n\n{text}" for title, text in self._device.use.budgets.items()]
            shown["memory_budget"] = dg.MetadataValue.md("\n\n".join(tables))
        if self._device.use.backed_off:
            shown["out_of_memory"] = "; ".join(self._device.use.backed_off)
        return shown

    def _upstream(self) -> dict[str, str]:
        keys = self._context.assets_def.asset_deps[self._context.asset_key]
        names = sorted(key.to_user_string() for key in keys)
        versions = self.warehouse.data_versions()
        missing = [name for name in names if name not in versions]
        if missing:
            raise RefineError(
                f"{self.asset} needs {', '.join(missing)}, never materialised",
                where=str(self.warehouse.path),
                fix="materialise those first, or run the job `everything`",
            )
        return {name: versions[name] for name in names}


@contextmanager
def materializing(context: dg.AssetExecutionContext, facts: Facts) -> Iterator[Step]:
    """A step whose progress goes to the run's log and whose `RefineError` fails the step."""
    reporter = (
        nullcontext()
        if progress.is_reporting()
        else progress.reporting(progress.CallbackReporter(context.log.info))
    )
    try:
        with reporter:
            yield Step(context, facts, context.resources.profile.load())
    except RefineError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error


Body = Callable[[Step], Result]


@dataclass(frozen=True)
class PipelineAsset:
    definition: dg.AssetsDefinition
    facts: Facts

    def versioned(self, profile: Profile) -> dg.AssetsDefinition:
        """The definition with the code version that it has under a profile."""
        version = self.facts.code_version(profile)
        return self.definition.map_asset_specs(
            lambda spec: spec.replace_attributes(code_version=version)
        )


def pipeline_asset(
    *,
    group: str,
    kinds: Collection[str],
    owner: str,
    revision: int,
    name: str | None = None,
    deps: Sequence[str] = (),
    config: Sequence[str] = (),
    automated: bool = False,
    outside: Callable[[Profile], str] | None = None,
) -> Callable[[Body], PipelineAsset]:
    """Declare an asset; its body reads the inputs, runs one stage and commits.

    `name` is the key, by default the body's; `deps` are the keys of its inputs. For `revision`,
    `config`, `automated` and `outside` see `Facts`.
    """

    def declare(body: Body) -> PipelineAsset:
        facts = Facts(name or body.__name__, revision, tuple(config), automated, outside)

        @dg.asset(
            name=facts.key,
            description=inspect.getdoc(body),
            group_name=group,
            kinds=set(kinds),
            owners=[f"team:{owner}"],
            deps=list(deps),
            required_resource_keys=facts.resources,
        )
        def materialized(context: dg.AssetExecutionContext) -> Result:
            with materializing(context, facts) as step:
                return body(step)

        return PipelineAsset(materialized, facts)

    return declare
