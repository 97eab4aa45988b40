-- The decision on every candidate instruction, sorted into kept, rejected and failed; of all policy
-- rounds.
SELECT
    row_id,                                            -- The row's id. #unique #not_null
    candidate_id,                                      -- Row of `raw_instructions` or `evolved_instructions`. #unique #not_null
    policy_round,                                      -- Policy round that it was made in, from 1. #not_null
    method,                                            -- What proposed the candidate. #not_null #accepted{self_instruct,teams_rl}
    slot,
    round,
    instruction,
    kept,
    rule,                                              -- `kept`, `unparsed`, or the rule that rejected it. #not_null
    CASE WHEN kept THEN 'kept' WHEN rule = 'unparsed' THEN 'failed' ELSE 'rejected' END
        AS outcome,                                    -- `failed` could not be parsed. #accepted{kept,rejected,failed}
    value,
    threshold,
    value - threshold AS margin,                       -- How far the measure lies above the threshold.
    nearest_asset,
    nearest_id,
    nearest_score
FROM main.instruction_decisions
