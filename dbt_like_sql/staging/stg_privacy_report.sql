-- How well each attack tells what an arm was fine-tuned on, with its controls; refusals with reasons.
SELECT
    row_id,                                            -- The row's id. #unique #not_null
    arm,                                               -- Whose way of training is audited. #not_null #accepted{seeds_only,self_instruct,refine_af}
    control,                                           -- The audit itself, or which control. #not_null #accepted{none,base_model,bag_of_words,over_fitted}
    attack,                                            -- What was done. #not_null
    members,
    others,
    auc,
    auc_low,
    auc_high,
    advantage,
    auc_low > 0.5 OR auc_high < 0.5
        AS off_chance,                                 -- Whether the interval leaves out one half; null where refused.
    tpr_at_low_fpr,
    refusal
FROM main.privacy_report
