"""The tables of the seeds, the judge, the instructions and the policies."""

from __future__ import annotations

from refine_dagster.warehouse.table import MAP_TYPE, declare

# An instance follows the instruction of the pool that it is for.
POOL = ("instruction_id", "filtered_instructions")

_EXAMPLE = {
    "instruction": ("VARCHAR", "The instruction."),
    "input": ("VARCHAR", "The instance's input; empty where none is needed."),
    "output": ("VARCHAR", "The instance's output."),
}
INSTANCE = {
    "instruction_id": ("VARCHAR", "Row of `filtered_instructions` that the instance is for."),
    **_EXAMPLE,
    "method": ("VARCHAR", "What proposed the instruction: `self_instruct` or `teams_rl`."),
    "policy": ("VARCHAR", "Fingerprint of the policy that wrote the instance."),
    "completion_key": ("VARCHAR", "The completion in `store.completions`."),
    "format_valid": ("BOOLEAN", "Whether the completion passed the format gate."),
    "format_problem": ("VARCHAR", "Why it did not; null where it did."),
    "parts": (MAP_TYPE, "Reward part -> score; null where the format gate refused it."),
    "reward": ("DOUBLE", "The parts weighed by the reward rule, after the format gate."),
    "kept": ("BOOLEAN", "Whether the instance may be learnt from."),
    "rule": ("VARCHAR", "`kept`, or the rule that rejected it."),
    "value": ("DOUBLE", "What the rule measured; null where it measures nothing."),
    "threshold": ("DOUBLE", "What the rule compared it with; null likewise."),
}
STEPS = {
    "step": ("BIGINT", "Optimiser step, from 1."),
    "loss": ("DOUBLE", "Mean training loss at the step."),
}

PIPELINE_TABLES = (
    declare(
        "seed_tasks",
        "One seed task, white space normalised.",
        {
            "seed_id": ("VARCHAR", "The id given in the seed file."),
            "name": ("VARCHAR", "Short name given in the seed file."),
            "instruction": ("VARCHAR", "The instruction."),
            "input": ("VARCHAR", "Input of the first instance; empty where none is needed."),
            "output": ("VARCHAR", "Output of the first instance."),
            "instances": (
                "STRUCT(input VARCHAR, output VARCHAR)[]",
                "All instances, in file order.",
            ),
            "is_classification": (
                "BOOLEAN",
                "Whether the output is a label.",
            ),
        },
        key=("seed_id",),
    ),
    declare(
        "base_model",
        "The language model that everything starts from.",
        {
            "model": ("VARCHAR", "`offline`, a Hugging Face id, or a path."),
            "revision": ("VARCHAR", "Commit of a Hugging Face id; null otherwise."),
            "fingerprint": ("VARCHAR", "sha256 over config, weights and tokenizer files."),
            "parameters": ("BIGINT", "Number of weights."),
            "vocab_size": ("BIGINT", "Entries of the tokenizer."),
            "context_length": ("BIGINT", "Longest sequence in tokens."),
            "checkpoint_hash": ("VARCHAR", "The checkpoint trained here; null for a given model."),
        },
    ),
    declare(
        "base_model_steps",
        "One logged step of the offline base model's training.",
        {**STEPS, "learning_rate": ("DOUBLE", "Learning rate at the step.")},
        asset="base_model",
        key=("step",),
    ),
    declare(
        "feedback_judge",
        "The judge whose scores are the automated feedback.",
        {
            "kind": ("VARCHAR", "`offline` or `published`."),
            "fingerprint": ("VARCHAR", "Names the judge's weights."),
            "checkpoint_hash": ("VARCHAR", "The checkpoint trained here; null for a given judge."),
            "held_out_examples": ("BIGINT", "Examples the accuracies are measured on."),
        },
    ),
    declare(
        "feedback_judge_accuracy",
        "The judge's held-out accuracy on one dimension and kind of corruption.",
        {
            "dimension": ("VARCHAR", "The reward part."),
            "corruption": ("VARCHAR", "Kind of corruption that is recognised, or `all`."),
            "examples": ("BIGINT", "Examples measured; pairs if the part is no probability."),
            "accuracy": (
                "DOUBLE",
                "Balanced accuracy; share of pairs in order if the part is no probability.",
            ),
            "chance": ("DOUBLE", "What guessing would score."),
        },
        asset="feedback_judge",
        key=("dimension", "corruption"),
    ),
    declare(
        "feedback_judge_quality",
        "One figure of the judge's quality on primer tasks where right and wrong are known.",
        {
            "dimension": ("VARCHAR", "The reward part."),
            "measure": (
                "VARCHAR",
                "`auc` (the part at its own word), `auc_correctness` (right against wrong answers "
                "of the same kind), each with `_low` and `_high` of its 95 % interval; `ece`, the "
                "expected calibration error; `spearman_<part>`, rank correlation with that part.",
            ),
            "examples": ("BIGINT", "Texts measured on."),
            "value": ("DOUBLE", "The figure."),
        },
        asset="feedback_judge",
        key=("dimension", "measure"),
    ),
    declare(
        "feedback_judge_calibration",
        "One bin of a dimension's predicted probabilities, and what became of the texts in it.",
        {
            "dimension": ("VARCHAR", "The reward part, a probability."),
            "bin": ("BIGINT", "Tenth of the range of probabilities, from 0."),
            "examples": ("BIGINT", "Texts in the bin; bins without texts have no row."),
            "predicted": ("DOUBLE", "Mean predicted probability, good and bad texts balanced."),
            "observed": ("DOUBLE", "Share of good texts, good and bad balanced likewise."),
        },
        asset="feedback_judge",
        key=("dimension", "bin"),
    ),
    declare(
        "raw_instructions",
        "One candidate instruction as parsed from a completion, or a piece that could not be.",
        {
            "method": ("VARCHAR", "`self_instruct` or `teams_rl`."),
            "slot": (
                "VARCHAR",
                "round/request/position, zero-padded: the order of decisions. Slots of a later "
                "policy round n begin with `rn/`.",
            ),
            "round": ("BIGINT", "Round of the loop, from 0."),
            "request": ("BIGINT", "Request of the round, from 0."),
            "position": ("BIGINT", "Place in the completion, from 0."),
            "instruction": ("VARCHAR", "The text of the candidate."),
            "parsed": ("BOOLEAN", "Whether the piece could be read as a candidate."),
            "parse_problem": ("VARCHAR", "Why it could not; null where it could."),
            "completion_key": ("VARCHAR", "The completion in `store.completions`."),
            "policy": ("VARCHAR", "Fingerprint of the model that wrote it."),
        },
        key=("method", "slot"),
        rounds_from=1,
    ),
    declare(
        "instructor_policy",
        "The policy that chooses the operations by which TeaMs-RL evolves a seed.",
        {
            "algorithm": ("VARCHAR", "`ppo`, `trpo`; untrained: `random`, `round_robin`, `fixed`."),
            "version": ("VARCHAR", "The policy's content, which evolved rows name."),
            "checkpoint_hash": ("VARCHAR", "Its checkpoint; null for one that learns nothing."),
            "observation": ("VARCHAR", "What it sees: `paper` or `rich`."),
            "reward": ("VARCHAR", "What it was paid by: `paper` or `novelty`."),
            "seeds": ("BIGINT", "Seeds that it was trained on."),
            "updates": ("BIGINT", "Updates taken."),
            "rewrite_calls": ("BIGINT", "Rewrites asked for in training."),
            "review_calls": ("BIGINT", "Reviews asked for in training."),
            "ended_by": ("VARCHAR", "`updates`, or what the collapse guard saw; null: untrained."),
        },
    ),
    declare(
        "instructor_policy_steps",
        "One update of the instructor's training.",
        {
            "step": ("BIGINT", "Update, from 1."),
            "operations": ("BIGINT", "Operations applied so far, the random policy's left out."),
            "reward": ("DOUBLE", "Mean reward of the update's operations."),
            "valid_rate": ("DOUBLE", "Share of its rewrites that were kept."),
            "diversity": ("DOUBLE", "Vendi score of those."),
            "random_diversity": ("DOUBLE", "The same of a random policy, as many operations."),
            "operation_entropy": ("DOUBLE", "Entropy of the chosen operations, nats."),
            "calls": ("BIGINT", "Rewrites and reviews asked for so far, the random policy's too."),
            "warning": ("VARCHAR", "What the collapse guard saw; null where all is well."),
        },
        asset="instructor_policy",
        key=("step",),
    ),
    declare(
        "evolved_instructions",
        "What one operation of the instructor made of a seed, or of what was made of it before.",
        {
            "method": ("VARCHAR", "`teams_rl`."),
            "slot": ("VARCHAR", "evolved/round/seed id: the order of decisions."),
            "round": ("BIGINT", "Place of the operation in the seed's evolution, from 1."),
            "seed_id": ("VARCHAR", "The seed that the evolution began at."),
            "operation": ("VARCHAR", "The operation that the instructor chose."),
            "parent_instruction": ("VARCHAR", "What it was applied to."),
            "instruction": ("VARCHAR", "What came of it."),
            "valid": ("BOOLEAN", "Whether it was kept, and so evolved further."),
            "rule": ("VARCHAR", "`kept`, or the rule that eliminated it."),
            "value": ("DOUBLE", "What the rule measured; null where it measures nothing."),
            "threshold": ("DOUBLE", "What the rule compared it with; null likewise."),
            "different": ("DOUBLE", "Reviewer's probability that it differs; null: not asked."),
            "completion_key": ("VARCHAR", "The rewrite in `store.completions`."),
            "review_keys": ("VARCHAR[]", "The reviewer's answers there; empty: not asked."),
            "policy": ("VARCHAR", "Fingerprint of the model that wrote it."),
            "instructor": ("VARCHAR", "Version of the policy that chose the operation."),
        },
        key=("method", "slot"),
    ),
    declare(
        "instruction_decisions",
        "The decision on one candidate: kept, or rejected by which rule.",
        {
            "candidate_id": ("VARCHAR", "Row of `raw_instructions` or of `evolved_instructions`."),
            "method": ("VARCHAR", "`self_instruct` or `teams_rl`."),
            "slot": ("VARCHAR", "The candidate's slot."),
            "round": ("BIGINT", "The candidate's round."),
            "instruction": ("VARCHAR", "The candidate's text."),
            "kept": ("BOOLEAN", "Whether it joined the pool."),
            "rule": ("VARCHAR", "`kept`, `unparsed`, or the rule that rejected it."),
            "value": ("DOUBLE", "What the rule measured; null where it measures nothing."),
            "threshold": ("DOUBLE", "What the rule compared it with; null likewise."),
            "nearest_asset": ("VARCHAR", "Where the nearest text of the pool lives."),
            "nearest_id": ("VARCHAR", "Its row."),
            "nearest_score": ("DOUBLE", "ROUGE-L F with it."),
        },
        key=("method", "slot"),
        rounds_from=1,
    ),
    declare(
        "filtered_instructions",
        "One instruction of a round's pool: accepted in it, or taken over from the pool before.",
        {
            "instruction": ("VARCHAR", "The instruction."),
            "method": ("VARCHAR", "What proposed it: `self_instruct` or `teams_rl`."),
            "slot": ("VARCHAR", "Its slot."),
            "policy": ("VARCHAR", "Fingerprint of the model that proposed it."),
            "nearest_score": (
                "DOUBLE",
                "Highest ROUGE-L F with seeds and earlier accepted ones.",
            ),
            "accepted_in": (
                "BIGINT",
                "Policy round that accepted it; null in the pool of the first round.",
            ),
        },
        key=("policy_round", "method", "slot"),
        rounds_from=1,
        optional=("accepted_in",),
    ),
    declare(
        "reward_scored_instructions",
        "The instance of one instruction of a round's pool by the policy that the round begins "
        "with, scored and decided on.",
        INSTANCE,
        key=("policy_round",),
        owner=POOL,
        rounds_from=1,
    ),
    declare(
        "base_scored_instructions",
        "The base policy's instance of one instruction of a later round's pool, scored and decided "
        "on. In the first round it is the policy of `reward_scored_instructions`.",
        INSTANCE,
        asset="reward_scored_instructions",
        key=("policy_round",),
        owner=POOL,
        rounds_from=2,
    ),
    declare(
        "rl_policy_checkpoint",
        "One policy trained by reinforcement learning from automated feedback.",
        {
            "policy": ("VARCHAR", "The policy's fingerprint (base model and adapters)."),
            "algorithm": ("VARCHAR", "`grpo`, `rloo` or `ppo`."),
            "preset": ("VARCHAR", "The reward rule's name."),
            "checkpoint_hash": ("VARCHAR", "The LoRA adapter's checkpoint."),
            "steps": ("BIGINT", "Optimiser steps taken."),
            "held_out_prompts": ("BIGINT", "Instructions kept from training to measure the gain."),
            "reward_before": ("DOUBLE", "Mean held-out reward of the policy that it began as."),
            "reward_after": ("DOUBLE", "Mean held-out reward of this policy."),
            "gain": ("DOUBLE", "Mean paired difference."),
            "gain_low": ("DOUBLE", "2.5 % bound of the gain's bootstrap interval."),
            "gain_high": ("DOUBLE", "97.5 % bound of the gain's bootstrap interval."),
        },
        key=("policy_round", "algorithm", "preset"),
        rounds_from=1,
    ),
    declare(
        "rl_policy_checkpoint_steps",
        "One step of the policy's training.",
        {
            "step": ("BIGINT", "Optimiser step, from 1."),
            "reward": ("DOUBLE", "Mean reward of the step's rollouts."),
            "parts": (MAP_TYPE, "Reward part -> mean over the valid rollouts; null if none is."),
            "format_valid": ("DOUBLE", "Share of rollouts that pass the format gate."),
            "kl": ("DOUBLE", "Mean KL estimate to the policy that it began as, nats a token."),
            "entropy": ("DOUBLE", "Mean entropy of the next-token distribution, nats."),
            "length": ("DOUBLE", "Mean completion length in tokens."),
            "diversity": ("DOUBLE", "Share of distinct bigrams among the rollouts' bigrams."),
            "loss": ("DOUBLE", "Training loss."),
        },
        asset="rl_policy_checkpoint",
        key=("policy_round", "step"),
        rounds_from=1,
    ),
)
