-- What each use said of its completion when it was recorded: a changed completion is named by its
-- key, and the record still adds up after the completion was pruned.
ALTER TABLE lineage.uses ADD COLUMN digest VARCHAR;
UPDATE lineage.uses AS used
SET digest = sha256(used.sent || CAST(to_json(completion) AS VARCHAR))
FROM store.completions AS completion
WHERE completion.key = used.key;
