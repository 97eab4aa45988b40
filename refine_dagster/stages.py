"""The pipeline: one plain function a stage, in the order in which data flows.

A stage takes rows, models, sections of the config and a `Runtime`, and returns `Made`: the rows of
its tables, named and with their parents, figures, and checkpoints. It knows no database and no
orchestrator. Assets, comparisons and benchmarks run these functions and no others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from refine_dagster import progress
from refine_dagster.config.dataset import (
    InstanceConfig,
    SelectionConfig,
    SelfInstructConfig,
    TeamsRLConfig,
)
from refine_dagster.config.learning import (
    EvaluationConfig,
    JudgeConfig,
    PrivacyConfig,
    ReinforcementConfig,
    RewardConfig,
    SupervisedConfig,
)
from refine_dagster.config.models import BaseModelConfig, GeneratorConfig
from refine_dagster.config.policy_round import FIRST_ROUND, PolicyRound
from refine_dagster.config.section import plug_ins_of
from refine_dagster.draws import held_out_split
from refine_dagster.evaluation.answers import ArmScores, predict, score, unread_instances
from refine_dagster.evaluation.diversity import HashedEmbedding
from refine_dagster.evaluation.reference_loss import ReferenceLosses, reference_losses
from refine_dagster.evaluation.report import REPORT, report_figures, report_tables
from refine_dagster.evaluation.super_ni import Task
from refine_dagster.generation.completions import GeneratorSession
from refine_dagster.judge import frozen, published
from refine_dagster.judge import training as judge_training
from refine_dagster.judge.judge import loaded_judge
from refine_dagster.judge.quality import judge_figures, judge_quality, judge_tables
from refine_dagster.language import ENGLISH, Language
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import (
    ModelRef,
    loaded_model,
    resolve_model,
    trained_from,
)
from refine_dagster.offline.base_model import train_base_model
from refine_dagster.privacy.audit import AuditedArm, audit_arms
from refine_dagster.privacy.report import audit_figures, audit_tables
from refine_dagster.prompts.example import Example, examples_of, reads_back
from refine_dagster.refine_af import candidates, instances
from refine_dagster.refine_af.feedback import Feedback, rule_of
from refine_dagster.refine_af.instances import WrittenInstance
from refine_dagster.refine_af.reward import OpenedPart, further_parts, needs_model
from refine_dagster.registry import REWARD_PARTS
from refine_dagster.runtime import Lesson, Made, Model, Runtime, Trained
from refine_dagster.seeds.readers import SeedFile
from refine_dagster.self_instruct import decisions, rounds
from refine_dagster.self_instruct.heuristics import Rejection
from refine_dagster.teams_rl import evolution, instructor
from refine_dagster.teams_rl.evolution import INSTRUCTOR, INSTRUCTOR_STEPS
from refine_dagster.teams_rl.policies import InstructorPolicy
from refine_dagster.training import sft
from refine_dagster.training.colocated_engine import engine_for
from refine_dagster.training.reinforcement import PolicyPrompt, train_policy
from refine_dagster.training.report import base_tables, pair_rows, policy_tables, tuned_tables
from refine_dagster.warehouse.rows import Row, as_parent, make_row, parents

# The checkpoints of students whose progress is a reward.
STUDENT = "influence_student"


def seed_rows(file: SeedFile) -> Made:
    """Stage 0: the tasks of a seed file."""
    rows = [make_row("seed_tasks", seed.row()) for seed in file.seeds]
    figures = {
        "seeds": len(rows),
        "classification": sum(seed.is_classification for seed in file.seeds),
        "without_input": sum(not row["input"] for row in rows),
        "warnings": len(file.warnings),
    }
    return Made({"seed_tasks": rows}, figures)


def given_base(model: str, ref: ModelRef) -> Trained:
    """The base model that everything starts from, given by a Hugging Face id or a folder."""
    tables = base_tables(model, ref)
    figures = {"parameters": tables["base_model"][0]["parameters"]}
    return Trained.of("base_model", ref, tables, figures)


def train_base(seeds: Sequence[Row], config: BaseModelConfig, runtime: Runtime) -> Trained:
    """Train the offline base model on the primer and, with `learn_seeds`, on the seeds."""
    seeds = seeds if config.learn_seeds else []
    examples = examples_of(seeds)
    checkpoint = runtime.trained(
        "base_model",
        lambda **given: asdict(train_base_model(examples, config, **given)),
        config.model_dump(by_alias=True),
        seeds=[example.render() for example in examples],
    )
    ref = resolve_model(str(checkpoint.path))
    tables = base_tables("offline", ref, parents(seeds, "seed_tasks", "trained_on"), checkpoint)
    figures = {
        "parameters": tables["base_model"][0]["parameters"],
        "loss": checkpoint.record["steps"][-1]["loss"],
        "checkpoint_reused": checkpoint.reused,
    }
    return Trained.of("base_model", ref, tables, figures, checkpoint)


def train_judge(base: Model, seeds: Sequence[Row], config: JudgeConfig, runtime: Runtime) -> Made:
    """Automated feedback: train the offline judge from the base model's weights, and measure it."""
    examples = examples_of(seeds)
    train, measure = judge_training.train_judge, judge_quality
    if config.backbone == "frozen":
        train, measure = frozen.train_judge, frozen.judge_quality
    checkpoint = runtime.trained(
        "feedback_judge",
        lambda **given: asdict(train(base.ref, examples, config, **given)),
        config.model_dump(by_alias=True),
        base=base.ref.fingerprint,
        seeds=[example.render() for example in examples],
    )
    with loaded_judge(checkpoint.path, runtime.device, base.ref) as judge:
        quality = measure(judge, examples, config, runtime.run_seed)
    record, content_hash = checkpoint.record, checkpoint.content_hash
    made_from = [base.as_parent("backbone"), *parents(seeds, "seed_tasks", "trained_on")]
    tables = judge_tables(config.kind, record, quality, made_from, checkpoint_hash=content_hash)
    figures = {**judge_figures(tables), "checkpoint_reused": checkpoint.reused}
    return Made(tables, figures, (checkpoint,))


def measure_judge(
    models: published.PublishedModels, seeds: Sequence[Row], config: JudgeConfig, runtime: Runtime
) -> Made:
    """Measure the published judge, on the examples that the offline one would be tested on."""
    device, run_seed = runtime.device, runtime.run_seed
    examples = examples_of(seeds)
    measured = published.measure_published_judge(models, examples, config, device, run_seed)
    with published.loaded_published_judge(models, config, device, measured.fingerprint) as judge:
        quality = judge_quality(judge, (), config, run_seed)
    tested = [
        row
        for row in seeds
        if judge_training.is_held_out(Example.of(row), config.held_out_share, run_seed)
    ]
    tested_on = parents(tested, "seed_tasks", "tested_on")
    tables = judge_tables(config.kind, asdict(measured), quality, [], tested_on)
    return Made(tables, judge_figures(tables))


def untrained_instructor(config: TeamsRLConfig, run_seed: str) -> Made | None:
    """The instructor of an algorithm that learns nothing; None where it has to be trained."""
    if config.evolved_seeds == 0:
        return Made({INSTRUCTOR: [], INSTRUCTOR_STEPS: []})
    policy = instructor.untrained_policy(config, run_seed)
    if policy is None:
        return None
    payload = evolution.instructor_payload(config, policy.version)
    return Made(evolution.instructor_tables(payload))


def train_instructor(
    base: Model,
    seeds: Sequence[Row],
    config: TeamsRLConfig,
    generator: GeneratorConfig,
    runtime: Runtime,
) -> Made:
    """TeaMs-RL: train the policy that chooses operations on instructions, on part of the seeds."""
    run_seed = runtime.run_seed
    learnt = evolution.seed_parts(seeds, config, run_seed).training
    starts = evolution.as_seeds(learnt)
    embedding = HashedEmbedding(config.embedding_dimensions)

    def train(out: Path, device: Device, run_seed: str, resume: Path | None) -> dict[str, Any]:
        with runtime.generator(base.ref) as session:
            evolver = evolution.model_evolver(session.complete, config, run_seed)
            given = starts, evolver, embedding, config
            task = instructor.InstructorTask(*given, run_seed, out, resume)
            return asdict(instructor.train_instructor(task))

    # Executor and reviewer are the base model, so what decides its completions counts. How often a
    # state is saved, and what is evolved later, do not change the result.
    aside = {"save_every", "evolved_seeds", "min_valid_rate"}
    checkpoint = runtime.trained(
        INSTRUCTOR,
        train,
        # The last name is one of manifests alone: it no longer is a field.
        config.model_dump(mode="json", exclude=aside) | {"answer_max_new_tokens": 64},
        resumes=True,
        base=base.ref.fingerprint,
        seeds=[[seed.seed_id, seed.text] for seed in starts],
        **generator.deciding(),
        **plug_ins_of(config, generator),
    )
    executor = base.as_parent("executor")
    tables = evolution.trained_tables(config, checkpoint, embedding, learnt, executor, run_seed)
    figures = evolution.instructor_figures(tables)
    return Made(tables, {**figures, "checkpoint_reused": checkpoint.reused}, (checkpoint,))


def propose(
    policy: Model,
    seeds: Sequence[Row],
    config: SelfInstructConfig,
    runtime: Runtime,
    policy_round: PolicyRound = FIRST_ROUND,
    former: Sequence[Row] = (),
) -> Made:
    """Candidate instructions from the Self-Instruct loop; `former` is the earlier rounds' pool."""
    shown = decisions.seed_demonstrations(seeds)
    before = decisions.pool_demonstrations(former, policy_round)
    with runtime.generator(policy.ref) as session:
        proposer = rounds.Proposer.of(session, policy.as_parent("generator"))
        made = rounds.propose(
            shown, proposer, config, runtime.run_seed, policy_round, before, runtime.language
        )
    return Made({policy_round.name("raw_instructions"): made.rows}, made.figures)


def evolve(
    base: Model,
    chosen_by: Row,
    policy: InstructorPolicy,
    seeds: Sequence[Row],
    config: TeamsRLConfig,
    runtime: Runtime,
) -> Made:
    """Candidates evolved from seeds by the operations that the instructor `policy` chooses."""
    drawn = evolution.seed_parts(seeds, config, runtime.run_seed).evolved
    with runtime.generator(base.ref) as session:
        evolver = evolution.model_evolver(session.complete, config, runtime.run_seed)
        steps = evolution.evolve(evolution.as_seeds(drawn), policy, evolver)
        made_by = base.as_parent("generator")
        origin = evolution.Origin(drawn, chosen_by, made_by, session.model, session.key_of)
        rows = evolution.evolved_rows(steps, origin, config)
    return Made({decisions.EVOLVED: rows}, evolution.evolution_figures(rows, config.operations))


def decide(
    candidates: Iterable[Row],
    evolved: Iterable[Row],
    seeds: Sequence[Row],
    config: SelfInstructConfig,
    policy_round: PolicyRound = FIRST_ROUND,
    former: Sequence[Row] = (),
    language: Language = ENGLISH,
) -> Made:
    """A decision on every candidate, in slot order, those evolved last: kept, or why rejected."""
    before = decisions.pool_demonstrations(former, policy_round)
    pool = [*decisions.seed_demonstrations(seeds), *before]
    decider = decisions.InstructionDecider(pool, config, policy_round, language)
    proposed, made = (sorted(rows, key=lambda row: row["slot"]) for rows in (candidates, evolved))
    rows = decider.decide(proposed) + decider.decide_evolved(made)
    table = policy_round.name("instruction_decisions")
    return Made({table: rows}, decisions.decision_figures(rows))


def accept(
    candidates: Sequence[Row],
    evolved: Sequence[Row],
    decided: Sequence[Row],
    policy_round: PolicyRound = FIRST_ROUND,
    former: Sequence[Row] = (),
) -> Made:
    """The pool: what the decisions keep, and all of the pool of the round before."""
    rows = decisions.filtered_rows(candidates, decided, policy_round, former, evolved)
    figures = {"instructions": len(rows)}
    if not policy_round.is_first:
        figures["accepted_in_this_round"] = len(rows) - len(former)
    return Made({policy_round.name("filtered_instructions"): rows}, figures)


def start_policy(
    base: Model,
    seeds: Sequence[Row],
    sampling: InstanceConfig,
    config: SupervisedConfig,
    runtime: Runtime,
) -> Trained:
    """The policy that writes instances, before any reward: `sampling.start_steps` on the seeds.

    It learns the prompt without demonstrations, from the seeds that could be shown as such, so that
    none need be shown. With 0 steps there is no start: the base model is the policy.
    """
    readable = [row for row in seeds if reads_back(Example.of(row))]
    lesson, steps = Lesson("seed_tasks", readable), sampling.start_steps
    return fine_tune(sft.START, None, base, lesson, steps, config, runtime, "instance")


def write_instances(
    policy: Model,
    pool: Sequence[Row],
    seeds: Sequence[Row],
    feedback: Feedback,
    config: InstanceConfig,
    runtime: Runtime,
    policy_round: PolicyRound = FIRST_ROUND,
) -> list[WrittenInstance]:
    """The policy's input and output for every instruction of the pool, scored, in slot order."""
    table = policy_round.name("filtered_instructions")
    with runtime.generator(policy.ref) as session:
        given = session, config, runtime.run_seed, runtime.language
        prompts = instances.pool_prompts(pool, table, seeds, *given)
        return instances.write_instances(prompts, session, feedback, config, runtime.run_seed)


def answer_seeds(
    policy: Model,
    seeds: Sequence[Row],
    feedback: Feedback,
    config: InstanceConfig,
    runtime: Runtime,
) -> list[WrittenInstance]:
    """The policy's own answer to every seed's instruction and input, scored."""
    run_seed = runtime.run_seed
    with runtime.generator(policy.ref) as session:
        count = session.backend.count_tokens
        asked = candidates.seed_questions(seeds, count, config, run_seed, runtime.language)
        answers = candidates.write_answers(asked, session, feedback, config, run_seed)
    return [answer for [answer] in answers]


def answer_again(
    policy: Model,
    written: Sequence[WrittenInstance],
    feedback: Feedback,
    config: InstanceConfig,
    samples: int,
    runtime: Runtime,
) -> list[list[WrittenInstance]]:
    """So many answers to the question of every valid instance, its own answer first."""
    asked = candidates.pool_questions(written)
    numbers = range(1, samples)
    with runtime.generator(policy.ref) as session:
        others = candidates.write_answers(
            asked, session, feedback, config, runtime.run_seed, numbers
        )
    valid = [instance for instance in written if instance.scored.instance.format_valid]
    return [[first, *more] for first, more in zip(valid, others, strict=True)]


def select_best(
    table: str,
    groups: Sequence[Sequence[WrittenInstance]],
    criterion: candidates.Criterion,
    policy: Model,
    judge: Row,
    config: SelectionConfig,
    runtime: Runtime,
    influence: OpenedPart | None = None,
) -> Made:
    """The best answer to every question by a criterion, and the rule for each that is not kept.

    Of the best answers the same are kept as by `select`. All answers are rows with their values.

    Args:
        influence: the student, for that criterion.
    """
    if criterion == "likelihood":
        with loaded_model(policy.ref, runtime.device) as loaded:
            values = candidates.valued(groups, partial(candidates.likelihoods, loaded))
    else:
        criteria: dict[str, candidates.Values] = {
            "judge": candidates.rewards,
            "agreement": candidates.agreements,
        }
        if influence is not None:
            criteria["influence"] = partial(candidates.influences, influence)
        values = candidates.valued(groups, criteria[criterion])
    best = candidates.chosen(values)
    marked = [
        [
            candidates.with_value(answer, criterion, value)
            for answer, value in zip(group, of_group, strict=True)
        ]
        for group, of_group in zip(groups, values, strict=True)
    ]
    taken = [group[place] for group, place in zip(marked, best, strict=True)]
    decided = select(table, taken, policy, judge, config)
    made_by = [policy.as_parent("policy"), as_parent("feedback_judge", judge, "judge")]
    others = [
        instances.decision_row(
            table,
            answer,
            Rejection(candidates.PASSED_OVER, of_group[number], of_group[place]),
            made_by,
        )
        for group, of_group, place in zip(marked, values, best, strict=True)
        for number, answer in enumerate(group)
        if number != place
    ]
    return Made({table: [*decided.tables[table], *others]}, decided.figures)


def student_seeds(seeds: Sequence[Row], run_seed: str) -> tuple[list[Row], list[Row]]:
    """The seeds that a student learns from and those its progress is measured on, half each."""
    sides = held_out_split((row["instruction"] for row in seeds), 0.5, f"{run_seed}/student")
    learned, reference = (
        [row for row in seeds if row["instruction"] in side] for side in map(set, sides)
    )
    return learned, reference


def train_student(
    base: Model, seeds: Sequence[Row], config: RewardConfig, runtime: Runtime
) -> ModelRef:
    """The student whose progress the reward part `influence` measures, fine-tuned on seeds."""
    examples = examples_of(seeds)
    supervised = SupervisedConfig(learning_rate=config.student_learning_rate)
    steps = config.student_steps
    checkpoint = runtime.trained(
        STUDENT,
        lambda **given: asdict(sft.fine_tune(base.ref, examples, supervised, steps=steps, **given)),
        supervised.model_dump(),
        steps=steps,
        base=base.ref.fingerprint,
        examples=[example.render() for example in examples],
    )
    return trained_from(base.ref, checkpoint.path)


@contextmanager
def opened_parts(
    base: Model,
    learned: Sequence[Row],
    reference: Sequence[Row],
    config: RewardConfig,
    runtime: Runtime,
) -> Iterator[dict[str, OpenedPart]]:
    """Load what the config's reward parts need: for `influence`, a student of `learned`.

    Its progress is measured on `reference`.
    """
    parts = [REWARD_PARTS.entry(name) for name in further_parts(rule_of(config))]
    with ExitStack() as stack:
        opened: dict[str, OpenedPart] = {}
        for part in filter(needs_model, parts):
            function: Any = part.value
            student = train_student(base, learned, config, runtime)
            opening = function.opened(student, examples_of(reference), runtime.device)
            opened[part.name] = stack.enter_context(opening)
        yield opened


def select(
    table: str,
    written: Sequence[WrittenInstance],
    policy: Model,
    judge: Row,
    config: SelectionConfig,
) -> Made:
    """Which instances may be learnt from: all as rows of `table`, with the rule that decided."""
    made_by = [policy.as_parent("policy"), as_parent("feedback_judge", judge, "judge")]
    rows = instances.decision_rows(table, written, made_by, config)
    return Made({table: rows}, instances.instance_figures(rows))


def refine_policy(
    start: Model,
    pool: Sequence[Row],
    seeds: Sequence[Row],
    judge: Row,
    feedback: Feedback,
    config: ReinforcementConfig,
    reward: RewardConfig,
    sampling: InstanceConfig,
    runtime: Runtime,
    policy_round: PolicyRound = FIRST_ROUND,
) -> Trained:
    """Train a policy to write instances that the feedback rewards (REFINE-AF's stage 2).

    A share of the instructions is kept from training, the same in every round; the gain is the
    mean paired difference of reward on those. A later round starts with the policy of the round
    before and trains a further LoRA update on top of it. That policy is also the reference for the
    KL penalty, so `max_kl` bounds each round and not the way from the base model.
    """
    name, table = map(policy_round.name, ("rl_policy_checkpoint", "filtered_instructions"))
    run_seed, samples = runtime.run_seed, config.held_out_samples

    def rewards(session: GeneratorSession) -> list[float]:
        answered = held_out, session.complete
        return instances.mean_rewards(*answered, feedback, sampling, samples, run_seed)

    with runtime.generator(start.ref) as session:
        given = session, sampling, run_seed, runtime.language
        prompts = instances.pool_prompts(pool, table, seeds, *given)
        by_text = {prompt.instruction["instruction"]: prompt for prompt in prompts}
        sides = held_out_split(by_text, config.held_out_share, run_seed)
        training, held_out = ([by_text[text] for text in side] for side in sides)
        before = rewards(session)
    asked = [PolicyPrompt.of(item.instruction["instruction"], item.prompt) for item in training]
    # How often a state is saved does not change the result; of the engines, the one used counts.
    aside = {"save_every", "rollout_engine", "vllm_memory_share"}
    engine = engine_for(config, runtime.device)
    checkpoint = runtime.trained(
        name,
        lambda **given: train_policy(
            start.ref, asked, feedback, config, max_new_tokens=sampling.max_new_tokens, **given
        ).record(),
        config.model_dump(exclude=aside),
        run_seed=policy_round.run_seed(run_seed),
        resumes=True,
        **plug_ins_of(config, reward),
        **({} if engine == "policy" else {"rollout_engine": engine}),
        **feedback.opened,
        instances=sampling.model_dump(),
        rule=feedback.rule.manifest(),
        invalid_reward=feedback.invalid_reward,
        base=start.ref.fingerprint,
        judge=judge["fingerprint"],
        prompts=sorted(item.prompt for item in training),
    )
    ref = trained_from(start.ref, checkpoint.path)
    with runtime.generator(ref) as session:
        after = rewards(session)
    gain = instances.policy_gain(before, after, run_seed)
    made_from = [
        start.as_parent("base"),
        as_parent("feedback_judge", judge, "judge"),
        *instances.prompt_parents(training, "trained_on"),
        *instances.prompt_parents(held_out, "measured_on"),
    ]
    known = {"algorithm": config.algorithm, "preset": feedback.rule.name, **gain}
    made_by = [start.as_parent("generator"), as_parent("feedback_judge", judge, "judge")]
    of_pairs = policy_round.name("rl_policy_checkpoint_pairs")
    pairs = pair_rows(of_pairs, checkpoint, by_text, made_by)
    tables = policy_tables(name, ref, checkpoint, known, made_from, pairs)
    figures = {
        **{figure: value for figure, value in gain.items() if figure != "held_out_prompts"},
        "steps": len(checkpoint.record["steps"]),
        "ended_by": checkpoint.record["ended_by"],
        "checkpoint_reused": checkpoint.reused,
    }
    return Trained.of(name, ref, tables, figures, checkpoint)


def keep(selected: Made) -> Made:
    """The dataset: the instances that `select` kept, beside the decisions on all."""
    [rows] = selected.tables.values()
    tables = {"instruction_dataset": instances.dataset_rows(rows), **selected.tables}
    return Made(tables, selected.figures)


def fine_tune(
    name: str,
    arm: str | None,
    base: Model,
    lesson: Lesson,
    steps: int,
    config: SupervisedConfig,
    runtime: Runtime,
    form: sft.Form = "zero_shot",
) -> Trained:
    """Fine-tune the base model on an arm's rows; `name` is that of its table and checkpoint.

    All arms of one pool take the same optimiser `steps` (`sft.steps_for`). A start is no arm.
    """
    examples = examples_of(lesson.rows)
    others: dict[str, Any] = {} if form == "zero_shot" else {"form": form}
    language = runtime.language
    if form == "instance" and language != ENGLISH:
        others["language"] = language.code
    tune = partial(
        sft.fine_tune, base.ref, examples, config, steps=steps, form=form, language=language
    )
    checkpoint = runtime.trained(
        name,
        lambda **given: asdict(tune(**given)),
        config.model_dump(),
        steps=steps,
        base=base.ref.fingerprint,
        examples=[example.render() for example in examples],
        **others,
    )
    ref = trained_from(base.ref, checkpoint.path)
    made_from = [base.as_parent("base"), *parents(lesson.rows, lesson.table, "trained_on")]
    tables = tuned_tables(name, arm, ref, checkpoint, made_from)
    of_arm = f"{arm}_" if arm else ""
    figures = {
        f"{of_arm}rows": checkpoint.record["rows"],
        f"{of_arm}loss": checkpoint.record["steps"][-1]["loss"],
        f"{of_arm}reused": checkpoint.reused,
    }
    return Trained.of(name, ref, tables, figures, checkpoint)


def score_arm(
    arm: str, model: Model, tasks: Sequence[Task], config: EvaluationConfig, runtime: Runtime
) -> ArmScores:
    """The model's answers to held-out tasks, scored by SUPER-NI's protocol."""
    with runtime.generator(model.ref) as session:
        predictions = predict(session.complete, session.backend.cut, tasks, config)
    return score(arm, tasks, predictions)


def measure_losses(
    model: Model,
    tasks: Sequence[Task],
    calibration: Sequence[Row],
    config: EvaluationConfig,
    runtime: Runtime,
) -> ReferenceLosses:
    """The loss of the tasks' right answers under a model that has not learned `calibration`."""
    with loaded_model(model.ref, runtime.device) as loaded:
        return reference_losses(loaded, tasks, examples_of(calibration), config)


def evaluate(
    arms: Mapping[str, Model], tasks: Sequence[Task], config: EvaluationConfig, runtime: Runtime
) -> Made:
    """Every arm's scores and answers, and each arm compared with those before it."""
    unread = unread_instances(tasks)
    if unread:
        of = sum(len(task.instances) for task in tasks)
        progress.note(
            f"{unread} of {of} held-out instances have no reference in letters a-z or digits: "
            "ROUGE-L is 0 on them whatever is answered; exact match counts"
        )
    scores = {arm: score_arm(arm, model, tasks, config, runtime) for arm, model in arms.items()}
    owners = {arm: model.as_parent("model") for arm, model in arms.items()}
    tables = report_tables(scores, owners, config, runtime.run_seed)
    figures = report_figures(tables[REPORT])
    return Made(tables, figures | ({"unread_instances": unread} if unread else {}))


def audit_privacy(
    base: Model,
    arms: Mapping[str, tuple[Lesson, Model]],
    config: PrivacyConfig,
    supervised: SupervisedConfig,
    runtime: Runtime,
) -> Made:
    """What fine-tuning gives away: attack a model of each arm that learnt one half of its rows."""
    audited = [AuditedArm.of(lesson.rows, model.row) for lesson, model in arms.values()]
    device, run_seed = runtime.device, runtime.run_seed
    audits = audit_arms(base.ref, audited, config, supervised, device, run_seed)
    sources = {arm: lesson.table for arm, (lesson, _) in arms.items()}
    owners = {
        arm: [base.as_parent("base"), model.as_parent("arm")] for arm, (_, model) in arms.items()
    }
    tables = audit_tables(audits, sources, owners)
    return Made(tables, audit_figures(tables["privacy_report"]))
