-- Each arm's score on each held-out task, beside the untrained base model's on the same task.
SELECT
    row_id,                                            -- The row's id. #unique #not_null
    arm,                                               -- Who answered. #not_null #accepted{base,seeds_only,self_instruct,refine_af}
    task,                                              -- Name of the task file. #not_null
    category,
    instances,
    rouge_l,
    exact_match,
    rouge_l - max(rouge_l) FILTER (WHERE arm = 'base') OVER (PARTITION BY task)
        AS rouge_l_over_base                           -- ROUGE-L above the base arm's, points of 100.
FROM main.evaluation_report
