-- The policy that chooses the operations of TeaMs-RL, with the model calls of its training.
SELECT
    row_id,                                            -- The row's id. #unique #not_null
    algorithm,
    version,                                           -- The policy's content, which evolved rows name. #unique #not_null
    checkpoint_hash,
    observation,
    reward,
    seeds,
    updates,
    rewrite_calls,                                     -- Rewrites asked for in training. #not_null
    review_calls,                                      -- Reviews asked for in training. #not_null
    rewrite_calls + review_calls AS training_calls,    -- Both together.
    ended_by
FROM main.instructor_policy
