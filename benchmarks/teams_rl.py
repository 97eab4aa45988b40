"""Whether a trained instructor is worth its training: TeaMs-RL's policies side by side.

Run it from the repository's root:

    python benchmarks/teams_rl.py
    python benchmarks/teams_rl.py --runs 2 --updates 20
    python benchmarks/teams_rl.py --runs 1 --updates 8 --long 0 --base-model FOLDER

The executor is the deterministic `TemplateExecutor`, so this shows a mechanism and needs no model;
or, with `--base-model`, that model is executor and reviewer.
Each run has its own run seed and its own split of the packaged seeds into training and held-out
halves. All policies evolve the held-out seeds with the same number of executor calls: random,
round-robin, the best fixed operation (by mean novelty reward on the training seeds), the paper's
mode (TRPO, one-hot state, reviewer's reward), rich observations with the reviewer's reward, and
rich ones with the novelty reward. At last the reviewer's reward is trained long, under the guard.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from evolution_figures import PolicyFigures, gains, policy_figures
from refine_dagster.config.dataset import TeamsRLConfig
from refine_dagster.config.models import DeviceConfig, GeneratorConfig
from refine_dagster.evaluation.diversity import HashedEmbedding
from refine_dagster.generation.completions import CompletionsStore, open_generator
from refine_dagster.generation.request import Complete
from refine_dagster.models.device import device_session
from refine_dagster.models.language_model import resolve_model
from refine_dagster.seeding import request_seed
from refine_dagster.seeds.readers import PACKAGED, read_seeds
from refine_dagster.teams_rl.chain import Evolver, Outcome, Seed
from refine_dagster.teams_rl.evolution import evolve
from refine_dagster.teams_rl.instructor import InstructorTask, InstructorTraining, train_instructor
from refine_dagster.teams_rl.operations import NAMES
from refine_dagster.teams_rl.policies import (
    FixedPolicy,
    InstructorPolicy,
    RandomPolicy,
    RoundRobinPolicy,
    load_instructor,
)
from refine_dagster.teams_rl.reviewer import ModelExecutor, ModelReviewer
from refine_dagster.teams_rl.reward import NoveltyReward
from refine_dagster.warehouse.warehouse import Warehouse
from template_executor import RuleReviewer, TemplateExecutor

TRAINED: Mapping[str, Mapping[str, Any]] = {
    "paper": {"algorithm": "trpo", "observation": "paper", "reward": "paper"},
    "rich + reviewer": {"reward": "paper"},
    "rich + novelty": {},
}
BOOTSTRAP_SAMPLES = 300
LONG_UPDATES = 200


@dataclass(frozen=True)
class Run:
    """One run's world: a split of the seeds, an executor, and the noise's name."""

    run_seed: str
    learning: list[Seed]
    held_out: list[Seed]
    evolver: Evolver


@dataclass(frozen=True)
class Arm:
    """What one policy did in one run."""

    steps: list[Outcome]
    figures: PolicyFigures


def run_of(number: int, complete: Complete | None) -> Run:
    """Run `number`; without a source of completions its executor is the template one."""
    run_seed = f"benchmark {number}"
    seeds = [Seed(task.seed_id, task.instruction) for task in read_seeds(PACKAGED).seeds]
    seeds.sort(key=lambda seed: request_seed(run_seed, "split", seed.seed_id))
    half = len(seeds) // 2
    evolver = Evolver(TemplateExecutor(run_seed), RuleReviewer())
    if complete is not None:
        evolver = Evolver(ModelExecutor(complete, run_seed), ModelReviewer(complete))
    return Run(run_seed, seeds[:half], seeds[half:], evolver)


def measure(run: Run, policy: InstructorPolicy, training_calls: int = 0) -> Arm:
    """Let a policy evolve the held-out seeds."""
    steps = evolve(run.held_out, policy, run.evolver)
    return Arm(steps, policy_figures(steps, EMBEDDING, training_calls))


def trained(run: Run, config: TeamsRLConfig, guarded: bool) -> tuple[InstructorTraining, Arm]:
    """Train an instructor on the training seeds and measure it."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "instructor"
        training = train_instructor(
            InstructorTask(
                run.learning, run.evolver, EMBEDDING, config, run.run_seed, out, guarded=guarded
            )
        )
        policy = load_instructor(out, EMBEDDING, run.run_seed)
        return training, measure(run, policy, training.updates[-1].calls)


def best_fixed(run: Run) -> str:
    """The operation with the highest mean novelty reward on the training seeds."""
    config = TeamsRLConfig()

    def reward(operation: str) -> float:
        steps = evolve(run.learning, FixedPolicy(operation), run.evolver)
        paid = NoveltyReward(EMBEDDING, config.archive, config.call_cost)
        return fmean(paid.pay(steps))

    return max(NAMES, key=reward)


def arms_of(run: Run, updates: int) -> dict[str, Arm]:
    """All policies in one run, in the order of the table."""
    arms = {
        "random": measure(run, RandomPolicy(run.run_seed)),
        "round-robin": measure(run, RoundRobinPolicy()),
        "best fixed": measure(run, FixedPolicy(best_fixed(run))),
    }
    for name, values in TRAINED.items():
        config = TeamsRLConfig.model_validate({**values, "updates": updates})
        arms[name] = trained(run, config, guarded=False)[1]
    return arms


def table_of(title: str, arms: Mapping[str, Sequence[Arm]]) -> Table:
    """Means over runs."""
    table = Table(title=title)
    heads = (
        "policy", "Vendi", "valid rate", "bigrams", "ROUGE-L to parent", "calls a row",
        "with training", *(name[:8] for name in NAMES),
    )  # fmt: skip
    for head in heads:
        table.add_column(head, justify="left" if head == "policy" else "right")
    for name, runs in arms.items():
        rows = [arm.figures for arm in runs]
        table.add_row(
            name,
            f"{fmean(row.vendi for row in rows):.1f}",
            f"{fmean(row.valid_rate for row in rows):.3f}",
            f"{fmean(row.bigrams for row in rows):.0f}",
            f"{fmean(row.rouge_l_to_parent or 0.0 for row in rows):.2f}",
            f"{fmean(row.calls_per_row or 0.0 for row in rows):.2f}",
            f"{fmean(row.calls_per_row_with_training or 0.0 for row in rows):.1f}",
            *(f"{fmean(row.shares[place] for row in rows):.2f}" for place in range(len(NAMES))),
        )
    return table


def gains_table(arms: Mapping[str, Sequence[Arm]]) -> Table:
    """Every policy against the random one."""
    table = Table(title="against random: difference and 95 % bootstrap interval")
    for head in ("policy", "Vendi", "valid rate"):
        table.add_column(head)
    random = [arm.steps for arm in arms["random"]]
    for name, runs in arms.items():
        if name == "random":
            continue
        ours = [arm.steps for arm in runs]
        gain = gains(ours, random, EMBEDDING, samples=BOOTSTRAP_SAMPLES, run_seed=name)
        vendi, valid = gain.vendi_interval, gain.valid_rate_interval
        table.add_row(
            name,
            f"{gain.vendi:+.1f} [{vendi.low:+.1f}, {vendi.high:+.1f}]",
            f"{gain.valid_rate:+.3f} [{valid.low:+.3f}, {valid.high:+.3f}]",
        )
    return table


def rules_table(arms: Mapping[str, Sequence[Arm]]) -> Table:
    """What became of the steps of one operation."""
    table = Table(title="share of steps by what became of them")
    counts = {
        name: Counter(step.rule or "kept" for arm in runs for step in arm.steps)
        for name, runs in arms.items()
    }
    rules = sorted(set().union(*counts.values()))
    for head in ("operation", *rules):
        table.add_column(head, justify="left" if head == "operation" else "right")
    for name, count in counts.items():
        table.add_row(name, *(f"{count[rule] / count.total():.2f}" for rule in rules))
    return table


@contextmanager
def source(base_model: Path | None) -> Iterator[Complete | None]:
    """A model behind a completions store of its own; None without a model."""
    if base_model is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder, device_session(DeviceConfig()) as device:
        store = CompletionsStore(Warehouse(Path(folder) / "warehouse.duckdb"), "benchmark")
        with open_generator(
            resolve_model(str(base_model)), device, store, GeneratorConfig()
        ) as session:
            yield session.complete


def main() -> None:
    """Run the comparison and the long run."""
    parser = argparse.ArgumentParser(description="Compare TeaMs-RL's policies without a model.")
    parser.add_argument("--runs", type=int, default=5, help="random seeds")
    parser.add_argument("--updates", type=int, default=60, help="updates of every training")
    parser.add_argument("--long", type=int, default=LONG_UPDATES, help="updates of the long run")
    parser.add_argument("--base-model", type=Path, help="folder of a model that writes and reviews")
    asked = parser.parse_args()
    with source(asked.base_model) as complete:
        compare([run_of(number, complete) for number in range(asked.runs)], asked)


def compare(runs: Sequence[Run], asked: argparse.Namespace) -> None:
    """All tables, and the long run."""
    console = Console(width=170)
    begun = time.perf_counter()
    found: dict[str, list[Arm]] = {}
    for number, run in enumerate(runs):
        for name, arm in arms_of(run, asked.updates).items():
            found.setdefault(name, []).append(arm)
        console.print(f"run {number}: {time.perf_counter() - begun:.0f} s", highlight=False)
    calls = found["random"][0].figures.executor_calls
    console.print(table_of(f"{asked.runs} runs, {calls} executor calls each", found))
    console.print(gains_table(found))
    single = {name: [measure(run, FixedPolicy(name)) for run in runs] for name in NAMES}
    console.print(table_of("one operation, always", single))
    console.print(rules_table(single))
    if asked.long:
        long_run(runs[0], asked.long, console)
    console.print(f"{time.perf_counter() - begun:.0f} s in all", highlight=False)


def long_run(run: Run, updates: int, console: Console) -> None:
    """Train on the reviewer's reward for long, under the guard."""
    config = TeamsRLConfig(reward="paper", updates=updates)
    training, arm = trained(run, config, guarded=True)
    last = training.updates[-1]
    console.print(
        f"long run on the reviewer's reward: ended by {training.ended_by} after update "
        f"{last.update} of {updates}; valid rate {training.updates[0].valid_rate:.2f} -> "
        f"{last.valid_rate:.2f}, Vendi {last.diversity:.1f} (random {last.random_diversity:.1f}), "
        f"held-out Vendi {arm.figures.vendi:.1f}",
        highlight=False,
    )


EMBEDDING = HashedEmbedding(TeamsRLConfig().embedding_dimensions)


if __name__ == "__main__":
    main()
