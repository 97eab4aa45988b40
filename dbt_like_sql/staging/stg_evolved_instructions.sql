-- What the instructor's operations made of seeds, one row per operation, with the words added.
SELECT
    row_id,                                            -- The row's id. #unique #not_null
    method,                                            -- `teams_rl`. #not_null #accepted{teams_rl}
    slot,                                              -- The candidate's slot. #unique #not_null
    round,
    seed_id,                                           -- The seed that the evolution began at. #not_null
    operation,                                         -- The operation. #not_null
    parent_instruction,
    instruction,
    valid,
    rule,                                              -- `kept`, or the rule that eliminated it. #not_null
    value,
    threshold,
    different,
    completion_key,                                    -- The rewrite in `store.completions`. #not_null
    review_keys,
    len(review_keys) AS reviews,                       -- Reviews asked for.
    policy,
    instructor,
    len(regexp_extract_all(instruction, '\S+')) - len(regexp_extract_all(parent_instruction, '\S+'))
        AS words_added                                 -- Words of it less words of what it was made from.
FROM main.evolved_instructions
