-- How each policy's instances were rewarded: the base policy's beside the refined policy's, on the
-- same accepted instructions; of several policy rounds, the base policy's and the former policy's on
-- each round's pool, the refined policy's on the last. Means of the parts are over the instances that passed the format gate;
-- the mean reward is over all of them.
WITH instances AS (
    SELECT
        'base policy' AS stage, policy_round, policy, format_valid, kept, reward,
        naturalness, coherence, understandability, reward_model
    FROM staging.stg_base_scored_instructions
    UNION ALL
    SELECT
        'former policy', policy_round, policy, format_valid, kept, reward,
        naturalness, coherence, understandability, reward_model
    FROM staging.stg_reward_scored_instructions
    WHERE policy_round > 1
    UNION ALL
    SELECT
        'refined policy', (SELECT max(policy_round) FROM staging.stg_filtered_instructions),
        policy, format_valid, kept, reward,
        naturalness, coherence, understandability, reward_model
    FROM staging.stg_instance_decisions
)
SELECT
    i.stage,                                           -- `base policy`, `former policy` or `refined policy`. #not_null
    i.policy_round,                                    -- Policy round whose pool the instances are for, from 1. #not_null
    i.policy,                                          -- The policy's fingerprint. #not_null
    coalesce(any_value(p.algorithm), 'none') AS algorithm,  -- How it was trained; `none` for the base policy.
    count(*) AS rows,                                  -- Instances written.
    round(avg(CAST(i.format_valid AS INTEGER)), 6) AS format_valid_share,  -- Share that passed the format gate.
    round(avg(CAST(i.kept AS INTEGER)), 6) AS kept_share,                  -- Share that may be learnt from.
    round(avg(i.naturalness) FILTER (WHERE i.format_valid), 6) AS mean_naturalness,  -- Mean naturalness.
    round(avg(i.coherence) FILTER (WHERE i.format_valid), 6) AS mean_coherence,      -- Mean coherence.
    round(avg(i.understandability) FILTER (WHERE i.format_valid), 6)
        AS mean_understandability,                     -- Mean understandability.
    round(avg(i.reward_model) FILTER (WHERE i.format_valid), 6) AS mean_reward_model,  -- Mean Bradley-Terry reward.
    round(avg(i.reward), 6) AS mean_reward,            -- Mean reward after the format gate.
    round(stddev_samp(i.reward), 6) AS reward_deviation  -- Standard deviation of the reward; null for a single row.
FROM instances AS i
LEFT JOIN staging.stg_rl_policy_checkpoint AS p ON p.policy = i.policy
GROUP BY i.stage, i.policy_round, i.policy
ORDER BY i.stage, i.policy_round, i.policy
