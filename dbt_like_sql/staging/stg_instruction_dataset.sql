-- The instruction dataset with lengths in words and first words.
SELECT
    row_id,                                            -- The row's id. #unique #not_null
    instruction_id,                                    -- Row of `filtered_instructions` that the instance is for. #not_null
    instruction,                                       -- The instruction. #not_null
    input,
    output,
    method,                                            -- What proposed the instruction. #not_null #accepted{self_instruct,teams_rl}
    policy,
    completion_key,
    parts,
    reward,
    input <> '' AS has_input,                          -- Whether the instance has an input.
    len(regexp_extract_all(instruction, '\S+')) AS instruction_words,  -- Words of the instruction.
    len(regexp_extract_all(input, '\S+')) AS input_words,              -- Words of the input.
    len(regexp_extract_all(output, '\S+')) AS output_words,            -- Words of the output.
    lower(regexp_extract(instruction, '[[:alpha:]]+')) AS first_word   -- First word, lower case.
FROM main.instruction_dataset
