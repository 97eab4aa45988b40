-- The edges of row-level lineage: one row for each parent of each row of the dataset tables.
WITH rows_and_parents AS (
    SELECT 'base_model' AS table_name, row_id, unnest(parents) AS parent FROM main.base_model
    UNION ALL
    SELECT 'feedback_judge' AS table_name, row_id, unnest(parents) AS parent FROM main.feedback_judge
    UNION ALL
    SELECT 'raw_instructions' AS table_name, row_id, unnest(parents) AS parent FROM main.raw_instructions
    UNION ALL
    SELECT 'instruction_decisions' AS table_name, row_id, unnest(parents) AS parent FROM main.instruction_decisions
    UNION ALL
    SELECT 'filtered_instructions' AS table_name, row_id, unnest(parents) AS parent FROM main.filtered_instructions
    UNION ALL
    SELECT 'reward_scored_instructions' AS table_name, row_id, unnest(parents) AS parent FROM main.reward_scored_instructions
    UNION ALL
    SELECT 'rl_policy_checkpoint' AS table_name, row_id, unnest(parents) AS parent FROM main.rl_policy_checkpoint
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
