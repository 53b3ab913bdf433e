-- Dead letters are bounded in bytes, in all and for each owner: see
-- ingest/src/dead_letters/store.rs.

ALTER TABLE dead_letters
    -- Whose share it takes: the tenant whose event or job it is, or nobody ('').
    ADD COLUMN owner        text NOT NULL DEFAULT '',
    -- What it counts as.
    ADD COLUMN bytes        integer NOT NULL DEFAULT 0,
    -- What the body was, if only its beginning was kept.
    ADD COLUMN whole_size   integer,
    ADD COLUMN whole_sha256 bytea CHECK (length(whole_sha256) = 32),
    ADD CHECK ((whole_size IS NULL) = (whole_sha256 IS NULL));

UPDATE dead_letters d SET
    owner = COALESCE((SELECT t.id FROM tenants t WHERE t.id = d.tenant), ''),
    bytes = 2048 + length(reason) + length(exchange) + length(routing_key)
            + length(properties) + length(body);
CREATE INDEX dead_letters_by_owner ON dead_letters (owner, id);

-- What each owner has. Every transaction that adds or deletes dead letters counts
-- them here, so that neither the bound nor the metric needs a scan.
CREATE TABLE dead_letter_use (
    owner           text PRIMARY KEY,
    letters         bigint NOT NULL CHECK (letters >= 0),
    bytes           bigint NOT NULL CHECK (bytes >= 0)
);
INSERT INTO dead_letter_use (owner, letters, bytes)
    SELECT owner, count(*), sum(bytes) FROM dead_letters GROUP BY owner;
DROP TABLE dead_letter_count;
