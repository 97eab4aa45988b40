-- The edges of row-level lineage: one row for each parent of each row of the dataset tables, those of
-- all policy rounds included.
WITH rows_of_rounds AS (
    SELECT 'raw_instructions' AS kind, policy_round, row_id, parents FROM rounds.raw_instructions
    UNION ALL
    SELECT 'instruction_decisions', policy_round, row_id, parents FROM rounds.instruction_decisions
    UNION ALL
    SELECT 'filtered_instructions', policy_round, row_id, parents FROM rounds.filtered_instructions
    UNION ALL
    SELECT 'reward_scored_instructions', policy_round, row_id, parents FROM rounds.reward_scored_instructions
    UNION ALL
    -- In the first round they are the rows above.
    SELECT 'base_scored_instructions', policy_round, row_id, parents FROM rounds.base_scored_instructions
    WHERE policy_round > 1
    UNION ALL
    SELECT 'rl_policy_checkpoint', policy_round, row_id, parents FROM rounds.rl_policy_checkpoint
),
rows_and_parents AS (
    SELECT 'base_model' AS table_name, row_id, unnest(parents) AS parent FROM main.base_model
    UNION ALL
    SELECT 'instructor_policy' AS table_name, row_id, unnest(parents) AS parent FROM main.instructor_policy
    UNION ALL
    SELECT 'evolved_instructions' AS table_name, row_id, unnest(parents) AS parent FROM main.evolved_instructions
    UNION ALL
    SELECT 'feedback_judge' AS table_name, row_id, unnest(parents) AS parent FROM main.feedback_judge
    UNION ALL
    SELECT
        kind || CASE WHEN policy_round > 1 THEN '_round_' || policy_round ELSE '' END AS table_name,
        row_id, unnest(parents) AS parent
    FROM rows_of_rounds
    UNION ALL
    SELECT 'instance_decisions' AS table_name, row_id, unnest(parents) AS parent FROM main.instance_decisions
    UNION ALL
    SELECT 'instruction_dataset' AS table_name, row_id, unnest(parents) AS parent FROM main.instruction_dataset
)
SELECT
    table_name,                                        -- Table of the row. #not_null
    row_id,                                            -- The row. #not_null
    parent.asset AS parent_asset,                      -- Asset of the row that it was made from. #not_null
    parent.row_id AS parent_id,                        -- That row. #not_null
    parent.role AS role                                -- What it was used as.
FROM rows_and_parents
