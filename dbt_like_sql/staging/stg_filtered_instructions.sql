-- The accepted instructions with their length and first word; the pool of every policy round, which
-- takes over the one before.
SELECT
    row_id,                                            -- The row's id. #unique #not_null
    instruction,                                       -- The instruction. #not_null
    policy_round,                                      -- Policy round whose pool the row is of, from 1. #not_null
    coalesce(accepted_in, 1) AS accepted_in,           -- Policy round that accepted it; earlier than `policy_round` where the pool took it over. #not_null
    method,                                            -- What proposed it. #not_null #accepted{self_instruct,teams_rl}
    slot,
    policy,
    nearest_score,
    len(regexp_extract_all(instruction, '\S+')) AS instruction_words,  -- Words of the instruction.
    lower(regexp_extract(instruction, '[[:alpha:]]+')) AS first_word   -- First word, lower case.
FROM main.filtered_instructions
