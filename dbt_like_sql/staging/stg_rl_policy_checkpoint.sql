-- The policies trained by reinforcement learning, with whether their held-out gain is clear of chance.
SELECT
    row_id,                                            -- The row's id. #unique #not_null
    policy,                                            -- The policy's fingerprint. #unique #not_null
    policy_round,                                      -- Policy round that trained it, from 1. #unique #not_null
    algorithm,
    preset,
    checkpoint_hash,
    steps,
    held_out_prompts,
    reward_before,
    reward_after,
    gain,
    gain_low,
    gain_high,
    gain_low > 0 AS gain_is_clear                      -- Whether the gain's whole interval lies above 0.
FROM main.rl_policy_checkpoint
