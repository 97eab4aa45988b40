-- The warehouse's fixed tables. History tables and live views follow warehouse/tables.py.
CREATE SCHEMA history;
CREATE SCHEMA lineage;
CREATE SCHEMA store;

-- The declarations of `warehouse/tables.py` that the history tables and views were last made from.
CREATE TABLE lineage.declarations (fingerprint VARCHAR NOT NULL);

-- One row per materialization of an asset, append-only. `digest` is the sha256 of the row, of what
-- is attached to it in the tables below, and of the previous digest: the rows form a hash chain.
CREATE TABLE lineage.materializations (
    sequence BIGINT PRIMARY KEY,
    run_id VARCHAR NOT NULL,
    asset VARCHAR NOT NULL,
    data_version VARCHAR NOT NULL,
    code_version VARCHAR NOT NULL,
    config_hash VARCHAR NOT NULL,
    rows_total BIGINT NOT NULL,
    rows_added BIGINT NOT NULL,
    rows_removed BIGINT NOT NULL,
    rows_reused BIGINT NOT NULL,
    requests_asked BIGINT NOT NULL,
    requests_reused BIGINT NOT NULL,
    requests_sent BIGINT NOT NULL,
    tables VARCHAR NOT NULL,       -- JSON: table -> content hash
    completions VARCHAR NOT NULL,  -- sha256 over the completions used, text included
    metrics VARCHAR NOT NULL,      -- JSON
    device VARCHAR NOT NULL,       -- JSON
    started_at VARCHAR NOT NULL,   -- ISO 8601, UTC
    finished_at VARCHAR NOT NULL,
    previous_digest VARCHAR NOT NULL,
    digest VARCHAR NOT NULL
);

-- The upstream data versions that a materialization was computed from.
CREATE TABLE lineage.inputs (
    sequence BIGINT NOT NULL,
    asset VARCHAR NOT NULL,
    data_version VARCHAR NOT NULL
);

-- Knobs and salt behind each config hash.
CREATE TABLE lineage.configs (
    config_hash VARCHAR PRIMARY KEY,
    config VARCHAR NOT NULL        -- JSON
);

-- What each row was made from, one row for each parent. A row's id is the hash of its content and
-- of its parents' ids, so this holds for ever; ids are those of the tables, as 128-bit numbers.
CREATE TABLE lineage.parents (
    table_name VARCHAR NOT NULL,
    row_id UUID NOT NULL,
    parent_table VARCHAR NOT NULL,
    parent_id UUID NOT NULL,
    role VARCHAR NOT NULL
);

-- Requests of a materialization by role.
CREATE TABLE lineage.requests (
    sequence BIGINT NOT NULL,
    role VARCHAR NOT NULL,
    asked BIGINT NOT NULL,
    reused BIGINT NOT NULL,
    sent BIGINT NOT NULL,
    prompt_tokens BIGINT NOT NULL,
    completion_tokens BIGINT NOT NULL,
    seconds DOUBLE NOT NULL
);

-- The completions that a materialization used, and whether it was the one to send them.
CREATE TABLE lineage.uses (
    sequence BIGINT NOT NULL,
    key VARCHAR NOT NULL,
    sent BOOLEAN NOT NULL
);

-- Folders under the artifact root, named by the hash of their content.
CREATE TABLE lineage.checkpoints (
    asset VARCHAR NOT NULL,
    content_hash VARCHAR NOT NULL,
    manifest_hash VARCHAR NOT NULL,
    manifest VARCHAR NOT NULL,     -- JSON: what the checkpoint is a function of
    path VARCHAR NOT NULL,         -- relative to the artifact root
    files STRUCT(path VARCHAR, sha256 VARCHAR)[] NOT NULL,
    sequence BIGINT NOT NULL
);

-- Every model call ever made, by the key that names it.
CREATE TABLE store.completions (
    key VARCHAR PRIMARY KEY,
    role VARCHAR NOT NULL,
    model VARCHAR NOT NULL,        -- the backend's fingerprint
    prompt VARCHAR NOT NULL,
    sampling VARCHAR NOT NULL,     -- JSON
    seed BIGINT NOT NULL,
    text VARCHAR NOT NULL,
    finish_reason VARCHAR NOT NULL,
    prompt_tokens BIGINT NOT NULL,
    completion_tokens BIGINT NOT NULL,
    seconds DOUBLE NOT NULL,       -- the batch's seconds, shared equally
    run_id VARCHAR NOT NULL
);
