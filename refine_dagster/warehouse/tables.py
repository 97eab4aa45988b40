"""Every table of the warehouse: its columns, their DuckDB types and meaning, and whose it is.

A table holds rows with `row_id`, the payload below, and `parents`, a list of (asset, row_id, role).
`warehouse/warehouse.py` stores each as a history table and shows its live rows as a view of the
table's name. Declaring them here, once, is what lets inserts go by name, the UI show columns and
the documentation list them.

Natural keys: what stays the same when a row is made anew, so that new and old can be compared.

A row id is a hash of everything behind the row, so a row made anew has another id. Its natural key
says which place it fills: a seed's id, a candidate's slot, an arm and a task. The old and the new
row of one key are the two versions of one thing; a key is data, declared here for every table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from refine_dagster.config.policy_round import FIRST_ROUND, PolicyRound, later_rounds, round_of

# What left the house is recorded by the command that writes files, not by an asset of the graph.
EXPORTS = "exports"
EVOLVED_TOO = ", or of `evolved_instructions`"
PARENTS_TYPE = "STRUCT(asset VARCHAR, row_id VARCHAR, role VARCHAR)[]"


@dataclass(frozen=True)
class Table:
    """A table's declaration.

    Attributes:
        name: the live view's name.
        asset: the asset that commits it.
        columns: payload column -> (DuckDB type, meaning).
        description: what one row is.
    """

    name: str
    asset: str
    columns: MappingProxyType[str, tuple[str, str]]
    description: str


def _table(
    name: str, description: str, columns: dict[str, tuple[str, str]], *, asset: str | None = None
) -> Table:
    return Table(name, asset or name, MappingProxyType(columns), description)


_TRIPLE = {
    "instruction": ("VARCHAR", "The instruction."),
    "input": ("VARCHAR", "The instance's input; empty where none is needed."),
    "output": ("VARCHAR", "The instance's output."),
}
_INSTANCE = {
    "instruction_id": ("VARCHAR", "Row of `filtered_instructions` that the instance is for."),
    **_TRIPLE,
    "method": ("VARCHAR", "What proposed the instruction: `self_instruct` or `teams_rl`."),
    "policy": ("VARCHAR", "Fingerprint of the policy that wrote the instance."),
    "completion_key": ("VARCHAR", "The completion in `store.completions`."),
    "format_valid": ("BOOLEAN", "Whether the completion passed the format gate."),
    "format_problem": ("VARCHAR", "Why it did not; null where it did."),
    "naturalness": ("DOUBLE", "Judge's probability that the text reads naturally, 0 to 1."),
    "coherence": ("DOUBLE", "Judge's probability that the output answers the task, 0 to 1."),
    "understandability": ("DOUBLE", "Judge's probability that the text is understandable, 0 to 1."),
    "reward_model": ("DOUBLE", "Bradley-Terry reward, a real number."),
    "reward": ("DOUBLE", "The parts weighed by the reward rule, after the format gate."),
    "kept": ("BOOLEAN", "Whether the instance may be learnt from."),
    "rule": ("VARCHAR", "`kept`, or the rule that rejected it."),
    "value": ("DOUBLE", "What the rule measured; null where it measures nothing."),
    "threshold": ("DOUBLE", "What the rule compared it with; null likewise."),
}
_STEPS = {
    "step": ("BIGINT", "Optimiser step, from 1."),
    "loss": ("DOUBLE", "Mean training loss at the step."),
}

_ALL = [
    _table(
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
    ),
    _table(
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
    _table(
        "base_model_steps",
        "One logged step of the offline base model's training.",
        {**_STEPS, "learning_rate": ("DOUBLE", "Learning rate at the step.")},
        asset="base_model",
    ),
    _table(
        "feedback_judge",
        "The judge whose scores are the automated feedback.",
        {
            "kind": ("VARCHAR", "`offline` or `published`."),
            "fingerprint": ("VARCHAR", "Names the judge's weights."),
            "checkpoint_hash": ("VARCHAR", "The checkpoint trained here; null for a given judge."),
            "held_out_examples": ("BIGINT", "Examples the accuracies are measured on."),
        },
    ),
    _table(
        "feedback_judge_accuracy",
        "The judge's held-out accuracy on one dimension and kind of corruption.",
        {
            "dimension": ("VARCHAR", "naturalness, coherence, understandability or reward_model."),
            "corruption": ("VARCHAR", "Kind of corruption told apart, or `all`."),
            "examples": ("BIGINT", "Examples (pairs for reward_model) measured."),
            "accuracy": (
                "DOUBLE",
                "Balanced accuracy; reward_model: share of pairs in order.",
            ),
            "chance": ("DOUBLE", "What guessing would score."),
        },
        asset="feedback_judge",
    ),
    _table(
        "feedback_judge_quality",
        "One figure of the judge's quality on primer tasks where right and wrong are known.",
        {
            "dimension": ("VARCHAR", "naturalness, coherence, understandability or reward_model."),
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
    ),
    _table(
        "feedback_judge_calibration",
        "One bin of a dimension's predicted probabilities, and what became of the texts in it.",
        {
            "dimension": ("VARCHAR", "naturalness, coherence or understandability."),
            "bin": ("BIGINT", "Tenth of the range of probabilities, from 0."),
            "examples": ("BIGINT", "Texts in the bin; bins without texts have no row."),
            "predicted": ("DOUBLE", "Mean predicted probability, good and bad texts balanced."),
            "observed": ("DOUBLE", "Share of good texts, good and bad balanced likewise."),
        },
        asset="feedback_judge",
    ),
    _table(
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
    ),
    _table(
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
    _table(
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
    ),
    _table(
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
    ),
    _table(
        "instruction_decisions",
        "The decision on one candidate: kept, or rejected by which rule.",
        {
            "candidate_id": ("VARCHAR", f"Row of `raw_instructions`{EVOLVED_TOO}."),
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
    ),
    _table(
        "filtered_instructions",
        "One accepted instruction.",
        {
            "instruction": ("VARCHAR", "The instruction."),
            "method": ("VARCHAR", "What proposed it: `self_instruct` or `teams_rl`."),
            "slot": ("VARCHAR", "Its slot."),
            "policy": ("VARCHAR", "Fingerprint of the model that proposed it."),
            "nearest_score": (
                "DOUBLE",
                "Highest ROUGE-L F with seeds and earlier accepted ones.",
            ),
        },
    ),
    _table(
        "reward_scored_instructions",
        "The base policy's instance of one accepted instruction, scored and decided on.",
        dict(_INSTANCE),
    ),
    _table(
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
    ),
    _table(
        "rl_policy_checkpoint_steps",
        "One step of the policy's training.",
        {
            "step": ("BIGINT", "Optimiser step, from 1."),
            "reward": ("DOUBLE", "Mean reward of the step's rollouts."),
            "naturalness": ("DOUBLE", "Mean naturalness of the valid rollouts."),
            "coherence": ("DOUBLE", "Mean coherence of the valid rollouts."),
            "understandability": ("DOUBLE", "Mean understandability of the valid rollouts."),
            "reward_model": ("DOUBLE", "Mean Bradley-Terry reward of the valid rollouts."),
            "format_valid": ("DOUBLE", "Share of rollouts that pass the format gate."),
            "kl": ("DOUBLE", "Mean KL estimate to the policy that it began as, nats a token."),
            "entropy": ("DOUBLE", "Mean entropy of the next-token distribution, nats."),
            "length": ("DOUBLE", "Mean completion length in tokens."),
            "diversity": ("DOUBLE", "Share of distinct bigrams among the rollouts' bigrams."),
            "loss": ("DOUBLE", "Training loss."),
        },
        asset="rl_policy_checkpoint",
    ),
]

# What every policy round has a table of -> the table of the first round. In the first round the
# policy that proposes is the base policy, so its instances and the base policy's are the same.
ROUND_TABLES: Mapping[str, str] = MappingProxyType(
    {
        "raw_instructions": "raw_instructions",
        "instruction_decisions": "instruction_decisions",
        "filtered_instructions": "filtered_instructions",
        "reward_scored_instructions": "reward_scored_instructions",
        "base_scored_instructions": "reward_scored_instructions",
        "rl_policy_checkpoint": "rl_policy_checkpoint",
        "rl_policy_checkpoint_steps": "rl_policy_checkpoint_steps",
    }
)
_LATER_DESCRIPTIONS = {
    "raw_instructions": "One candidate instruction as parsed from a completion of the policy of "
    "round {before}, or a piece that could not be.",
    "instruction_decisions": "The decision on one candidate of round {round}: kept, or rejected by "
    "which rule.",
    "filtered_instructions": "One instruction of the pool of round {round}: accepted in it, or "
    "taken over from the pool of round {before}.",
    "reward_scored_instructions": "The instance by the policy of round {before} of one instruction "
    "of the pool of round {round}, scored and decided on.",
    "base_scored_instructions": "The base policy's instance of one instruction of the pool of "
    "round {round}, scored and decided on.",
    "rl_policy_checkpoint": "The policy of round {round}, trained from that of round {before}.",
    "rl_policy_checkpoint_steps": "One step of the training of the policy of round {round}.",
}
# Columns that only later rounds' tables have -> the value that first round's rows would have.
LATER_COLUMNS: Mapping[str, Mapping[str, tuple[str, str, str]]] = MappingProxyType(
    {
        "filtered_instructions": {
            "accepted_in": ("BIGINT", "Policy round that accepted it, from 1.", "1")
        }
    }
)


def round_table(base: str, policy_round: PolicyRound) -> str:
    """The name of a round's table; `base` is one of `ROUND_TABLES`."""
    return ROUND_TABLES[base] if policy_round.is_first else policy_round.name(base)


def _later_table(base: str, policy_round: PolicyRound, declared: Mapping[str, Table]) -> Table:
    first = declared[ROUND_TABLES[base]]
    own_names = {f"`{one}`": f"`{policy_round.name(one)}`" for one in ROUND_TABLES}

    def of_round(meaning: str) -> str:
        # Seeds are evolved in the first round alone.
        meaning = meaning.replace(EVOLVED_TOO, "")
        for plain, own in own_names.items():
            meaning = meaning.replace(plain, own)
        return meaning

    columns = {name: (kind, of_round(text)) for name, (kind, text) in first.columns.items()}
    further = LATER_COLUMNS.get(base, {})
    columns |= {name: (kind, text) for name, (kind, text, _) in further.items()}
    told = _LATER_DESCRIPTIONS[base].format(
        round=policy_round.number, before=policy_round.before.number
    )
    return _table(policy_round.name(base), told, columns, asset=policy_round.name(first.asset))


_FIRST = {table.name: table for table in _ALL}
_ALL += [_later_table(base, one, _FIRST) for one in later_rounds() for base in ROUND_TABLES]
_ALL += [
    _table(
        "instruction_dataset",
        "One row of the dataset: an instruction with the refined policy's instance.",
        {
            name: _INSTANCE[name]
            for name in _INSTANCE
            if name not in ("format_valid", "format_problem", "kept", "rule", "value", "threshold")
        },
    ),
    _table(
        "instance_decisions",
        "The refined policy's instance of one accepted instruction, scored and decided on.",
        dict(_INSTANCE),
        asset="instruction_dataset",
    ),
]

_MODEL = {
    "arm": ("VARCHAR", "`seeds_only`, `self_instruct` or `refine_af`."),
    "fingerprint": ("VARCHAR", "The fine-tuned model's fingerprint (base model and adapter)."),
    "checkpoint_hash": ("VARCHAR", "The LoRA adapter's checkpoint."),
    "rows": ("BIGINT", "Training examples."),
    "steps": ("BIGINT", "Optimiser steps taken."),
    "loss_first": ("DOUBLE", "Loss at the first logged step."),
    "loss_last": ("DOUBLE", "Loss at the last logged step."),
}
_MODEL_STEPS = {"arm": _MODEL["arm"], **_STEPS}
_CONTROL = (
    "VARCHAR",
    "`none`: the audit itself; `base_model`, `bag_of_words`: controls that cannot know members; "
    "`over_fitted`: one that must.",
)

_ALL += [
    _table("fine_tuned_model", "The model fine-tuned on the dataset.", dict(_MODEL)),
    _table(
        "fine_tuned_model_steps",
        "One logged step of the fine-tuned model's training.",
        dict(_MODEL_STEPS),
        asset="fine_tuned_model",
    ),
    _table(
        "baseline_model",
        "A model fine-tuned with the same base and budget on other instances.",
        dict(_MODEL),
    ),
    _table(
        "baseline_model_steps",
        "One logged step of a baseline's training.",
        dict(_MODEL_STEPS),
        asset="baseline_model",
    ),
    _table(
        "evaluation_report",
        "One arm's score on one held-out task.",
        {
            "arm": ("VARCHAR", "`base`, `seeds_only`, `self_instruct` or `refine_af`."),
            "task": ("VARCHAR", "Name of the task file."),
            "category": ("VARCHAR", "The task's first category."),
            "instances": ("BIGINT", "Instances scored."),
            "rouge_l": ("DOUBLE", "Mean of the best ROUGE-L F over references, times 100."),
            "exact_match": ("DOUBLE", "Share of exact answers, times 100."),
        },
    ),
    _table(
        "evaluation_comparisons",
        "One arm against another over all tasks.",
        {
            "arm": ("VARCHAR", "The arm."),
            "against": ("VARCHAR", "The arm it is compared with."),
            "tasks": ("BIGINT", "Tasks compared."),
            "wins": ("BIGINT", "Tasks on which the arm scores higher."),
            "ties": ("BIGINT", "Tasks on which both score the same."),
            "losses": ("BIGINT", "Tasks on which the arm scores lower."),
            "mean_delta": ("DOUBLE", "Mean difference of ROUGE-L, points of 100."),
            "delta_low": ("DOUBLE", "2.5 % bound of its bootstrap interval over tasks."),
            "delta_high": ("DOUBLE", "97.5 % bound of its bootstrap interval over tasks."),
            "win_share": ("DOUBLE", "Wins over all tasks."),
            "win_share_low": ("DOUBLE", "2.5 % bound of its bootstrap interval over tasks."),
            "win_share_high": ("DOUBLE", "97.5 % bound of its bootstrap interval over tasks."),
        },
        asset="evaluation_report",
    ),
    _table(
        "evaluation_predictions",
        "One arm's answer to one instance of a held-out task.",
        {
            "arm": ("VARCHAR", "The arm."),
            "task": ("VARCHAR", "Name of the task file."),
            "instance": ("BIGINT", "Place of the instance in its task, from 0."),
            "prediction": ("VARCHAR", "The model's greedy answer."),
            "reference_outputs": ("VARCHAR[]", "The right answers."),
            "rouge_l": ("DOUBLE", "Best ROUGE-L F over the references, times 100."),
        },
        asset="evaluation_report",
    ),
    _table(
        "privacy_report",
        "What one attack, or a control of it, tells of what an arm was fine-tuned on.",
        {
            "arm": _MODEL["arm"],
            "control": _CONTROL,
            "attack": (
                "VARCHAR",
                "`loss`, `calibrated`, `zlib`, `min_k`, `min_k_plus_plus`; `bag_of_words` of the "
                "control of that name.",
            ),
            "members": ("BIGINT", "Examples that the audited model was trained on."),
            "others": ("BIGINT", "Examples of the same arm that were kept from it."),
            "auc": (
                "DOUBLE",
                "Probability that a member scores above a non-member; 0.5 is chance.",
            ),
            "auc_low": ("DOUBLE", "2.5 % bound of its interval."),
            "auc_high": ("DOUBLE", "97.5 % bound of its interval."),
            "advantage": ("DOUBLE", "Distance of the AUC from 0.5: the figure to compare."),
            "tpr_at_low_fpr": (
                "DOUBLE",
                "Share of members above all but 1 % of the non-members.",
            ),
            "refusal": ("VARCHAR", "Why figures are missing; null where all are there."),
        },
    ),
    _table(
        "privacy_audits",
        "One model trained for the report on a half of an arm's examples, and thrown away.",
        {
            "arm": _MODEL["arm"],
            "control": ("VARCHAR", "`none`: trained as the arm was; or `over_fitted`."),
            "members": ("BIGINT", "Examples that it was trained on."),
            "others": ("BIGINT", "Examples of the same arm that were kept from it."),
            "steps": ("BIGINT", "Optimiser steps taken; 0 where refused."),
            "loss_first": ("DOUBLE", "Loss at the first step; null where refused."),
            "loss_last": ("DOUBLE", "Loss at the last step; null where refused."),
            "refusal": ("VARCHAR", "Why none was trained; null where one was."),
        },
        asset="privacy_report",
    ),
    _table(
        "privacy_scores",
        "What every attack makes of one example of an arm; higher is more like a member.",
        {
            "arm": _MODEL["arm"],
            "instruction": ("VARCHAR", "The example's instruction."),
            "input": ("VARCHAR", "The example's input."),
            "member": ("BOOLEAN", "Whether the audited model was trained on it."),
            "loss": ("DOUBLE", "Mean log-probability of the response's tokens, nats."),
            "calibrated": ("DOUBLE", "The same, less that under the base model."),
            "zlib": ("DOUBLE", "Sum of log-probabilities over the bytes of the compressed text."),
            "min_k": ("DOUBLE", "Mean log-probability of the least likely tokens."),
            "min_k_plus_plus": (
                "DOUBLE",
                "The same of log-probabilities in standard deviations of the model's own choice.",
            ),
        },
        asset="privacy_report",
    ),
    _table(
        EXPORTS,
        "One file that the dataset was exported to, as last written.",
        {
            "path": ("VARCHAR", "The file."),
            "format": ("VARCHAR", "`alpaca`, `messages` or `parquet`."),
            "sha256": ("VARCHAR", "Hash of the file's bytes."),
            "rows": ("BIGINT", "Rows in it."),
            "data_version": ("VARCHAR", "The data version of `instruction_dataset` in it."),
        },
    ),
]

TABLES: MappingProxyType[str, Table] = MappingProxyType({table.name: table for table in _ALL})


def graph_assets(rounds: int = 1) -> tuple[str, ...]:
    """The assets of a graph of so many policy rounds that commit tables, sorted."""
    assets = {table.asset for table in TABLES.values()} - {EXPORTS}
    return tuple(sorted(asset for asset in assets if round_of(asset).number <= rounds))


def assets_beyond(rounds: int) -> tuple[str, ...]:
    """The assets of policy rounds that a graph of so many does not have, in table order."""
    later = [table.asset for table in TABLES.values() if round_of(table.asset).number > rounds]
    return tuple(dict.fromkeys(later))


def tables_of(asset: str) -> list[Table]:
    """The tables that an asset commits, its own first."""
    return sorted(
        (table for table in TABLES.values() if table.asset == asset),
        key=lambda table: table.name != asset,
    )


# Payload columns that name a row of another table: they follow that row and say nothing new.
REFERENCES = frozenset({"candidate_id", "nearest_id", "instruction_id"})


@dataclass(frozen=True)
class NaturalKey:
    """What identifies a row of one table across its versions; empty for a table of one row.

    Attributes:
        columns: payload columns, in the order in which they are shown.
        owner: (payload column with a row id, the table of that row, in whatever policy round): the
            natural key of that row comes first, because the id itself changes with every version.
    """

    columns: tuple[str, ...] = ()
    owner: tuple[str, str] | None = None


_SLOT = NaturalKey(("method", "slot"))
_INSTANCE_KEY = NaturalKey(owner=("instruction_id", "filtered_instructions"))

_KEYS = {
    "seed_tasks": NaturalKey(("seed_id",)),
    "base_model": NaturalKey(),
    "base_model_steps": NaturalKey(("step",)),
    "feedback_judge": NaturalKey(),
    "feedback_judge_accuracy": NaturalKey(("dimension", "corruption")),
    "feedback_judge_quality": NaturalKey(("dimension", "measure")),
    "feedback_judge_calibration": NaturalKey(("dimension", "bin")),
    "instructor_policy": NaturalKey(),
    "instructor_policy_steps": NaturalKey(("step",)),
    "evolved_instructions": _SLOT,
    "raw_instructions": _SLOT,
    "instruction_decisions": _SLOT,
    "filtered_instructions": _SLOT,
    "reward_scored_instructions": _INSTANCE_KEY,
    "base_scored_instructions": _INSTANCE_KEY,
    "rl_policy_checkpoint": NaturalKey(("algorithm", "preset")),
    "rl_policy_checkpoint_steps": NaturalKey(("step",)),
    "instruction_dataset": _INSTANCE_KEY,
    "instance_decisions": _INSTANCE_KEY,
    "fine_tuned_model": NaturalKey(("arm",)),
    "fine_tuned_model_steps": NaturalKey(("arm", "step")),
    "baseline_model": NaturalKey(("arm",)),
    "baseline_model_steps": NaturalKey(("arm", "step")),
    "evaluation_report": NaturalKey(("arm", "task")),
    "evaluation_comparisons": NaturalKey(("arm", "against")),
    "evaluation_predictions": NaturalKey(("arm", "task", "instance")),
    "privacy_report": NaturalKey(("arm", "control", "attack")),
    "privacy_audits": NaturalKey(("arm", "control")),
    "privacy_scores": NaturalKey(("arm", "instruction", "input")),
    "exports": NaturalKey(("path",)),
}
# A table of a later policy round has the key of its kind: slots differ from round to round.
NATURAL_KEYS: Mapping[str, NaturalKey] = MappingProxyType(
    {name: key for name, key in _KEYS.items() if name != "base_scored_instructions"}
    | {one.name(base): _KEYS[base] for one in later_rounds() for base in ROUND_TABLES}
)


def key_sql(table: str, source: str) -> tuple[str, str]:
    """SQL for the natural key of rows of a table, as text.

    Args:
        table: the rows' table.
        source: the alias that rows of `history.<table>` have in the query.

    Returns:
        The expression, and the JOIN that it needs; empty where it needs none.
    """
    key = NATURAL_KEYS[table]
    parts = [f"{source}.{column}" for column in key.columns]
    if key.owner is None:
        return (f"concat_ws(' ', {', '.join(parts)})" if parts else "''"), ""
    column, owner = key.owner
    parts = [f"coalesce(owner.key, {source}.{column})", *parts]
    named = []
    for one in (FIRST_ROUND, *later_rounds()):
        owned, join = key_sql(one.name(owner), "named")
        named.append(
            f"SELECT named.row_id, any_value({owned}) AS key "
            f"FROM history.{one.name(owner)} AS named {join} GROUP BY named.row_id"
        )
    return f"concat_ws(' ', {', '.join(parts)})", (
        f"LEFT JOIN ({' UNION ALL '.join(named)}) AS owner ON owner.row_id = {source}.{column}"
    )
