-- The policies' training step by step, with a running mean of the reward over five steps.
SELECT
    row_id,                                            -- The row's id. #unique #not_null
    policy_round,                                      -- Policy round, from 1. #not_null
    step,                                              -- Optimiser step of the round, from 1. #not_null
    reward,
    round(avg(reward) OVER (PARTITION BY policy_round ORDER BY step ROWS BETWEEN 4 PRECEDING AND CURRENT ROW), 6)
        AS reward_smooth,                              -- Mean reward of this step and the four before.
    parts,
    format_valid,
    kl,
    entropy,
    length,
    diversity,
    loss
FROM main.rl_policy_checkpoint_steps
