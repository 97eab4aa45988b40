-- How much the reward parts agree with each other, and what the reward follows in effect: Pearson
-- correlations over each policy's instances that passed the format gate, for every pair of parts and
-- for the reward with every part. Two parts at 1 are one opinion counted twice; a part at below 0 with
-- the reward is one that the reward works against.
WITH instances AS (
    SELECT
        'base policy' AS stage, policy_round, policy, row_id, reward, parts
    FROM staging.stg_base_scored_instructions
    WHERE format_valid
    UNION ALL
    SELECT
        'former policy', policy_round, policy, row_id, reward, parts
    FROM staging.stg_reward_scored_instructions
    WHERE format_valid AND policy_round > 1
    UNION ALL
    SELECT
        'refined policy', (SELECT max(policy_round) FROM staging.stg_filtered_instructions), policy,
        row_id, reward, parts
    FROM staging.stg_instance_decisions
    WHERE format_valid
), scores AS (
    SELECT stage, policy_round, policy, row_id, 0 AS place, 'reward' AS name, reward AS score
    FROM instances
    UNION ALL
    SELECT stage, policy_round, policy, row_id, 1, part.key, part.value
    FROM (SELECT *, unnest(map_entries(parts)) AS part FROM instances)
), correlated AS (
    SELECT
        a.stage,
        a.policy_round,
        a.policy,
        a.place,
        a.name AS first,
        b.name AS second,
        count(*) AS rows,
        corr(a.score, b.score) AS correlation
    FROM scores AS a
    JOIN scores AS b
        ON b.stage = a.stage AND b.row_id = a.row_id AND b.place = 1
        AND (a.place = 0 OR a.name < b.name)
    GROUP BY a.stage, a.policy_round, a.policy, a.place, a.name, b.name
)
SELECT
    stage,                                             -- Whose instances. #not_null #accepted{base policy,former policy,refined policy}
    policy_round,                                      -- Policy round whose pool the instances are for, from 1. #not_null
    policy,                                            -- The policy's fingerprint. #not_null
    first,                                             -- `reward` or a reward part. #not_null
    second,                                            -- A reward part. #not_null
    rows,                                              -- Instances that passed the format gate.
    round(CASE WHEN isfinite(correlation) THEN correlation END, 6)
        AS correlation                                 -- Null where one does not vary, or there is a single row.
FROM correlated
ORDER BY stage, policy_round, policy, place, first, second
