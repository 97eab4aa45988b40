-- Whether each stage's funnel adds up: per policy round, method and round of the
-- loop or place in the evolution, in = kept + rejected + failed.
SELECT
    stage,                                             -- What is decided on. #not_null
    policy_round,                                      -- Policy round, from 1. #not_null
    method,                                            -- What proposed the instruction. #not_null
    round,                                             -- Round of the loop, from 0, or place in the evolution, from 1; null where a stage has neither.
    coalesce(sum(rows) FILTER (WHERE outcome = 'in'), 0)::BIGINT AS rows_in,         -- Rows that the stage read.
    coalesce(sum(rows) FILTER (WHERE outcome = 'kept'), 0)::BIGINT AS kept,          -- Rows that went on.
    coalesce(sum(rows) FILTER (WHERE outcome = 'rejected'), 0)::BIGINT AS rejected,  -- Rows that a rule stopped.
    coalesce(sum(rows) FILTER (WHERE outcome = 'failed'), 0)::BIGINT AS failed,      -- Rows that could not be read.
    round(coalesce(sum(rows) FILTER (WHERE outcome = 'kept'), 0)
        / nullif(sum(rows) FILTER (WHERE outcome = 'in'), 0), 6) AS kept_share,      -- Kept over in.
    (coalesce(sum(rows) FILTER (WHERE outcome = 'in'), 0)
        - coalesce(sum(rows) FILTER (WHERE outcome <> 'in'), 0))::BIGINT
        AS unaccounted                                 -- In less everything decided. #not_null #accepted{0}
FROM marts.yield_funnel
GROUP BY stage, policy_round, method, round
ORDER BY stage, policy_round, method, round
