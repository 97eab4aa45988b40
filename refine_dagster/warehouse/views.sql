-- Views of row-level lineage, made again whenever they or the declared tables change.

-- Each row with each of its parents, ids as the tables have them.
CREATE OR REPLACE VIEW lineage.edges AS
SELECT
    table_name,
    policy_round,
    replace(CAST(row_id AS VARCHAR), '-', '') AS row_id,
    parent_table,
    parent_round,
    replace(CAST(parent_id AS VARCHAR), '-', '') AS parent_id,
    role
FROM lineage.parents;

-- Each row with everything that it descends from, at the length of the shortest way. A walk visits
-- each row once, however many ways lead to it. `WHERE row_id = '...'` starts one walk; without such
-- a filter every row starts its own. For rows chosen by a join, call the macro below beside them.
CREATE OR REPLACE VIEW lineage.ancestors AS
SELECT
    asked.table_name,
    asked.row_id,
    found.ancestor_table,
    replace(CAST(found.id AS VARCHAR), '-', '') AS ancestor_id,
    min(found.depth) AS depth
FROM lineage.rows AS asked, LATERAL (
    WITH RECURSIVE walk(ancestor_table, id, depth) USING KEY (id) AS (
        SELECT asked.table_name, CAST(asked.row_id AS UUID), 0
        UNION
        SELECT DISTINCT edge.parent_table, edge.parent_id, walk.depth + 1
        FROM walk JOIN lineage.parents AS edge ON edge.row_id = walk.id
        WHERE edge.parent_id NOT IN (SELECT id FROM recurring.walk)
    )
    SELECT ancestor_table, id, depth FROM walk WHERE depth > 0
) AS found
GROUP BY ALL;

-- Each row with everything that descends from it; likewise.
CREATE OR REPLACE VIEW lineage.descendants AS
SELECT
    asked.table_name,
    asked.row_id,
    found.descendant_table,
    replace(CAST(found.id AS VARCHAR), '-', '') AS descendant_id,
    min(found.depth) AS depth
FROM lineage.rows AS asked, LATERAL (
    WITH RECURSIVE walk(descendant_table, id, depth) USING KEY (id) AS (
        SELECT asked.table_name, CAST(asked.row_id AS UUID), 0
        UNION
        SELECT DISTINCT edge.table_name, edge.row_id, walk.depth + 1
        FROM walk JOIN lineage.parents AS edge ON edge.parent_id = walk.id
        WHERE edge.row_id NOT IN (SELECT id FROM recurring.walk)
    )
    SELECT descendant_table, id, depth FROM walk WHERE depth > 0
) AS found
GROUP BY ALL;

-- The same for given rows, and faster: FROM lineage.ancestors_of('0123...'), or
-- FROM main.instruction_dataset AS data, lineage.ancestors_of(data.row_id).
CREATE OR REPLACE MACRO lineage.ancestors_of(asked) AS TABLE
WITH RECURSIVE walk(ancestor_table, id, depth) USING KEY (id) AS (
    SELECT '', CAST(asked AS UUID), 0
    UNION
    SELECT DISTINCT edge.parent_table, edge.parent_id, walk.depth + 1
    FROM walk JOIN lineage.parents AS edge ON edge.row_id = walk.id
    WHERE edge.parent_id NOT IN (SELECT id FROM recurring.walk)
)
SELECT ancestor_table, replace(CAST(id AS VARCHAR), '-', '') AS ancestor_id, depth
FROM walk WHERE depth > 0;

CREATE OR REPLACE MACRO lineage.descendants_of(asked) AS TABLE
WITH RECURSIVE walk(descendant_table, id, depth) USING KEY (id) AS (
    SELECT '', CAST(asked AS UUID), 0
    UNION
    SELECT DISTINCT edge.table_name, edge.row_id, walk.depth + 1
    FROM walk JOIN lineage.parents AS edge ON edge.parent_id = walk.id
    WHERE edge.row_id NOT IN (SELECT id FROM recurring.walk)
)
SELECT descendant_table, replace(CAST(id AS VARCHAR), '-', '') AS descendant_id, depth
FROM walk WHERE depth > 0;
