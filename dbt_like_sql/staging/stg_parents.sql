-- The edges of row-level lineage: one row for each parent of each row of the dataset tables.
WITH rows_and_parents AS (
    SELECT 'base_model' AS table_name, row_id, unnest(parents) AS parent FROM main.base_model
    UNION ALL
    SELECT 'feedback_judge', row_id, unnest(parents) FROM main.feedback_judge
    UNION ALL
    SELECT 'instructor_policy', row_id, unnest(parents) FROM main.instructor_policy
    UNION ALL
    SELECT 'evolved_instructions', row_id, unnest(parents) FROM main.evolved_instructions
    UNION ALL
    SELECT 'raw_instructions', row_id, unnest(parents) FROM main.raw_instructions
    UNION ALL
    SELECT 'instruction_decisions', row_id, unnest(parents) FROM main.instruction_decisions
    UNION ALL
    SELECT 'filtered_instructions', row_id, unnest(parents) FROM main.filtered_instructions
    UNION ALL
    SELECT 'policy_start', row_id, unnest(parents) FROM main.policy_start
    UNION ALL
    SELECT 'reward_scored_instructions', row_id, unnest(parents) FROM main.reward_scored_instructions
    UNION ALL
    SELECT 'base_scored_instructions', row_id, unnest(parents) FROM main.base_scored_instructions
    UNION ALL
    SELECT 'rl_policy_checkpoint', row_id, unnest(parents) FROM main.rl_policy_checkpoint
    UNION ALL
    SELECT 'rl_policy_checkpoint_pairs', row_id, unnest(parents) FROM main.rl_policy_checkpoint_pairs
    UNION ALL
    SELECT 'instance_decisions', row_id, unnest(parents) FROM main.instance_decisions
    UNION ALL
    SELECT 'instruction_dataset', row_id, unnest(parents) FROM main.instruction_dataset
)
SELECT
    table_name,                                        -- Table of the row. #not_null
    row_id,                                            -- The row. #not_null
    parent.asset AS parent_asset,                      -- Asset of the row that it was made from. #not_null
    parent.row_id AS parent_id,                        -- That row. #not_null
    parent.role AS role                                -- What it was used as.
FROM rows_and_parents
