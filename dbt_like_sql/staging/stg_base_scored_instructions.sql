-- The base policy's instances of every policy round's pool, scored, sorted into kept, rejected and
-- failed. The Self-Instruct baseline learns from the kept ones of the last round.
WITH instances AS (
    -- The first round begins with the base policy.
    SELECT * EXCLUDE (parents) FROM main.reward_scored_instructions WHERE policy_round = 1
    UNION ALL
    SELECT * EXCLUDE (parents) FROM main.base_scored_instructions
)
SELECT
    row_id,                                            -- The row's id. #unique #not_null
    instruction_id,                                    -- Row of `filtered_instructions` that the instance is for. #not_null
    instruction,
    input,
    output,
    policy_round,                                      -- Policy round whose pool it is for, from 1. #not_null
    method,                                            -- What proposed the instruction. #not_null #accepted{self_instruct,teams_rl}
    policy,                                            -- Fingerprint of the policy that wrote the instance. #not_null
    completion_key,
    format_valid,
    format_problem,
    parts,
    reward,
    kept,
    rule,                                              -- `kept`, or the rule that rejected it. #not_null
    CASE WHEN kept THEN 'kept' WHEN NOT format_valid THEN 'failed' ELSE 'rejected' END
        AS outcome,                                    -- `failed` is an instance that did not pass the format gate. #accepted{kept,rejected,failed}
    value,
    threshold,
    input <> '' AS has_input,                          -- Whether the instance has an input.
    len(regexp_extract_all(instruction, '\S+')) AS instruction_words,  -- Words of the instruction.
    len(regexp_extract_all(input, '\S+')) AS input_words,              -- Words of the input.
    len(regexp_extract_all(output, '\S+')) AS output_words,            -- Words of the output.
    lower(regexp_extract(instruction, '[[:alpha:]]+')) AS first_word   -- First word, lower case.
FROM instances
