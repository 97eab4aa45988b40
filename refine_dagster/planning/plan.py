"""The plan of a run: its stages, on the base model that this machine has, and the home's store.

Nothing is asked of the store's model, trained, downloaded or written to the home.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from refine_dagster.config.models import BaseModelConfig, GeneratorConfig
from refine_dagster.config.profile import Profile
from refine_dagster.evaluation.super_ni import load_tasks
from refine_dagster.generation.budget import cost
from refine_dagster.generation.endpoint.backend import endpoint_fingerprint
from refine_dagster.generation.model_text import backend_fingerprint, model_text
from refine_dagster.home import Home
from refine_dagster.models.device import Device, device_session
from refine_dagster.models.files import ModelError
from refine_dagster.models.language_model import (
    ModelRef,
    registered_base,
    resolve_model,
)
from refine_dagster.models.memory import model_size
from refine_dagster.offline.base_model import write_untrained
from refine_dagster.planning.behaviour import (
    Behaviour,
    Lengths,
    Stored,
    assumed_behaviour,
    lengths_of,
    seen_behaviour,
    stored_completions,
)
from refine_dagster.planning.estimate import (
    LOADS,
    LONGEST,
    SECONDS_A_RUN,
    SECONDS_A_STEP,
    Planner,
    StagePlan,
)
from refine_dagster.planning.rates import Rates, measure_rates
from refine_dagster.prompts.example import examples_of
from refine_dagster.warehouse.checkpoints import CheckpointError, CheckpointStore
from refine_dagster.warehouse.rows import Row
from refine_dagster.warehouse.warehouse import Warehouse

OFFLINE, UP_TO_DATE = "offline", "up to date"
# Seconds of a run that finds nothing to make (benchmarks/README.md).
SECONDS_UNCHANGED = 10.0
# Characters of a token, where no tokenizer counts.
CHARACTERS = 4


@dataclass(frozen=True)
class FoundModel:
    """A base model to measure, and where it was found, in words.

    `fingerprint` is that of the model that the run would have; None where it is not known yet.
    """

    ref: ModelRef | None
    where: str
    fingerprint: str | None = None


@dataclass(frozen=True)
class RunPlan:
    """What `refine-dagster plan` shows.

    Attributes:
        model: which model was measured; `device`: on what; `cpu_threads` is 0 for a card.
        rest: seconds that are no stage's.
        stored: completions of the home by role.
    """

    profile: str
    model: str
    device: str
    cpu_threads: int
    stages: tuple[StagePlan, ...]
    rest: float | None
    rates: Rates | None
    lengths: Lengths
    behaviour: Behaviour
    stored: tuple[Stored, ...]
    prices: Mapping[str, float]
    max_cost: float | None

    @property
    def cost(self) -> float | None:
        """Money for the requests of what is to be made; None where the profile has no prices."""
        if not self.prices:
            return None
        return sum(
            cost(self.prices, stage.requests, stage.prompt_tokens, stage.completion_tokens)
            for stage in self.to_make
        )

    @property
    def to_make(self) -> list[StagePlan]:
        """The stages that are not up to date."""
        return [stage for stage in self.stages if stage.state != UP_TO_DATE]

    @property
    def seconds(self) -> float | None:
        """Of a run that makes those stages; None where a stage's are not known."""
        known = [stage.seconds for stage in self.to_make]
        if self.rest is None or None in known:
            return None
        return self.rest + sum(filter(None, known)) if known else SECONDS_UNCHANGED

    def assumptions(self) -> list[str]:
        """What the figures rest on besides what was counted and measured."""
        model, said = self.behaviour, []
        words = {
            "accepted": f"{model.accepted:.1f} instructions are accepted of a proposal request",
            "kept": f"{100 * model.kept:.0f} % of rewrites are accepted",
            "reviews": f"{100 * model.reviews:.0f} % of rewrites are reviewed",
            "propose": f"a proposal has {model.propose:.0f} tokens",
            "instance": f"an instance has {model.instance:.0f} tokens",
            "rewrite": f"a rewrite has {model.rewrite:.0f} tokens",
            "respond": f"an answer has {model.respond:.0f} tokens",
        }
        for name, text in words.items():
            said.append(f"{'last run' if name in model.seen else 'assumed'}: {text}")
        if self.rates is None:
            said.append(f"assumed: a token has {CHARACTERS} characters")
        return [
            *said,
            f"assumed: the longest of completions written together has {LONGEST:g} times the mean",
            f"assumed: an optimiser's step takes {1000 * SECONDS_A_STEP:.0f} ms besides its passes,"
            f" a run {SECONDS_A_RUN:.0f} s besides its stages, and loads a model {LOADS} times",
            "counted as if the store were empty: what a run finds there of requests and trainings "
            "takes no time",
            "rates are those of the backend `transformers`",
        ]


def given_model(config: BaseModelConfig) -> FoundModel:
    """The base model that the config names, if it is on this machine."""
    try:
        ref = resolve_model(config.id, config.revision, local=True)
    except ModelError as error:
        return FoundModel(None, f"{config.id} is not on this machine ({error.what})")
    return FoundModel(ref, config.id, ref.fingerprint)


@contextmanager
def offline_model(
    profile: Profile, seeds: Sequence[Row], home: Home, warehouse: Warehouse | None
) -> Iterator[FoundModel]:
    """The base model that the home has trained, or an untrained one of the configured size.

    Args:
        warehouse: None where the run would train another.
    """
    if warehouse is not None:
        rows = warehouse.read("base_model").to_dicts()
        try:
            ref = registered_base(CheckpointStore(home.checkpoints), rows[0])
        except (ModelError, CheckpointError, IndexError):
            pass
        else:
            yield FoundModel(ref, "the home's base model", ref.fingerprint)
            return
    with tempfile.TemporaryDirectory(prefix="refine_plan_") as folder:
        config = profile.base_model
        learnt = examples_of(seeds) if config.learn_seeds else []
        write_untrained(learnt, config, Path(folder), profile.run_seed)
        yield FoundModel(resolve_model(folder), "an untrained model of the configured size")


def plan_run(
    profile: Profile,
    seeds: Sequence[Row],
    found: FoundModel,
    warehouse: Warehouse | None = None,
    states: Mapping[str, str] | None = None,
) -> RunPlan:
    """Measure the model for some seconds, and plan all stages as for an empty store.

    Args:
        states: asset -> `up to date`, or what else; None where nothing was made yet.

    Raises:
        RefineError: held-out tasks or the model's files cannot be read.
    """
    evaluation = profile.evaluation
    tasks = load_tasks(evaluation.tasks, evaluation.max_instances, evaluation.split)
    held_out = sum(len(task.instances) for task in tasks)
    offline = profile.base_model.id == OFFLINE
    count = model_text(found.ref, None).count_tokens if found.ref else _about
    lengths = lengths_of(profile, seeds, tasks, count)
    behaviour = assumed_behaviour(profile, lengths, offline)
    if warehouse is not None:
        behaviour = seen_behaviour(warehouse, profile.base_model.id, behaviour)
    with device_session(profile.device) as device:
        size = model_size(found.ref) if found.ref else None
        given = profile, len(seeds), held_out, lengths, behaviour, device, offline, size
        rates, fingerprint = None, None
        if found.ref:
            prompt = examples_of(seeds)[0].render()
            rates = measure_rates(
                found.ref,
                device,
                prompt,
                Planner(*given).shapes(),
                profile.self_instruct,
                profile.reinforcement,
            )
            if found.fingerprint:
                fingerprint = _fingerprint(profile.generator, found.ref, device)
        planner = Planner(*given, rates)
        stages = planner.stages()
        for stage in stages:
            known = [(states or {}).get(asset, stage.state) for asset in stage.assets]
            stage.state = next((state for state in known if state != UP_TO_DATE), UP_TO_DATE)
        return RunPlan(
            profile=profile.name,
            model=found.where,
            device=_named(device),
            cpu_threads=device.threads if device.name == "cpu" else 0,
            stages=tuple(stages),
            rest=planner.rest,
            rates=rates,
            lengths=lengths,
            behaviour=behaviour,
            stored=tuple(stored_completions(warehouse, fingerprint)) if warehouse else (),
            prices=profile.generator.prices,
            max_cost=profile.generator.max_cost,
        )


def _fingerprint(config: GeneratorConfig, ref: ModelRef, device: Device) -> str:
    """The name of the base model as the configured backend runs it."""
    if config.backend == "endpoint":
        return endpoint_fingerprint(ref, device, config)
    return backend_fingerprint(config.backend, ref, device)


def _about(text: str) -> int:
    """Tokens of a text where there is no tokenizer to ask."""
    return len(text) // CHARACTERS + 1


def _named(device: Device) -> str:
    return f"{device.use.hardware}, {device.dtype}, {device.threads} threads"
