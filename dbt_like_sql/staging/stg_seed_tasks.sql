-- The seed tasks with their lengths in words and whether they need an input.
SELECT
    row_id,                                            -- The row's id. #unique #not_null
    seed_id,                                           -- The id given in the seed file. #unique #not_null
    name,
    instruction,
    input,
    output,
    is_classification,
    len(instances) AS instances,                       -- Number of instances in the seed file.
    input <> '' AS has_input,                          -- Whether the first instance has an input.
    len(regexp_extract_all(instruction, '\S+')) AS instruction_words,  -- Words of the instruction.
    len(regexp_extract_all(input, '\S+')) AS input_words,              -- Words of the input.
    len(regexp_extract_all(output, '\S+')) AS output_words,            -- Words of the output.
    lower(regexp_extract(instruction, '[[:alpha:]]+')) AS first_word   -- First word, lower case.
FROM main.seed_tasks
