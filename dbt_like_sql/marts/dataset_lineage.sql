-- Where each row of the instruction dataset comes from: the policy that wrote the instance, the judge
-- that scored it, the accepted instruction, the candidate that it was accepted from, and the seeds
-- and machine-written instructions that were shown when candidate and instance were written; of an
-- evolved candidate, the operation, the seed that it began at and the evolved row it was applied to.
WITH candidates AS (
    SELECT row_id, method, slot, policy_round, round, policy, CAST(NULL AS VARCHAR) AS operation
    FROM staging.stg_raw_instructions
    UNION ALL
    SELECT row_id, method, slot, CAST(1 AS BIGINT), round, policy, operation
    FROM staging.stg_evolved_instructions
),
judges AS (
    SELECT e.row_id, min(j.row_id) AS judge_id, min(j.fingerprint) AS judge
    FROM staging.stg_parents AS e
    JOIN main.feedback_judge AS j ON e.parent_asset = 'feedback_judge' AND j.row_id = e.parent_id
    GROUP BY e.row_id
),
policies AS (
    SELECT e.row_id, min(p.row_id) AS policy_id, min(j.judge_id) AS judge_id, min(j.judge) AS judge
    FROM staging.stg_parents AS e
    JOIN staging.stg_rl_policy_checkpoint AS p
        ON p.row_id = e.parent_id
    LEFT JOIN judges AS j ON j.row_id = p.row_id
    GROUP BY e.row_id
),
seeds AS (
    SELECT e.row_id, list(DISTINCT s.seed_id ORDER BY s.seed_id) AS shown
    FROM staging.stg_parents AS e
    JOIN staging.stg_seed_tasks AS s ON e.parent_asset = 'seed_tasks' AND s.row_id = e.parent_id
    WHERE e.table_name IN ('raw_instructions', 'instruction_dataset')
    GROUP BY e.row_id
    UNION ALL
    SELECT row_id, [seed_id] FROM staging.stg_evolved_instructions
),
machine AS (
    SELECT e.row_id, list(DISTINCT e.parent_id ORDER BY e.parent_id) AS shown
    FROM staging.stg_parents AS e
    WHERE e.parent_asset <> 'seed_tasks' AND (
        (e.table_name = 'raw_instructions' AND e.role = 'demonstration')
        OR (e.table_name = 'evolved_instructions' AND e.role = 'evolved')
    )
    GROUP BY e.row_id
)
SELECT
    d.row_id,                                          -- Row of `instruction_dataset`. #unique #not_null
    d.instruction_id,                                  -- Row of `filtered_instructions`. #not_null
    d.instruction,                                     -- The instruction.
    d.method,                                          -- What proposed it.
    r.row_id AS candidate_id,                          -- Row of `raw_instructions` or `evolved_instructions`. #not_null
    r.slot,                                            -- The candidate's slot: round/request/position, or evolved/round/seed.
    r.policy_round,                                    -- The policy round in which it was proposed.
    r.round,                                           -- The round of that loop, or the place in the evolution.
    r.operation,                                       -- The operation that made it; null where none did.
    r.policy AS proposed_by,                           -- Fingerprint of the model that proposed it.
    d.policy,                                          -- Fingerprint of the policy that wrote the instance.
    p.policy_id,                                       -- Row of `rl_policy_checkpoint`; null where the base policy wrote it.
    coalesce(own.judge_id, p.judge_id) AS judge_id,    -- Row of `feedback_judge` that scored it or taught its policy.
    coalesce(own.judge, p.judge) AS judge,             -- That judge's fingerprint.
    coalesce(s.shown, CAST([] AS VARCHAR[])) AS seeds_shown,  -- Ids of the seeds in the prompt that led to the candidate; of an evolved one, the seed it began at.
    len(coalesce(s.shown, CAST([] AS VARCHAR[]))) AS seeds_shown_count,  -- How many.
    coalesce(m.shown, CAST([] AS VARCHAR[])) AS machine_shown,  -- Machine-written instructions in that prompt: rows of the round's candidates, of the former pool, or the evolved one before.
    len(coalesce(m.shown, CAST([] AS VARCHAR[]))) AS machine_shown_count,  -- How many.
    coalesce(i.shown, CAST([] AS VARCHAR[])) AS instance_seeds_shown  -- Ids of the seeds in the prompt that led to the instance.
FROM staging.stg_instruction_dataset AS d
LEFT JOIN staging.stg_filtered_instructions AS f ON f.row_id = d.instruction_id
LEFT JOIN candidates AS r ON r.method = f.method AND r.slot = f.slot
LEFT JOIN policies AS p ON p.row_id = d.row_id
LEFT JOIN judges AS own ON own.row_id = d.row_id
LEFT JOIN seeds AS s ON s.row_id = r.row_id
LEFT JOIN seeds AS i ON i.row_id = d.row_id
LEFT JOIN machine AS m ON m.row_id = r.row_id
ORDER BY d.row_id
