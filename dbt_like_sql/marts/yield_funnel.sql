-- What became of everything that went into each stage of each policy round. The rows with outcome `in`
-- are counted in the table that the stage reads, all others in the table of its decisions, so that
-- in = kept + rejected + failed is a fact to be checked (`funnel_balance`) and not a definition.
WITH last_pool AS (
    SELECT max(policy_round) AS policy_round FROM staging.stg_filtered_instructions
),
counted AS (
    SELECT
        'instructions' AS stage, policy_round, method, round,
        'in' AS outcome, 'all' AS rule, count(*) AS rows
    FROM staging.stg_raw_instructions
    GROUP BY policy_round, method, round
    UNION ALL
    -- Seeds are evolved in the first round alone.
    SELECT 'instructions', 1, method, round, 'in', 'all', count(*)
    FROM staging.stg_evolved_instructions
    GROUP BY method, round
    UNION ALL
    SELECT 'instructions', policy_round, method, round, outcome, rule, count(*)
    FROM staging.stg_instruction_decisions
    GROUP BY policy_round, method, round, outcome, rule
    UNION ALL
    SELECT 'base policy instances', policy_round, method, NULL, 'in', 'all', count(*)
    FROM staging.stg_filtered_instructions
    GROUP BY policy_round, method
    UNION ALL
    SELECT 'base policy instances', policy_round, method, NULL, outcome, rule, count(*)
    FROM staging.stg_base_scored_instructions
    GROUP BY policy_round, method, outcome, rule
    UNION ALL
    -- In the first round the policy that it begins with is the base policy.
    SELECT 'former policy instances', policy_round, method, NULL, 'in', 'all', count(*)
    FROM staging.stg_filtered_instructions
    WHERE policy_round > 1
    GROUP BY policy_round, method
    UNION ALL
    SELECT 'former policy instances', policy_round, method, NULL, outcome, rule, count(*)
    FROM staging.stg_reward_scored_instructions
    WHERE policy_round > 1
    GROUP BY policy_round, method, outcome, rule
    UNION ALL
    SELECT 'refined policy instances', policy_round, method, NULL, 'in', 'all', count(*)
    FROM staging.stg_filtered_instructions
    WHERE policy_round = (SELECT policy_round FROM last_pool)
    GROUP BY policy_round, method
    UNION ALL
    SELECT 'refined policy instances', f.policy_round, i.method, NULL, i.outcome, i.rule, count(*)
    FROM staging.stg_instance_decisions AS i
    LEFT JOIN staging.stg_filtered_instructions AS f ON f.row_id = i.instruction_id
    GROUP BY f.policy_round, i.method, i.outcome, i.rule
)
SELECT
    stage,                                             -- What is decided on. #not_null #accepted{instructions,base policy instances,former policy instances,refined policy instances}
    policy_round,                                      -- Policy round, from 1. #not_null
    method,                                            -- What proposed the instruction. #not_null #accepted{self_instruct,teams_rl}
    round,                                             -- Round of the loop, from 0, or place in the evolution, from 1; null where a stage has neither.
    outcome,                                           -- `in`, or what became of it. #not_null #accepted{in,kept,rejected,failed}
    rule,                                              -- The rule that decided; `all` for `in`. #not_null
    rows                                               -- Number of rows. #not_null
FROM counted
ORDER BY
    list_position(
        ['instructions', 'base policy instances', 'former policy instances', 'refined policy instances'],
        stage
    ),
    policy_round, method, round, list_position(['in', 'kept', 'rejected', 'failed'], outcome), rule
