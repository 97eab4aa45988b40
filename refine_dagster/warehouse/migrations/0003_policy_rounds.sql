-- Tables and policy rounds apart, where table names told the round. Rows keep their order.
ALTER TABLE lineage.parents RENAME TO joined_parents;
CREATE TABLE lineage.parents (
    table_name VARCHAR NOT NULL,
    policy_round BIGINT NOT NULL,  -- 1 for tables that have no rounds
    row_id UUID NOT NULL,
    parent_table VARCHAR NOT NULL,
    parent_round BIGINT NOT NULL,
    parent_id UUID NOT NULL,
    role VARCHAR NOT NULL
);
INSERT INTO lineage.parents
SELECT
    regexp_replace(table_name, '_round_\d+$', ''),
    coalesce(TRY_CAST(regexp_extract(table_name, '_round_(\d+)$', 1) AS BIGINT), 1),
    row_id,
    regexp_replace(parent_table, '_round_\d+$', ''),
    coalesce(TRY_CAST(regexp_extract(parent_table, '_round_(\d+)$', 1) AS BIGINT), 1),
    parent_id,
    role
FROM lineage.joined_parents;
DROP TABLE lineage.joined_parents;
