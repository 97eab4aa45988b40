-- What TeaMs-RL's rows of the dataset cost in model calls, by role, with and without the instructor's
-- training. Every call beside those of the training is named by the row that asked for it and must be
-- in the completions store. Answers are those of the base policy and of the refined one.
WITH named AS (
    SELECT 'execute' AS role, completion_key FROM staging.stg_evolved_instructions
    UNION ALL
    SELECT 'review', unnest(review_keys) FROM staging.stg_evolved_instructions
    UNION ALL
    SELECT 'respond', completion_key FROM staging.stg_base_scored_instructions
    WHERE method = 'teams_rl' AND policy_round = 1
    UNION ALL
    SELECT 'respond', completion_key FROM staging.stg_instance_decisions
    WHERE method = 'teams_rl'
),
generation AS (
    SELECT
        n.role, count(*) AS asked, count(DISTINCT n.completion_key) AS requests,
        count(DISTINCT n.completion_key) FILTER (WHERE s.completion_key IS NULL) AS not_stored
    FROM named AS n
    LEFT JOIN staging.stg_completions AS s ON s.completion_key = n.completion_key
    GROUP BY n.role
),
training AS (
    SELECT 'execute' AS role, rewrite_calls AS asked FROM staging.stg_instructor_policy
    UNION ALL
    SELECT 'review', review_calls FROM staging.stg_instructor_policy
),
kept AS (
    SELECT count(*) AS rows FROM staging.stg_instruction_dataset WHERE method = 'teams_rl'
),
roles AS (
    SELECT role FROM generation UNION SELECT role FROM training
)
SELECT
    r.role,                                            -- What the calls were for. #unique #not_null #accepted{execute,review,respond}
    coalesce(t.asked, 0)::BIGINT AS training_calls,    -- Calls that the instructor's training asked for.
    coalesce(g.asked, 0)::BIGINT AS calls,             -- Calls that evolution and answers asked for.
    coalesce(g.requests, 0)::BIGINT AS requests,       -- Different ones of those; a repeated one is sent once.
    coalesce(g.not_stored, 0)::BIGINT AS not_stored,   -- Of those, how many the completions store lacks. #not_null #accepted{0}
    k.rows AS kept_rows,                               -- TeaMs-RL's rows of the dataset.
    round(coalesce(g.asked, 0) / nullif(k.rows, 0), 3) AS calls_per_kept_row,  -- Without training; null where none was kept.
    round((coalesce(g.asked, 0) + coalesce(t.asked, 0)) / nullif(k.rows, 0), 3)
        AS calls_per_kept_row_with_training            -- With training; null likewise.
FROM roles AS r
LEFT JOIN generation AS g ON g.role = r.role
LEFT JOIN training AS t ON t.role = r.role
CROSS JOIN kept AS k
ORDER BY r.role
