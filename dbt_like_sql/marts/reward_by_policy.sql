-- How each policy's instances were rewarded: the base policy's beside the refined policy's, on the
-- same accepted instructions; of several policy rounds, the base policy's and the former policy's on
-- each round's pool, the refined policy's on the last. Means of the parts are over the instances
-- that passed the format gate; the mean reward is over all of them.
WITH instances AS (
    SELECT
        'base policy' AS stage, policy_round, policy, format_valid, kept, reward, parts
    FROM staging.stg_base_scored_instructions
    UNION ALL
    SELECT
        'former policy', policy_round, policy, format_valid, kept, reward, parts
    FROM staging.stg_reward_scored_instructions
    WHERE policy_round > 1
    UNION ALL
    SELECT
        'refined policy', (SELECT max(policy_round) FROM staging.stg_filtered_instructions),
        policy, format_valid, kept, reward, parts
    FROM staging.stg_instance_decisions
), scores AS (
    SELECT stage, policy_round, policy, unnest(map_entries(parts)) AS part
    FROM instances
    WHERE format_valid
), part_means AS (
    SELECT stage, policy_round, policy, part.key AS name, round(avg(part.value), 6) AS mean
    FROM scores
    GROUP BY stage, policy_round, policy, part.key
), means AS (
    SELECT
        stage, policy_round, policy,
        map(list(name ORDER BY name), list(mean ORDER BY name)) AS mean_parts
    FROM part_means
    GROUP BY stage, policy_round, policy
)
SELECT
    i.stage,                                           -- `base policy`, `former policy` or `refined policy`. #not_null
    i.policy_round,                                    -- Policy round whose pool the instances are for, from 1. #not_null
    i.policy,                                          -- The policy's fingerprint. #not_null
    coalesce(any_value(p.algorithm), 'none') AS algorithm,  -- How it was trained; `none` for the base policy.
    count(*) AS rows,                                  -- Instances written.
    round(avg(CAST(i.format_valid AS INTEGER)), 6) AS format_valid_share,  -- Share that passed the format gate.
    round(avg(CAST(i.kept AS INTEGER)), 6) AS kept_share,                  -- Share that may be learnt from.
    any_value(m.mean_parts) AS mean_parts,             -- Reward part -> mean; null where no instance passed the gate.
    round(avg(i.reward), 6) AS mean_reward,            -- Mean reward after the format gate.
    round(stddev_samp(i.reward), 6) AS reward_deviation  -- Standard deviation of the reward; null for a single row.
FROM instances AS i
LEFT JOIN staging.stg_rl_policy_checkpoint AS p ON p.policy = i.policy
LEFT JOIN means AS m
    ON m.stage = i.stage AND m.policy_round = i.policy_round AND m.policy = i.policy
GROUP BY i.stage, i.policy_round, i.policy
ORDER BY i.stage, i.policy_round, i.policy
