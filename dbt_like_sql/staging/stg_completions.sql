-- Every model call in the completions store, with its length in characters and its speed.
SELECT
    key AS completion_key,                             -- Names the request: model, prompt, sampling and seed. #unique #not_null
    role,                                              -- What the call was for. #not_null #accepted{propose,instance,rewrite,review,respond,judge}
    model,                                             -- The backend's fingerprint. #not_null
    seed,                                              -- Source of the request's sampling noise.
    text,                                              -- The completion.
    finish_reason,                                     -- Why it ended: a stop string, the end token, the length limit, labels were scored, or a server refused. #accepted{stop,eos,length,scored,refused}
    prompt_tokens,                                     -- Length of the prompt in tokens.
    completion_tokens,                                 -- Tokens decoded.
    seconds,                                           -- The batch's seconds, shared equally.
    completion_tokens / nullif(seconds, 0) AS tokens_per_second,  -- Decoded tokens a second; null where no time was measured.
    len(prompt) AS prompt_characters,                  -- Length of the prompt in characters.
    run_id                                             -- The run that sent it.
FROM store.completions
