-- How much the judge's four parts agree with each other, and what the reward follows in effect: Pearson
-- correlations over each policy's instances that passed the format gate. Two parts at 1 are one opinion
-- counted twice; a part at below 0 with the reward is one that the reward works against. Null where a
-- column does not vary, or there is a single row.
WITH instances AS (
    SELECT
        'base policy' AS stage, policy_round, policy,
        reward, naturalness, coherence, understandability, reward_model
    FROM staging.stg_base_scored_instructions
    WHERE format_valid
    UNION ALL
    SELECT
        'former policy', policy_round, policy,
        reward, naturalness, coherence, understandability, reward_model
    FROM staging.stg_reward_scored_instructions
    WHERE format_valid AND policy_round > 1
    UNION ALL
    SELECT
        'refined policy', (SELECT max(policy_round) FROM staging.stg_filtered_instructions), policy,
        reward, naturalness, coherence, understandability, reward_model
    FROM staging.stg_instance_decisions
    WHERE format_valid
), correlated AS (
    SELECT
        stage,
        policy_round,
        policy,
        count(*) AS rows,
        corr(naturalness, understandability) AS naturalness_understandability,
        corr(naturalness, coherence) AS naturalness_coherence,
        corr(naturalness, reward_model) AS naturalness_reward_model,
        corr(coherence, understandability) AS coherence_understandability,
        corr(coherence, reward_model) AS coherence_reward_model,
        corr(understandability, reward_model) AS understandability_reward_model,
        corr(reward, naturalness) AS reward_naturalness,
        corr(reward, coherence) AS reward_coherence,
        corr(reward, understandability) AS reward_understandability,
        corr(reward, reward_model) AS reward_reward_model
    FROM instances
    GROUP BY stage, policy_round, policy
)
SELECT
    stage,                                             -- Whose instances. #not_null #accepted{base policy,former policy,refined policy}
    policy_round,                                      -- Policy round whose pool the instances are for, from 1. #not_null
    policy,                                            -- The policy's fingerprint. #not_null
    rows,                                              -- Instances that passed the format gate.
    round(CASE WHEN isfinite(naturalness_understandability) THEN naturalness_understandability END, 6)
        AS naturalness_understandability,              -- Naturalness with understandability.
    round(CASE WHEN isfinite(naturalness_coherence) THEN naturalness_coherence END, 6)
        AS naturalness_coherence,                      -- Naturalness with coherence.
    round(CASE WHEN isfinite(naturalness_reward_model) THEN naturalness_reward_model END, 6)
        AS naturalness_reward_model,                   -- Naturalness with the Bradley-Terry reward.
    round(CASE WHEN isfinite(coherence_understandability) THEN coherence_understandability END, 6)
        AS coherence_understandability,                -- Coherence with understandability.
    round(CASE WHEN isfinite(coherence_reward_model) THEN coherence_reward_model END, 6)
        AS coherence_reward_model,                     -- Coherence with the Bradley-Terry reward.
    round(CASE WHEN isfinite(understandability_reward_model) THEN understandability_reward_model END, 6)
        AS understandability_reward_model,             -- Understandability with the Bradley-Terry reward.
    round(CASE WHEN isfinite(reward_naturalness) THEN reward_naturalness END, 6)
        AS reward_naturalness,                         -- The reward with naturalness.
    round(CASE WHEN isfinite(reward_coherence) THEN reward_coherence END, 6)
        AS reward_coherence,                           -- The reward with coherence.
    round(CASE WHEN isfinite(reward_understandability) THEN reward_understandability END, 6)
        AS reward_understandability,                   -- The reward with understandability.
    round(CASE WHEN isfinite(reward_reward_model) THEN reward_reward_model END, 6)
        AS reward_reward_model                         -- The reward with the Bradley-Terry reward.
FROM correlated
ORDER BY stage, policy_round, policy
