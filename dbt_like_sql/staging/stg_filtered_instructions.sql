-- The accepted instructions with their length and first word.
SELECT
    row_id,                                            -- The row's id. #unique #not_null
    instruction,                                       -- The instruction. #not_null
    method,                                            -- What proposed it. #not_null #accepted{self_instruct,teams_rl}
    slot,
    policy,
    nearest_score,
    len(regexp_extract_all(instruction, '\S+')) AS instruction_words,  -- Words of the instruction.
    lower(regexp_extract(instruction, '[[:alpha:]]+')) AS first_word   -- First word, lower case.
FROM main.filtered_instructions
