"""The declarations of all tables, in pipeline order: a paragraph each.

The first line has the table's name and what one row is. Then come options, which are fields of
`tables.Table`, and the columns: name, DuckDB type, meaning. `like` takes the columns of a table
above. A line that is indented by eight spaces goes on with the one before it.
"""

from __future__ import annotations

DECLARATIONS = """
seed_tasks: One seed task, white space normalised.
    key: seed_id
    label: seed_id || ': ' || instruction
    seed_id VARCHAR: The id given in the seed file.
    name VARCHAR: Short name given in the seed file.
    instruction VARCHAR: The instruction.
    input VARCHAR: Input of the first instance; empty where none is needed.
    output VARCHAR: Output of the first instance.
    instances STRUCT(input VARCHAR, output VARCHAR)[]: All instances, in file order.
    is_classification BOOLEAN: Whether the output is a label.

base_model: The language model that everything starts from.
    label: model || ', ' || left(fingerprint, 12)
    model VARCHAR: `offline`, a Hugging Face id, or a path.
    revision VARCHAR: Commit of a Hugging Face id; null otherwise.
    fingerprint VARCHAR: sha256 over config, weights and tokenizer files.
    parameters BIGINT: Number of weights.
    vocab_size BIGINT: Entries of the tokenizer.
    context_length BIGINT: Longest sequence in tokens.
    checkpoint_hash VARCHAR: The checkpoint trained here; null for a given model.

base_model_steps: One logged step of the offline base model's training.
    asset: base_model
    key: step
    step BIGINT: Optimiser step, from 1.
    loss DOUBLE: Mean training loss at the step.
    learning_rate DOUBLE: Learning rate at the step.

feedback_judge: The judge whose scores are the automated feedback.
    label: kind || ', ' || left(fingerprint, 12)
    kind VARCHAR: `offline` or `published`.
    fingerprint VARCHAR: Names the judge's weights.
    checkpoint_hash VARCHAR: The checkpoint trained here; null for a given judge.
    held_out_examples BIGINT: Examples the accuracies are measured on.

feedback_judge_accuracy: The judge's held-out accuracy on one dimension and kind of corruption.
    asset: feedback_judge
    key: dimension corruption
    label: dimension || ', ' || corruption
    dimension VARCHAR: The reward part.
    corruption VARCHAR: Kind of corruption that is recognised, or `all`.
    examples BIGINT: Examples measured; pairs if the part is no probability.
    accuracy DOUBLE: Balanced accuracy; share of pairs in order if the part is no probability.
    chance DOUBLE: What guessing would score.

feedback_judge_quality: One figure of the judge's quality on primer tasks where right and wrong are
        known.
    asset: feedback_judge
    key: dimension measure
    label: dimension || ', ' || measure
    dimension VARCHAR: The reward part.
    measure VARCHAR: `auc` (the part at its own word), `auc_correctness` (right against wrong
        answers of the same kind), each with `_low` and `_high` of its 95 % interval; `ece`, the
        expected calibration error; `spearman_<part>`, rank correlation with that part.
    examples BIGINT: Texts measured on.
    value DOUBLE: The figure.

feedback_judge_calibration: One bin of a dimension's predicted probabilities, and what became of the
        texts in it.
    asset: feedback_judge
    key: dimension bin
    label: dimension || ', bin ' || bin
    dimension VARCHAR: The reward part, a probability.
    bin BIGINT: Tenth of the range of probabilities, from 0.
    examples BIGINT: Texts in the bin; bins without texts have no row.
    predicted DOUBLE: Mean predicted probability, good and bad texts balanced.
    observed DOUBLE: Share of good texts, good and bad balanced likewise.

raw_instructions: One candidate instruction of a completion, whether it could be parsed or not.
    key: method slot
    rounds_from: 1
    calls_model: true
    method VARCHAR: `self_instruct` or `teams_rl`.
    slot VARCHAR: round/request/position, zero-padded: the order of decisions. Slots of a later
        policy round n begin with `rn/`.
    round BIGINT: Round of the loop, from 0.
    request BIGINT: Request of the round, from 0.
    position BIGINT: Place in the completion, from 0.
    instruction VARCHAR: The text of the candidate.
    parsed BOOLEAN: Whether it could be parsed.
    parse_problem VARCHAR: Why it could not; null where it could.
    completion_key VARCHAR: The completion in `store.completions`.
    policy VARCHAR: Fingerprint of the model that wrote it.

instructor_policy: The policy that chooses the operations by which TeaMs-RL evolves a seed.
    label: algorithm || ', ' || left(version, 12)
    calls_model: true
    algorithm VARCHAR: `ppo`, `trpo`; untrained: `random`, `round_robin`, `fixed`.
    version VARCHAR: The policy's content, which evolved rows name.
    checkpoint_hash VARCHAR: Its checkpoint; null for one that learns nothing.
    observation VARCHAR: What it sees: `paper` or `rich`.
    reward VARCHAR: What it was paid by: `paper` or `novelty`.
    seeds BIGINT: Seeds that it was trained on.
    updates BIGINT: Updates taken.
    rewrite_calls BIGINT: Rewrites asked for in training.
    review_calls BIGINT: Reviews asked for in training.
    ended_by VARCHAR: `updates`, or what the collapse guard saw; null: untrained.

instructor_policy_steps: One update of the instructor's training.
    asset: instructor_policy
    key: step
    step BIGINT: Update, from 1.
    operations BIGINT: Operations applied so far, the random policy's left out.
    reward DOUBLE: Mean reward of the update's operations.
    valid_rate DOUBLE: Share of its rewrites that were kept.
    diversity DOUBLE: Vendi score of those.
    random_diversity DOUBLE: The same of a random policy, as many operations.
    operation_entropy DOUBLE: Entropy of the chosen operations, nats.
    calls BIGINT: Rewrites and reviews asked for so far, the random policy's too.
    warning VARCHAR: What the collapse guard saw; null where all is well.

evolved_instructions: What one operation of the instructor made of a seed, or of what was made of it
        before.
    key: method slot
    label: operation || ', ' || rule || ': ' || instruction
    calls_model: true
    method VARCHAR: `teams_rl`.
    slot VARCHAR: evolved/round/seed id: the order of decisions.
    round BIGINT: Place of the operation in the seed's evolution, from 1.
    seed_id VARCHAR: The seed that the evolution began at.
    operation VARCHAR: The operation that the instructor chose.
    parent_instruction VARCHAR: What it was applied to.
    instruction VARCHAR: What came of it.
    valid BOOLEAN: Whether it was kept, and so evolved further.
    rule VARCHAR: `kept`, or the rule that eliminated it.
    value DOUBLE: What the rule measured; null where it measures nothing.
    threshold DOUBLE: What the rule compared it with; null likewise.
    different DOUBLE: Reviewer's probability that it differs; null: not asked.
    completion_key VARCHAR: The rewrite in `store.completions`.
    review_keys VARCHAR[]: The reviewer's answers there; empty: not asked.
    policy VARCHAR: Fingerprint of the model that wrote it.
    instructor VARCHAR: Version of the policy that chose the operation.

instruction_decisions: The decision on one candidate: kept, or rejected by which rule.
    key: method slot
    rounds_from: 1
    optional: tokenizer
    label: rule || ': ' || instruction
    candidate_id VARCHAR: Row of `raw_instructions` or of `evolved_instructions`.
    method VARCHAR: `self_instruct` or `teams_rl`.
    slot VARCHAR: The candidate's slot.
    round BIGINT: The candidate's round.
    instruction VARCHAR: The candidate's text.
    kept BOOLEAN: Whether it joined the pool.
    rule VARCHAR: `kept`, `unparsed`, or the rule that rejected it.
    value DOUBLE: What the rule measured; null where it measures nothing.
    threshold DOUBLE: What the rule compared it with; null likewise.
    nearest_asset VARCHAR: Where the nearest text of the pool lives.
    nearest_id VARCHAR: Its row.
    nearest_score DOUBLE: ROUGE-L F with it.
    tokenizer VARCHAR: `unicode` where ROUGE-L was of its tokens; null: of those of `rouge_score`.

filtered_instructions: One instruction of a round's pool: accepted in it, or taken over from the
        pool before.
    key: policy_round method slot
    rounds_from: 1
    optional: accepted_in
    instruction VARCHAR: The instruction.
    method VARCHAR: What proposed it: `self_instruct` or `teams_rl`.
    slot VARCHAR: Its slot.
    policy VARCHAR: Fingerprint of the model that proposed it.
    nearest_score DOUBLE: Highest ROUGE-L F with seeds and earlier accepted ones.
    accepted_in BIGINT: Policy round that accepted it; null in the pool of the first round.

policy_start: The base model after a short fine-tuning on the seeds, where the policy starts so.
    label: steps || ' steps, ' || left(fingerprint, 12)
    fingerprint VARCHAR: The started policy's fingerprint (base model and adapter).
    checkpoint_hash VARCHAR: The LoRA adapter's checkpoint.
    rows BIGINT: Seeds learnt from; longer ones than `supervised.max_tokens` are left out.
    steps BIGINT: Optimiser steps taken.
    loss_first DOUBLE: Loss at the first logged step.
    loss_last DOUBLE: Loss at the last logged step.

policy_start_steps: One logged step of the start's training.
    asset: policy_start
    key: step
    step BIGINT: Optimiser step, from 1.
    loss DOUBLE: Mean training loss at the step.

reward_scored_instructions: The instance of one instruction of a round's pool by the policy that the
        round begins with, scored and decided on.
    owner: instruction_id filtered_instructions
    key: policy_round
    rounds_from: 1
    label: rule || ': ' || instruction
    calls_model: true
    instruction_id VARCHAR: Row of `filtered_instructions` that the instance is for.
    instruction VARCHAR: The instruction.
    input VARCHAR: The instance's input; empty where none is needed.
    output VARCHAR: The instance's output.
    method VARCHAR: What proposed the instruction: `self_instruct` or `teams_rl`.
    policy VARCHAR: Fingerprint of the policy that wrote the instance.
    completion_key VARCHAR: The completion in `store.completions`.
    format_valid BOOLEAN: Whether the completion passed the format gate.
    format_problem VARCHAR: Why it did not; null where it did.
    parts MAP(VARCHAR, DOUBLE): Reward part -> score; null where the format gate refused it.
    reward DOUBLE: The parts weighed by the reward rule, after the format gate.
    kept BOOLEAN: Whether the instance may be learnt from.
    rule VARCHAR: `kept`, or the rule that rejected it.
    value DOUBLE: What the rule measured; null where it measures nothing.
    threshold DOUBLE: What the rule compared it with; null likewise.

base_scored_instructions: The base policy's instance of one instruction of a later round's pool,
        scored and decided on. In the first round it is the policy of `reward_scored_instructions`.
    asset: reward_scored_instructions
    owner: instruction_id filtered_instructions
    key: policy_round
    rounds_from: 2
    label: rule || ': ' || instruction
    like: reward_scored_instructions

rl_policy_checkpoint: One policy trained by reinforcement learning from automated feedback.
    key: policy_round algorithm preset
    rounds_from: 1
    label: algorithm || ', ' || preset || ', ' || left(policy, 12)
    calls_model: true
    policy VARCHAR: The policy's fingerprint (base model and adapters).
    algorithm VARCHAR: `grpo`, `rloo`, `ppo` or `dpo`.
    preset VARCHAR: The reward rule's name.
    checkpoint_hash VARCHAR: The LoRA adapter's checkpoint.
    steps BIGINT: Optimiser steps taken.
    held_out_prompts BIGINT: Instructions kept from training to measure the gain.
    reward_before DOUBLE: Mean held-out reward of the policy that it began as.
    reward_after DOUBLE: Mean held-out reward of this policy.
    gain DOUBLE: Mean paired difference.
    gain_low DOUBLE: 2.5 % bound of the gain's bootstrap interval.
    gain_high DOUBLE: 97.5 % bound of the gain's bootstrap interval.

rl_policy_checkpoint_steps: One step of the policy's training.
    asset: rl_policy_checkpoint
    key: policy_round step
    rounds_from: 1
    step BIGINT: Optimiser step, from 1.
    reward DOUBLE: Mean reward of the step's rollouts.
    parts MAP(VARCHAR, DOUBLE): Reward part -> mean over the valid rollouts; null if none is.
    format_valid DOUBLE: Share of rollouts that pass the format gate.
    kl DOUBLE: Mean KL estimate to the policy that it began as, nats a token.
    entropy DOUBLE: Mean entropy of the next-token distribution, nats.
    length DOUBLE: Mean completion length in tokens.
    diversity DOUBLE: Share of distinct bigrams among the rollouts' bigrams.
    loss DOUBLE: Training loss.

rl_policy_checkpoint_pairs: Two completions of one instruction's prompt, from which the policy
        learned to prefer the chosen one; only of the algorithm `dpo`.
    asset: rl_policy_checkpoint
    owner: instruction_id filtered_instructions
    key: policy_round
    rounds_from: 1
    sparse: true
    instruction_id VARCHAR: The instruction's row in `filtered_instructions`.
    instruction VARCHAR: The instruction.
    chosen VARCHAR: The completion with more reward.
    rejected VARCHAR: The completion with less.
    chosen_reward DOUBLE: Reward of the chosen one.
    rejected_reward DOUBLE: Reward of the rejected one.

instruction_dataset: One row of the dataset: an instruction with the refined policy's instance.
    owner: instruction_id filtered_instructions
    calls_model: true
    like: reward_scored_instructions without format_valid format_problem kept rule value threshold

instance_decisions: The refined policy's instance of one accepted instruction, scored and decided
        on.
    asset: instruction_dataset
    owner: instruction_id filtered_instructions
    label: rule || ': ' || instruction
    like: reward_scored_instructions

fine_tuned_model: The model fine-tuned on the dataset.
    key: arm
    label: arm || ', ' || left(fingerprint, 12)
    arm VARCHAR: `seeds_only`, `self_instruct` or `refine_af`.
    fingerprint VARCHAR: The fine-tuned model's fingerprint (base model and adapter).
    checkpoint_hash VARCHAR: The LoRA adapter's checkpoint.
    rows BIGINT: Training examples.
    steps BIGINT: Optimiser steps taken.
    loss_first DOUBLE: Loss at the first logged step.
    loss_last DOUBLE: Loss at the last logged step.

fine_tuned_model_steps: One logged step of the fine-tuned model's training.
    asset: fine_tuned_model
    key: arm step
    arm VARCHAR: `seeds_only`, `self_instruct` or `refine_af`.
    step BIGINT: Optimiser step, from 1.
    loss DOUBLE: Mean training loss at the step.

baseline_model: A model fine-tuned with the same base and budget on other instances.
    key: arm
    label: arm || ', ' || left(fingerprint, 12)
    like: fine_tuned_model

baseline_model_steps: One logged step of a baseline's training.
    asset: baseline_model
    key: arm step
    like: fine_tuned_model_steps

evaluation_report: One arm's score on one held-out task.
    key: arm task
    label: arm || ' on ' || task
    calls_model: true
    arm VARCHAR: `base`, `seeds_only`, `self_instruct` or `refine_af`.
    task VARCHAR: Name of the task file.
    category VARCHAR: The task's first category.
    instances BIGINT: Instances scored.
    rouge_l DOUBLE: Mean of the best ROUGE-L F over references, times 100.
    exact_match DOUBLE: Share of exact answers, times 100.

evaluation_comparisons: One arm against another over all tasks.
    asset: evaluation_report
    key: arm against
    label: arm || ' against ' || against
    arm VARCHAR: The arm.
    against VARCHAR: The arm it is compared with.
    tasks BIGINT: Tasks compared.
    wins BIGINT: Tasks on which the arm scores higher.
    ties BIGINT: Tasks on which both score the same.
    losses BIGINT: Tasks on which the arm scores lower.
    mean_delta DOUBLE: Mean difference of ROUGE-L, points of 100.
    delta_low DOUBLE: 2.5 % bound of its bootstrap interval over tasks.
    delta_high DOUBLE: 97.5 % bound of its bootstrap interval over tasks.
    win_share DOUBLE: Wins over all tasks.
    win_share_low DOUBLE: 2.5 % bound of its bootstrap interval over tasks.
    win_share_high DOUBLE: 97.5 % bound of its bootstrap interval over tasks.

evaluation_predictions: One arm's answer to one instance of a held-out task.
    asset: evaluation_report
    key: arm task instance
    label: arm || ' on ' || task || ', instance ' || instance
    arm VARCHAR: The arm.
    task VARCHAR: Name of the task file.
    instance BIGINT: Place of the instance in its task, from 0.
    prediction VARCHAR: The model's greedy answer.
    reference_outputs VARCHAR[]: The right answers.
    rouge_l DOUBLE: Best ROUGE-L F over the references, times 100.

privacy_report: How well one attack, or a control, tells what an arm was fine-tuned on.
    key: arm control attack
    label: arm || ', ' || control || ', ' || attack
    arm VARCHAR: `seeds_only`, `self_instruct` or `refine_af`.
    control VARCHAR: `none`: the audit itself; `base_model`, `bag_of_words`: controls that cannot
        know members; `over_fitted`: one that must.
    attack VARCHAR: `loss`, `calibrated`, `zlib`, `min_k`, `min_k_plus_plus`; `bag_of_words` of the
        control of that name.
    members BIGINT: Examples that the audited model was trained on.
    others BIGINT: Examples of the same arm that were kept from it.
    auc DOUBLE: Probability that a member scores above a non-member; 0.5 is chance.
    auc_low DOUBLE: 2.5 % bound of its interval.
    auc_high DOUBLE: 97.5 % bound of its interval.
    advantage DOUBLE: Distance of the AUC from 0.5: the figure to compare.
    tpr_at_low_fpr DOUBLE: Share of members above all but 1 % of the non-members.
    refusal VARCHAR: Why figures are missing; null where all are there.

privacy_audits: One model trained for the report on a half of an arm's examples, and thrown away.
    asset: privacy_report
    key: arm control
    label: arm || ', ' || control
    arm VARCHAR: `seeds_only`, `self_instruct` or `refine_af`.
    control VARCHAR: `none`: trained as the arm was; or `over_fitted`.
    members BIGINT: Examples that it was trained on.
    others BIGINT: Examples of the same arm that were kept from it.
    steps BIGINT: Optimiser steps taken; 0 where refused.
    loss_first DOUBLE: Loss at the first step; null where refused.
    loss_last DOUBLE: Loss at the last step; null where refused.
    refusal VARCHAR: Why none was trained; null where one was.

privacy_scores: What every attack makes of one example of an arm; higher is more like a member.
    asset: privacy_report
    key: arm instruction input
    label: arm || ': ' || instruction
    arm VARCHAR: `seeds_only`, `self_instruct` or `refine_af`.
    instruction VARCHAR: The example's instruction.
    input VARCHAR: The example's input.
    member BOOLEAN: Whether the audited model was trained on it.
    loss DOUBLE: Mean log-probability of the response's tokens, nats.
    calibrated DOUBLE: The same, less that under the base model.
    zlib DOUBLE: Sum of log-probabilities over the bytes of the compressed text.
    min_k DOUBLE: Mean log-probability of the least likely tokens.
    min_k_plus_plus DOUBLE: The same of log-probabilities in standard deviations of the model's own
        choice.

exports: One file or folder that the dataset was exported to, as last written.
    key: path
    label: format || ': ' || path
    path VARCHAR: The file or folder.
    format VARCHAR: The layout: `alpaca`, `messages`, `parquet`, ...
    sha256 VARCHAR: Hash of the file's bytes; of a folder, of its `SHA256SUMS`.
    rows BIGINT: Rows in it.
    data_version VARCHAR: The data version of `instruction_dataset` in it.
"""
