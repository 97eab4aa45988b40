-- What the models were asked and what it took, by role and model. It is counted in the completions
-- store alone, which a run with nothing new to ask leaves as it is.
SELECT
    role,                                              -- What the calls were for. #not_null
    model,                                             -- The backend's fingerprint. #not_null
    count(*) AS requests,                              -- Requests sent, each counted once for ever.
    sum(prompt_tokens)::BIGINT AS prompt_tokens,       -- Tokens of their prompts.
    sum(completion_tokens)::BIGINT AS completion_tokens,  -- Tokens decoded.
    round(sum(seconds), 3) AS seconds,                 -- Seconds that the backend took.
    round(sum(completion_tokens) / nullif(sum(seconds), 0), 1) AS tokens_per_second,  -- Decoded tokens a second.
    count(*) FILTER (WHERE finish_reason = 'stop') AS ended_by_stop_string,  -- Completions that a stop string ended.
    count(*) FILTER (WHERE finish_reason = 'eos') AS ended_by_end_token,     -- Completions that the model ended.
    count(*) FILTER (WHERE finish_reason = 'length') AS cut_off,             -- Completions cut off at the length limit.
    count(*) FILTER (WHERE finish_reason = 'scored') AS scored               -- Requests whose labels were scored: nothing was written.
FROM staging.stg_completions
GROUP BY role, model
ORDER BY role, model
