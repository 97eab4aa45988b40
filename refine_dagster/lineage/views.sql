-- Views of row-level lineage, made anew whenever they or the declared tables change.

-- Each row with each of its parents, ids as the tables have them.
CREATE OR REPLACE VIEW lineage.edges AS
SELECT
    table_name,
    replace(CAST(row_id AS VARCHAR), '-', '') AS row_id,
    parent_table,
    replace(CAST(parent_id AS VARCHAR), '-', '') AS parent_id,
    role
FROM lineage.parents;
