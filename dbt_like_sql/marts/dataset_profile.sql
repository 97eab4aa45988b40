-- Size, lengths and variety of the seeds, of the base policy's kept instances of the last pool and of
-- the instruction dataset, side by side; one row per source and method.
WITH instances AS (
    SELECT
        'seed_tasks' AS source, 'seeds' AS method, instruction, first_word, has_input,
        instruction_words, input_words, output_words, CAST(NULL AS DOUBLE) AS reward
    FROM staging.stg_seed_tasks
    UNION ALL
    SELECT
        'reward_scored_instructions', method, instruction, first_word, has_input,
        instruction_words, input_words, output_words, reward
    FROM staging.stg_base_scored_instructions
    WHERE kept AND policy_round = (SELECT max(policy_round) FROM staging.stg_filtered_instructions)
    UNION ALL
    SELECT
        'instruction_dataset', method, instruction, first_word, has_input,
        instruction_words, input_words, output_words, reward
    FROM staging.stg_instruction_dataset
)
SELECT
    source,                                            -- The table profiled. #not_null #accepted{seed_tasks,reward_scored_instructions,instruction_dataset}
    method,                                            -- What proposed the instructions; `seeds` for the seed tasks. #not_null
    count(*) AS rows,                                  -- Instances.
    count(DISTINCT instruction) AS instructions,       -- Distinct instructions.
    count(DISTINCT first_word) AS first_words,         -- Distinct first words: how many ways an instruction begins.
    round(avg(CAST(has_input AS INTEGER)), 6) AS input_share,          -- Share of instances with an input.
    round(avg(instruction_words), 6) AS mean_instruction_words,        -- Mean words of the instruction.
    round(avg(input_words) FILTER (WHERE has_input), 6) AS mean_input_words,  -- Mean words of the input, where there is one.
    round(avg(output_words), 6) AS mean_output_words,  -- Mean words of the output.
    round(avg(reward), 6) AS mean_reward,              -- Mean reward; null for the seeds, which are not scored.
    round(quantile_cont(reward, 0.1), 6) AS reward_p10,  -- Tenth percentile of the reward.
    round(quantile_cont(reward, 0.5), 6) AS reward_p50,  -- Median reward.
    round(quantile_cont(reward, 0.9), 6) AS reward_p90   -- Ninetieth percentile of the reward.
FROM instances
GROUP BY source, method
ORDER BY
    list_position(['seed_tasks', 'reward_scored_instructions', 'instruction_dataset'], source),
    method
