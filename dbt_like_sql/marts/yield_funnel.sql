-- What became of everything that went into each stage. The rows with outcome `in` are counted in the
-- table that the stage reads, all others in the table of its decisions, so that
-- in = kept + rejected + failed is a fact to be checked (`funnel_balance`) and not a definition.
WITH counted AS (
    SELECT
        'instructions' AS stage, method, round, 'in' AS outcome, 'all' AS rule, count(*) AS rows
    FROM staging.stg_raw_instructions
    GROUP BY method, round
    UNION ALL
    SELECT 'instructions', method, round, outcome, rule, count(*)
    FROM staging.stg_instruction_decisions
    GROUP BY method, round, outcome, rule
    UNION ALL
    SELECT 'base policy instances', method, NULL, 'in', 'all', count(*)
    FROM staging.stg_filtered_instructions
    GROUP BY method
    UNION ALL
    SELECT 'base policy instances', method, NULL, outcome, rule, count(*)
    FROM staging.stg_reward_scored_instructions
    GROUP BY method, outcome, rule
    UNION ALL
    SELECT 'refined policy instances', method, NULL, 'in', 'all', count(*)
    FROM staging.stg_filtered_instructions
    GROUP BY method
    UNION ALL
    SELECT 'refined policy instances', method, NULL, outcome, rule, count(*)
    FROM staging.stg_instance_decisions
    GROUP BY method, outcome, rule
)
SELECT
    stage,                                             -- What is decided on. #not_null #accepted{instructions,base policy instances,refined policy instances}
    method,                                            -- What proposed the instruction. #not_null #accepted{self_instruct,teams_rl}
    round,                                             -- Round of the loop, from 0; null where a stage has no rounds.
    outcome,                                           -- `in`, or what became of it. #not_null #accepted{in,kept,rejected,failed}
    rule,                                              -- The rule that decided; `all` for `in`. #not_null
    rows                                               -- Number of rows. #not_null
FROM counted
ORDER BY
    list_position(['instructions', 'base policy instances', 'refined policy instances'], stage),
    method, round, list_position(['in', 'kept', 'rejected', 'failed'], outcome), rule
