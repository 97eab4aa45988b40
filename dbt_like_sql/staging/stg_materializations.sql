-- The states that each asset with rows of its own has been in: of the materializations that led to
-- the same data by the same code and configuration, the first. A run in which nothing changed adds
-- no row here, though it does add to `lineage.materializations`; nor do SQL models or a prune.
SELECT
    sequence,                                          -- Place in the ledger, from 1. #unique #not_null
    asset,                                             -- The asset. #not_null
    run_id,                                            -- The Dagster run.
    data_version,                                      -- Hash of the asset's live content.
    code_version,                                      -- Version of the code that made it.
    config_hash,                                       -- Hash of the configuration that matters.
    rows_total,                                        -- Live rows afterwards.
    rows_added,                                        -- Rows that it added.
    rows_removed,                                      -- Rows that it removed.
    rows_reused,                                       -- Rows that stayed.
    requests_asked,                                    -- Completions asked for.
    requests_reused,                                   -- Of these, answered from the store.
    requests_sent,                                     -- Of these, sent to a model.
    started_at,                                        -- ISO 8601, UTC.
    finished_at,                                       -- ISO 8601, UTC.
    round(epoch(CAST(finished_at AS TIMESTAMPTZ)) - epoch(CAST(started_at AS TIMESTAMPTZ)), 3)
        AS seconds,                                    -- Wall time from start to commit.
    digest                                             -- Hash of this row and of the one before it.
FROM lineage.materializations
-- SQL models, this one among them, are recorded under qualified names, and a prune has no table.
WHERE regexp_matches(tables, '^\{"[a-z0-9_]+"')
QUALIFY row_number() OVER (
    PARTITION BY asset, data_version, code_version, config_hash ORDER BY sequence
) = 1
