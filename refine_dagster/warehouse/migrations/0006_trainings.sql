-- Finished trainings: which checkpoint a manifest has, from the moment that its folder is in place.
-- Those that a materialization used are in lineage.checkpoints, too, which the ledger covers.
CREATE TABLE store.trainings (
    asset VARCHAR NOT NULL,
    manifest_hash VARCHAR NOT NULL,
    content_hash VARCHAR NOT NULL,
    PRIMARY KEY (asset, manifest_hash)
);
INSERT INTO store.trainings
SELECT asset, manifest_hash, arg_max(content_hash, sequence)
FROM lineage.checkpoints GROUP BY asset, manifest_hash ORDER BY ALL;
