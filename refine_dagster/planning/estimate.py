"""The work of every stage, counted from config and seeds, and what it takes on this machine."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from refine_dagster.config.policy_round import rounds_until
from refine_dagster.config.profile import Profile
from refine_dagster.evaluation.report import ARMS
from refine_dagster.judge import on_policy_negatives as own
from refine_dagster.models.device import Device
from refine_dagster.models.memory import (
    ModelSize,
    TrainingPlan,
    first_batch,
    generation_budget,
    requests_that_fit,
    training_budget,
)
from refine_dagster.models.padding import ROWS
from refine_dagster.planning.behaviour import Behaviour, Lengths
from refine_dagster.planning.rates import Rates, Shape, Shapes
from refine_dagster.teams_rl.operations import EPISODE_LENGTH
from refine_dagster.training.sft import steps_for

# The longest of completions that are written together, as a multiple of their mean.
LONGEST = 2.0
# Corruptions of each good example that the judge's test reads, and texts of `judge.quality`.
CORRUPTIONS, QUALITY_TEXTS = 10, 1600
# A frozen judge reads a text twice, the second time without its task.
READ_TWICE = 1.5
# Bytes of a request in the warehouse.
BYTES_A_REQUEST = 4096
# Seconds of an optimiser's step besides the two passes, and of a run besides its stages; loads of a
# model.
SECONDS_A_STEP, SECONDS_A_RUN, LOADS = 0.03, 25.0, 20
# Bytes of a weight in a checkpoint.
WEIGHT = 4


@dataclass
class StagePlan:
    """What a stage does: tokens read, written and learnt from; seconds; bytes.

    Attributes:
        state: that of its assets, or of the first that is not up to date.
        requests: those that go through the completions store, if it is empty.
        prompt_tokens, completion_tokens: of requests and of rollouts.
        other_tokens: of texts that the judge or the audit reads.
        full, fine_tuning, policy: tokens trained on, of all weights, in a fine-tuning, and in
            reinforcement learning.
        steps: of optimisers.
        seconds, memory: None where the model is not known. Memory is the peak without the process.
        disk: of checkpoints, and of completions in the warehouse.
    """

    stage: str
    assets: tuple[str, ...]
    state: str = "to make"
    requests: float = 0
    prompt_tokens: float = 0
    completion_tokens: float = 0
    other_tokens: float = 0
    full: float = 0
    fine_tuning: float = 0
    policy: float = 0
    steps: int = 0
    seconds: float | None = 0
    memory: int | None = None
    disk: int = 0

    @property
    def trained_tokens(self) -> float:
        return self.full + self.fine_tuning + self.policy


@dataclass(frozen=True)
class Planner:
    """Plans the stages of a run.

    Attributes:
        seeds, held_out: numbers of seeds, and of held-out instances of the evaluation.
        size, rates: of the base model; None where it is not on this machine.
        offline: whether the run trains its base model.
    """

    profile: Profile
    seeds: int
    held_out: int
    lengths: Lengths
    behaviour: Behaviour
    device: Device
    offline: bool
    size: ModelSize | None = None
    rates: Rates | None = None

    @property
    def rows(self) -> int:
        """Completions written together."""
        if self.device.deterministic:
            return ROWS
        most = self.profile.generator.batch_size
        if most is not None or self.size is None:
            return most or ROWS
        config = self.profile.self_instruct
        return requests_that_fit(
            self.size, self.device, self.lengths.longest, config.max_new_tokens
        )

    def shapes(self) -> Shapes:
        """The passes that are measured."""
        base, rl, sft = (
            getattr(self.profile, name) for name in ("base_model", "reinforcement", "supervised")
        )
        length = round(self.lengths.instance + self.behaviour.instance)
        full = Shape(base.batch_size, base.sequence_length) if self.offline else None
        if full is None and self._trains_judge:
            full = Shape(self.profile.judge.batch_size, round(self.lengths.text))
        return Shapes(
            Shape(self.rows, round(self.lengths.instance)),
            full,
            Shape(sft.batch_size, round(self.lengths.lesson)),
            Shape(rl.prompts_per_step * rl.group_size, length),
        )

    def stages(self) -> list[StagePlan]:
        """The stages in pipeline order; assets of later rounds are with those of the first."""
        stages = list(self._stages())
        for stage in stages:
            stage.disk += round(stage.requests * BYTES_A_REQUEST)
            if self.rates is None or stage.seconds is None:
                stage.seconds = None
                continue
            stage.seconds += stage.steps * SECONDS_A_STEP
            for tokens, rate in (
                (stage.prompt_tokens + stage.other_tokens, self.rates.read),
                (stage.full, self.rates.full),
                (stage.fine_tuning, self.rates.fine_tuning),
                (stage.policy, self.rates.policy),
            ):
                stage.seconds += tokens / rate if tokens else 0
        return stages

    @property
    def rest(self) -> float | None:
        """Seconds of a run that are no stage's: imports, Dagster, the warehouse, loading models."""
        return None if self.rates is None else SECONDS_A_RUN + LOADS * self.rates.load

    @property
    def proposals(self) -> int:
        """Requests of a policy round's loop: whole rounds, until the target is accepted."""
        config = self.profile.self_instruct
        rounds = math.ceil(config.target / self.behaviour.accepted / config.requests_per_round)
        return min(rounds, config.max_rounds) * config.requests_per_round

    @property
    def evolved(self) -> int:
        """Rewrites of the evolution."""
        config = self.profile.teams_rl
        others = self.seeds - math.floor(self.seeds * config.training_share)
        return min(config.evolved_seeds, others) * EPISODE_LENGTH

    def pool(self, number: int) -> float:
        """Accepted instructions after so many policy rounds."""
        config = self.profile.self_instruct
        accepted = min(config.target, self.proposals * self.behaviour.accepted)
        return number * accepted + self.evolved * self.behaviour.kept

    @property
    def _trains_judge(self) -> bool:
        return self.profile.judge.kind == "offline" and self.profile.judge.backbone == "trained"

    def _stages(self) -> Iterator[StagePlan]:
        rounds = rounds_until(self.profile.rounds)
        last = len(rounds)
        yield self._base_model()
        yield self._judge()
        yield self._instructor()
        yield self._proposals(tuple(one.name("raw_instructions") for one in rounds))
        evolution = StagePlan("evolution", ("evolved_instructions",))
        self._rewrite(evolution, self.evolved, max(1, self.evolved // EPISODE_LENGTH))
        yield evolution
        if start_steps := self.profile.instances.start_steps:
            start = StagePlan("policy start", ("policy_start",))
            self._fine_tune(start, start_steps, self.lengths.start)
            yield start
        instances = tuple(one.name("reward_scored_instructions") for one in rounds)
        # In later rounds the base policy writes instances of the pool, too.
        written = self.pool(1) + sum(2 * self.pool(number) for number in range(2, last + 1))
        yield self._instances("instances", instances, written)
        yield self._policy(tuple(one.name("rl_policy_checkpoint") for one in rounds))
        held_out = self.pool(last) * self.profile.reinforcement.held_out_share
        yield self._instances("dataset", ("instruction_dataset",), self.pool(last) - held_out)
        steps = steps_for(round(self.pool(last)), self.profile.supervised)
        for stage, asset, arms in (
            ("fine-tuned model", "fine_tuned_model", 1),
            ("baselines", "baseline_model", 2),
        ):
            tuned = StagePlan(stage, (asset,))
            self._fine_tune(tuned, steps * arms, self.lengths.lesson, arms)
            yield tuned
        evaluation = StagePlan("evaluation", ("evaluation_report",))
        most = self.profile.evaluation.max_new_tokens
        asked = len(ARMS) * self.held_out
        self._ask(evaluation, asked, self.held_out, self.lengths.respond, "respond", most)
        yield evaluation
        yield self._privacy(steps)

    def _base_model(self) -> StagePlan:
        stage, config = StagePlan("base model", ("base_model",)), self.profile.base_model
        if self.offline:
            stage.full = config.steps * config.batch_size * config.sequence_length
            stage.steps = config.steps
            length = config.sequence_length
            self._train(stage, TrainingPlan("", config.batch_size, length, length, "full"))
            stage.disk += WEIGHT * (self.size.parameters if self.size else 0)
        elif self.size:
            self._remember(stage, generation_budget(self.size, self.device, 1, 64, 0, "").total)
        return stage

    def _judge(self) -> StagePlan:
        stage, config = StagePlan("judge", ("feedback_judge",)), self.profile.judge
        if config.kind == "published":
            # Other models than the base model: nothing of them is measured.
            stage.seconds = None
            return stage
        text, good = self.lengths.text, self.seeds + config.primer_tasks
        prompt = self.lengths.start * own.DEMONSTRATIONS
        tasks = config.on_policy_negatives
        at_once = own.BATCH * own.SAMPLES
        stage.prompt_tokens += tasks * prompt
        self._write(stage, tasks * own.SAMPLES, at_once, self.behaviour.respond, True)
        if config.backbone == "frozen":
            known = good * (1 - config.held_out_share) * (1 + CORRUPTIONS)
            # Half as many in the tests.
            read = min(config.frozen_texts, known) * 1.5
            stage.other_tokens += read * text * READ_TWICE
            self._generate(stage, self.lengths.longest, 0)
        else:
            stage.full = config.steps * config.batch_size * text
            stage.steps = config.steps
            tested = good * config.held_out_share * (1 + CORRUPTIONS) + QUALITY_TEXTS
            stage.other_tokens += tested * text
            length = self.lengths.longest
            self._train(stage, TrainingPlan("", config.batch_size, length, length, "full"))
            stage.disk += WEIGHT * (self.size.parameters if self.size else 0)
        return stage

    def _instructor(self) -> StagePlan:
        stage, config = StagePlan("instructor", ("instructor_policy",)), self.profile.teams_rl
        if config.evolved_seeds and config.algorithm in ("ppo", "trpo"):
            updates = config.updates + config.reference_updates
            played = updates * config.environments * config.episodes_per_update
            self._rewrite(stage, played * EPISODE_LENGTH, config.environments)
        return stage

    def _proposals(self, assets: tuple[str, ...]) -> StagePlan:
        stage, config = StagePlan("proposals", assets), self.profile.self_instruct
        requests = self.proposals * len(assets)
        at_once = config.requests_per_round
        most = config.max_new_tokens
        self._ask(stage, requests, at_once, self.lengths.propose, "propose", most)
        return stage

    def _instances(self, name: str, assets: tuple[str, ...], requests: float) -> StagePlan:
        stage, most = StagePlan(name, assets), self.profile.instances.max_new_tokens
        self._ask(stage, requests, requests, self.lengths.instance, "instance", most)
        self._score(stage, requests)
        return stage

    def _policy(self, assets: tuple[str, ...]) -> StagePlan:
        stage, config = StagePlan("policy", assets), self.profile.reinforcement
        most = self.profile.instances.max_new_tokens
        group = config.prompts_per_step * config.group_size
        for number in range(1, len(assets) + 1):
            held_out = self.pool(number) * config.held_out_share
            # Before and after; the first sample before is an instance that was written already.
            asked = held_out * (2 * config.held_out_samples - 1)
            at_once = max(1.0, held_out * config.held_out_samples)
            self._ask(stage, asked, at_once, self.lengths.instance, "instance", most)
            self._score(stage, asked)
            rollouts = config.steps * group
            stage.prompt_tokens += config.steps * config.prompts_per_step * self.lengths.instance
            self._write(stage, rollouts, group, self.behaviour.instance, True)
            self._score(stage, rollouts)
            tokens = rollouts * (self.lengths.instance + self.behaviour.instance)
            passes = config.epochs if config.algorithm == "ppo" else 1
            stage.policy += tokens * passes
            stage.steps += config.steps
            # The reference policy reads the same.
            stage.other_tokens += tokens
            self._save_adapter(stage, config.lora_rank, config.weights == "full")
        length = self.lengths.longest + most
        self._train(
            stage,
            TrainingPlan(
                "",
                group,
                length,
                most,
                trained=config.weights,
                lora_rank=config.lora_rank,
                trainer="own" if config.algorithm == "ppo" else "trl",
                rollouts=group,
                reference=config.weights == "full",
                value_head=config.algorithm == "ppo",
            ),
        )
        return stage

    def _privacy(self, steps: int) -> StagePlan:
        stage, config = StagePlan("privacy audit", ("privacy_report",)), self.profile.privacy
        batch, most = self.profile.supervised.batch_size, config.max_examples
        instances = self.pool(self.profile.rounds) * self.profile.selection.keep_share
        for rows in (self.seeds, instances, instances):
            examples = min(rows, most)
            share = examples / 2 / max(1.0, rows)
            self._fine_tune(stage, max(1, round(steps * share)), self.lengths.lesson, 0)
            # With the base model before, and with the audited model.
            stage.other_tokens += 2 * examples * self.lengths.lesson
        over_fitted = math.ceil(config.over_fitted_examples / batch) * config.over_fitted_epochs
        self._fine_tune(stage, over_fitted, self.lengths.lesson, 0)
        return stage

    def _rewrite(self, stage: StagePlan, rewrites: float, at_once: float) -> None:
        most, reviews = self.profile.teams_rl.max_new_tokens, rewrites * self.behaviour.reviews
        self._ask(stage, rewrites, at_once, self.lengths.rewrite, "rewrite", most)
        stage.requests += reviews
        # Two labels are read, each after the prompt.
        stage.prompt_tokens += 2 * reviews * self.lengths.review

    def _ask(
        self, stage: StagePlan, requests: float, at_once: float, prompt: float, role: str, most: int
    ) -> None:
        stage.requests += requests
        stage.prompt_tokens += requests * prompt
        self._write(stage, requests, at_once, getattr(self.behaviour, role), False, most)
        self._generate(stage, round(prompt), most)

    def _write(
        self,
        stage: StagePlan,
        count: float,
        at_once: float,
        tokens: float,
        rollouts: bool,
        most: int | None = None,
    ) -> None:
        """Write `count` completions of `tokens` each, `at_once` of which are asked together."""
        stage.completion_tokens += count * tokens
        if self.rates is None or stage.seconds is None or not count:
            return
        together = at_once if rollouts else min(at_once, self.rows)
        passes = count / at_once * math.ceil(at_once / together)
        longest = min(LONGEST * tokens, most or LONGEST * tokens)
        if self.device.deterministic and not rollouts:
            stage.seconds += passes * longest * (self.rates.step + ROWS * self.rates.step_row)
        else:
            # Completions that have ended are dropped.
            stage.seconds += passes * longest * self.rates.step
            stage.seconds += count * tokens * self.rates.step_row

    def _score(self, stage: StagePlan, texts: float) -> None:
        """The judge reads so many texts; a published one reads with models that are not known."""
        if self.profile.judge.kind == "published":
            stage.seconds = None
            return
        twice = READ_TWICE if self.profile.judge.backbone == "frozen" else 1.0
        stage.other_tokens += texts * self.lengths.text * twice

    def _fine_tune(self, stage: StagePlan, steps: int, tokens: float, adapters: int = 1) -> None:
        config = self.profile.supervised
        stage.fine_tuning += steps * config.batch_size * tokens
        stage.steps += steps
        for _ in range(adapters):
            self._save_adapter(stage, config.lora_rank)
        length = min(config.max_tokens, self.lengths.longest)
        plan = TrainingPlan("", config.batch_size, length, length, lora_rank=config.lora_rank)
        self._train(stage, plan)

    def _save_adapter(self, stage: StagePlan, rank: int, full: bool = False) -> None:
        if self.size:
            stage.disk += WEIGHT * (self.size.parameters if full else rank * self.size.lora_width)

    def _generate(self, stage: StagePlan, prompt: int, new: int) -> None:
        if self.size:
            budget = generation_budget(self.size, self.device, self.rows, prompt, new, "")
            self._remember(stage, budget.total)

    def _train(self, stage: StagePlan, plan: TrainingPlan) -> None:
        if self.size:
            batch = first_batch(self.size, plan, self.device)
            fitting = TrainingPlan(**(vars(plan) | {"batch": batch}))
            self._remember(stage, training_budget(self.size, fitting, self.device).total)

    def _remember(self, stage: StagePlan, memory: int) -> None:
        stage.memory = max(stage.memory or 0, memory)
