-- Candidate instructions as parsed from completions, with those that could not be parsed; of all
-- policy rounds.
SELECT
    row_id,                                            -- The row's id. #unique #not_null
    policy_round,                                      -- Policy round that it was made in, from 1. #not_null
    method,                                            -- What proposed the candidate. #not_null #accepted{self_instruct,teams_rl}
    slot,
    round,
    request,
    position,
    instruction,
    parsed,
    parse_problem,
    completion_key,
    policy,
    len(regexp_extract_all(instruction, '\S+')) AS instruction_words,  -- Words of the candidate.
    len(list_filter(parents, lambda parent: parent.asset = 'seed_tasks'))
        AS seeds_shown                                 -- Seeds shown in the prompt that led to it.
FROM main.raw_instructions
