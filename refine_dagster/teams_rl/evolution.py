"""Seeds evolved by a policy: every step a row with its parent, its operation and the policy.

The row of a step names the text that it was made from, by hash, and so do the answers: an answer is
asked for the evolved instruction itself and carries that instruction's hash. (The authors' dataset
pairs evolved instructions with the outputs of the seeds that they came from.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from refine_dagster import progress
from refine_dagster.generation.request import Complete, Request, Sampling, request_seed
from refine_dagster.lineage.content import content_id
from refine_dagster.refine_af.instance_prompt import HEADER, NO_INPUT, STOP
from refine_dagster.teams_rl.chain import Chain, Evolver, Outcome
from refine_dagster.teams_rl.elimination import answer_verdict
from refine_dagster.teams_rl.episodes import Seed
from refine_dagster.teams_rl.executor import ModelExecutor
from refine_dagster.teams_rl.knobs import TeamsRLKnobs
from refine_dagster.teams_rl.operations import EPISODE_LENGTH, NAMES, one_line
from refine_dagster.teams_rl.policies import InstructorPolicy
from refine_dagster.teams_rl.reviewer import ModelReviewer


@dataclass(frozen=True)
class EvolvedStep:
    """One step of a seed's evolution.

    Attributes:
        seed_id, step: its slot; steps count from 1.
        operation: name.
        policy: version of the policy that chose it.
        parent, text: instructions before and after; the text is what came back, kept or not.
        parent_hash, text_hash: their content ids.
        rule: what eliminated it; None where it was kept.
        different: the reviewer's probability, None where no model was asked.
        outcome: how it came about, requests included.
    """

    seed_id: str
    step: int
    operation: str
    policy: str
    parent: str
    parent_hash: str
    text: str
    text_hash: str
    rule: str | None
    different: float | None
    outcome: Outcome

    @property
    def kept(self) -> bool:
        return self.rule is None


@dataclass(frozen=True)
class EvolvedAnswer:
    """The answer to an evolved instruction.

    Attributes:
        instruction_hash: content id of the instruction that was answered.
        text: the answer.
        rule: what eliminated it; None where it was kept.
        request: what was asked.
    """

    instruction_hash: str
    text: str
    rule: str | None
    request: Request


def instruction_hash(text: str) -> str:
    """The content id of an instruction's text, 32 hex digits."""
    return content_id("evolved_instruction", text)


def model_evolver(complete: Complete, knobs: TeamsRLKnobs, salt: str) -> Evolver:
    """Executor and reviewer on one model, as the knobs have them."""
    return Evolver(
        ModelExecutor(
            complete,
            salt,
            max_new_tokens=knobs.max_new_tokens,
            temperature=knobs.temperature,
            top_p=knobs.top_p,
        ),
        ModelReviewer(
            complete,
            different_below=knobs.different_below,
            threshold=knobs.review_threshold,
            calibrated=knobs.calibrate_reviewer,
        ),
        knobs.max_words,
    )


def evolve(
    seeds: Sequence[Seed],
    policy: InstructorPolicy,
    evolver: Evolver,
    *,
    length: int = EPISODE_LENGTH,
    episode: int = 0,
) -> list[EvolvedStep]:
    """Evolve every seed `length` times; all seeds in lock-step, a batch a step.

    What becomes of a seed depends on that seed alone, so an edited seed costs its own requests.

    Args:
        seeds: any number; rows come in their order within a step.
        policy: chooses each operation.
        evolver: applies and judges it.
        episode: which evolution of these seeds this is; another one has other noise.

    Returns:
        `length * len(seeds)` rows, step by step.
    """
    chains = [Chain(seed.seed_id, episode, one_line(seed.text)) for seed in seeds]
    rows: list[EvolvedStep] = []
    with progress.task("evolution", total=length) as advance:
        for _ in range(length if chains else 0):
            outcomes = evolver.step(chains, policy.choose(chains))
            rows += [_row(outcome, policy) for outcome in outcomes]
            chains = [outcome.after() for outcome in outcomes]
            advance(1, kept=sum(outcome.kept for outcome in outcomes))
    return rows


def answer(
    instructions: Sequence[str],
    complete: Complete,
    sampling: Sampling,
    salt: str,
    prompt: Callable[[str], str] | None = None,
) -> list[EvolvedAnswer]:
    """Answer evolved instructions, one request of role `respond` each, in one batch.

    Args:
        instructions: texts as they were kept.
        sampling: how an answer is decoded.
        salt: seeds its noise.
        prompt: the prompt of an instruction; None takes `answer_prompt`.
    """
    render = prompt or answer_prompt
    hashes = [instruction_hash(text) for text in instructions]
    requests = [
        Request("respond", render(text), sampling, request_seed(salt, "respond", name))
        for text, name in zip(instructions, hashes, strict=True)
    ]
    answers = []
    for name, request, done in zip(hashes, requests, complete(requests), strict=True):
        text = done.text.strip()
        verdict = answer_verdict(text, finished=done.finish_reason != "length")
        answers.append(EvolvedAnswer(name, text, verdict.rule if verdict else None, request))
    return answers


def answer_prompt(instruction: str) -> str:
    """An evolved instruction stands alone: its input is empty and its output is asked for."""
    return f"{HEADER}\n\nInstruction: {one_line(instruction)}\nInput: {NO_INPUT}\nOutput:"


def answer_sampling(max_new_tokens: int, temperature: float, top_p: float) -> Sampling:
    """How answers are decoded."""
    return Sampling(max_new_tokens, temperature, top_p, stop=STOP)


def _row(outcome: Outcome, policy: InstructorPolicy) -> EvolvedStep:
    before = outcome.before
    return EvolvedStep(
        seed_id=before.seed_id,
        step=before.step + 1,
        operation=NAMES[outcome.operation],
        policy=policy.version,
        parent=before.text,
        parent_hash=instruction_hash(before.text),
        text=outcome.text,
        text_hash=instruction_hash(outcome.text),
        rule=outcome.rule,
        different=outcome.review.probability if outcome.review else None,
        outcome=outcome,
    )
